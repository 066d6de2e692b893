"""The files of the frozen towers inside their PyPI packages, and the modules that are built from them.

Nothing is unpickled beyond tensors, and neither package is imported. Left out: what the towers are for
(`teachers.towers.teacher`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from distill.core.errors import DistillError
from distill.core.packages import files
from distill.core.packages.files import LITE0, MINILM, MINILM_REPOSITORY, MINILM_WEIGHTS
from distill.core.torch_compat import ensure_torchvision, quiet_import

__all__ = [
    "LITE0", "MAX_TOKENS", "MINILM", "MINILM_REPOSITORY", "MINILM_WEIGHTS", "lite0", "minilm", "package_file",
    "require", "timm_names", "word_pieces",
]  # fmt: skip
NEEDS = "The teacher sail-lite0-minilm"
TEXT_WIDTH = 384
MAX_TOKENS = 128
_STAGES = (1, 2, 2, 3, 3, 4, 1)  # blocks per stage of EfficientNet-B0, whose depths Lite0 keeps


def package_file(package: str, inside: str) -> Path:
    """The path of a file or folder inside an installed package, found without importing the package."""
    return files.package_file(package, inside, what=NEEDS)


def require(package: str) -> None:
    """Raise DistillError with the command to install `package` when it is not there."""
    files.require(package, what=NEEDS)


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


def lite0(file: Path | None = None) -> Any:
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
    model.to(memory_format=torch.channels_last)
    return model.eval().requires_grad_(False)


def minilm(folder: Path | None = None) -> Any:
    """BertModel of MiniLM's shape, with its weights when `folder` is given."""
    import torch

    with quiet_import():
        from transformers import BertConfig, BertModel

    if folder is None:
        config = BertConfig(
            hidden_size=TEXT_WIDTH, num_hidden_layers=6, num_attention_heads=12, intermediate_size=4 * TEXT_WIDTH
        )
        return BertModel(config, add_pooling_layer=False).eval().requires_grad_(False)
    from safetensors.torch import load_file

    model = BertModel(BertConfig.from_json_file(str(folder / "config.json")), add_pooling_layer=False)
    state = load_file(folder / MINILM_WEIGHTS)
    wanted = model.state_dict()
    # The pooler is not used by this sentence model; position_ids are a constant that old versions saved.
    extra = {key for key in state if key.startswith("pooler.") or key.endswith("position_ids")}
    missing = wanted.keys() - state.keys()
    if missing or state.keys() - wanted.keys() - extra:
        raise DistillError(f"{folder / MINILM_WEIGHTS} is not all-MiniLM-L6-v2 (missing {sorted(missing)[:3]}).")
    with torch.no_grad():
        model.load_state_dict({key: value.float() for key, value in state.items() if key in wanted}, strict=True)
    return model.eval().requires_grad_(False)


def word_pieces(file: Path) -> Any:
    """MiniLM's tokenizer, cutting at `MAX_TOKENS`, not padding."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.no_padding()
    return tokenizer
