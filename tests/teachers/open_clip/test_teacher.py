"""`OpenClipTeacher` against open_clip's own road: its transform, its tokenizer, its weights loading."""

import hashlib
import math
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.core.clip.model import build_clip
from distill.core.clip.tokenizer import ByteTokenizer, tokenizer_of
from distill.core.errors import DistillError
from teachers.load import load_teacher, resolve_teacher
from teachers.open_clip.teacher import OpenClipTeacher

CAPTIONS = ["a red ball", "two dogs on a beach, one of them asleep under a very large striped umbrella by the sea"]


def reference(open_clip: Any, name: str, file: Path, picture: Any) -> tuple[Any, torch.Tensor, torch.Tensor]:
    model, _, transform = open_clip.create_model_and_transforms(name, pretrained=str(file))
    with torch.no_grad():
        model.eval()
        image = model.encode_image(transform(picture).unsqueeze(0), normalize=True)
        text = model.encode_text(open_clip.get_tokenizer(name)(CAPTIONS), normalize=True)
    return model, image, text


@pytest.mark.parametrize("kind", ["tiny", "tiny_sigmoid"])
def test_same_embeddings_as_open_clip(
    kind: str, open_clip: Any, picture: Any, pixels: torch.Tensor, request: pytest.FixtureRequest
) -> None:
    name, file = request.getfixturevalue(kind)
    teacher = load_teacher(f"open_clip:{name}@{file}")
    model, image, text = reference(open_clip, name, file, picture)
    torch.testing.assert_close(teacher.encode_image(pixels), image, atol=1e-5, rtol=0)
    torch.testing.assert_close(teacher.encode_text(CAPTIONS), text, atol=1e-5, rtol=0)
    assert teacher.logit_scale == pytest.approx(float(model.logit_scale.detach().exp()))
    assert teacher.logit_bias == (pytest.approx(-7.5) if kind == "tiny_sigmoid" else 0.0)
    assert teacher.spec.kind == ("sigmoid" if kind == "tiny_sigmoid" else "softmax")


def test_a_larger_image_is_resized_as_pillow_does(
    tiny: tuple[str, Path], open_clip: Any, picture: Any, pixels: torch.Tensor
) -> None:
    """Bicubic with antialias; Pillow rounds to 8 bits on the way, so the agreement is close, not exact."""
    from PIL import Image

    name, file = tiny
    large = picture.resize((200, 200), Image.Resampling.BICUBIC)
    tensor = torch.tensor(list(large.tobytes()), dtype=torch.float32).view(1, 200, 200, 3).permute(0, 3, 1, 2) / 255
    _, image, _ = reference(open_clip, name, file, large)
    embedding = load_teacher(f"open_clip:{name}@{file}").encode_image(tensor)
    assert float((embedding * image).sum()) > 0.9995
    wrong = load_teacher(f"open_clip:{name}@{file}").encode_image(tensor.flip(1))
    assert float((wrong * image).sum()) < 0.9995


def test_embeddings_are_unit_float32_and_without_gradient(tiny: tuple[str, Path]) -> None:
    teacher = load_teacher(f"open_clip:{tiny[0]}@{tiny[1]}")
    for embedding in (teacher.encode_image(torch.rand(3, 3, 17, 40)), teacher.encode_text(CAPTIONS)):
        assert embedding.dtype == torch.float32
        assert not embedding.requires_grad
        torch.testing.assert_close(embedding.norm(dim=-1), torch.ones(len(embedding)))
        (torch.ones(24, requires_grad=True) * embedding).sum().backward()  # no inference tensor that autograd refuses


def test_weights_of_a_tag_come_from_the_named_folder(
    tiny: tuple[str, Path], open_clip: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: torch.Tensor
) -> None:
    name, file = tiny
    entry = {"hf_hub": "lab/tiny/", "mean": (0.0, 0.1, 0.2), "std": (1.0, 0.9, 0.8), "interpolation": "bilinear"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, {"lab": entry})
    (tmp_path / "lab--tiny").mkdir()
    os.link(file, tmp_path / "lab--tiny" / "open_clip_model.safetensors")
    monkeypatch.setenv("DISTILL_WEIGHTS", str(tmp_path))
    teacher = load_teacher(f"open_clip:{name}/lab")
    facts: Any = teacher.describe()
    assert facts["preprocess"] == {
        "size": 32,
        "mean": (0.0, 0.1, 0.2),
        "std": (1.0, 0.9, 0.8),
        "interpolation": "bilinear",
    }
    assert len(facts["weights_sha256"]) == 64
    assert facts["rehearsal"] is False
    assert isinstance(teacher, OpenClipTeacher)
    ready = (pixels - torch.tensor([0.0, 0.1, 0.2]).view(3, 1, 1)) / torch.tensor([1.0, 0.9, 0.8]).view(3, 1, 1)
    with torch.no_grad():
        expected = teacher.model.encode_image(ready, normalize=True)
    torch.testing.assert_close(teacher.encode_image(pixels), expected)


def test_a_checkpoint_of_another_model_is_refused(tiny: tuple[str, Path], tiny_sigmoid: tuple[str, Path]) -> None:
    with pytest.raises(DistillError, match="cannot be loaded as distill-tiny for"):
        load_teacher(f"open_clip:{tiny[0]}@{tiny_sigmoid[1]}")


def test_checkpoints_of_training_programs_are_read_and_misfits_named(tiny: tuple[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    state = load_file(tiny[1])
    torch.save({"state_dict": {f"module._orig_mod.{n}": v for n, v in state.items()}, "epoch": 1}, tmp_path / "last.pt")
    teacher: Any = load_teacher(f"open_clip:{tiny[0]}@{tmp_path / 'last.pt'}")
    assert all(torch.equal(value, state[name]) for name, value in teacher.model.state_dict().items())
    torch.save({"state_dict": {f"clip.{n}": v for n, v in state.items()}}, tmp_path / "owned.pt")
    owned: Any = load_teacher(
        f"open_clip:{tiny[0]}@{tmp_path / 'owned.pt'}"
    )  # all names share it: one model, one object
    assert all(torch.equal(value, state[name]) for name, value in owned.model.state_dict().items())
    beside = {"ema.decay": torch.zeros(1), **{f"clip.{n}": v for n, v in state.items()}}
    torch.save({"state_dict": beside}, tmp_path / "prefix.pt")
    torch.save({n: v for n, v in state.items() if n.startswith("visual.")}, tmp_path / "half.pt")
    wide = {n: torch.zeros(*v.shape[:-1], v.shape[-1] + 1) if v.ndim > 1 else v for n, v in state.items()}
    torch.save(wide, tmp_path / "wide.pt")
    torch.save(
        {f"vision_model.{n}": v for n, v in state.items()} | {"text_model.x": state["logit_scale"]}, tmp_path / "hf.pt"
    )
    for name, words in {
        "prefix": r"prefix\.pt cannot be loaded as distill-tiny for teacher .* the prefix 'clip\.'",
        "half": "names agree. Missing",
        "wide": "have other shapes",
        "hf": "prefix 'vision_model.'",
    }.items():
        with pytest.raises(DistillError, match=words):
            load_teacher(f"open_clip:{tiny[0]}@{tmp_path / name}.pt")


def test_a_damaged_checkpoint_is_refused(tiny: tuple[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "half.safetensors"
    file.write_bytes(tiny[1].read_bytes()[:5000])
    with pytest.raises(DistillError, match=r"half\.safetensors"):
        load_teacher(f"open_clip:{tiny[0]}@{file}")


class _Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.path),)


def test_pickled_code_is_not_run(tiny: tuple[str, Path], tmp_path: Path) -> None:
    torch.save({"state_dict": _Trap(str(tmp_path / "sprung"))}, tmp_path / "evil.pt")
    with pytest.raises(DistillError, match="more than tensors"):
        load_teacher(f"open_clip:{tiny[0]}@{tmp_path / 'evil.pt'}")
    assert not (tmp_path / "sprung").exists()


def test_rehearsal_is_full_size_and_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any) -> None:
        raise AssertionError("a rehearsal reached for the network")

    monkeypatch.setattr(socket.socket, "connect", forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    teacher = load_teacher("siglip-b16", random_weights=True, seed=1)
    assert isinstance(teacher, OpenClipTeacher)
    image, text = teacher.encode_image(torch.rand(2, 3, 64, 64)), teacher.encode_text(CAPTIONS)
    assert image.shape == text.shape == (2, 768)
    assert image.isfinite().all()
    assert text.isfinite().all()
    assert teacher.weights_sha256 == "random"
    facts = teacher.describe()
    assert facts["rehearsal"] is True
    assert "stand-in" in str(facts["tokenizer"])
    parameters = list(teacher.model.parameters())
    assert sum(parameter.numel() for parameter in parameters) == 203_155_970
    assert all(math.isfinite(float(parameter.sum())) for parameter in parameters)


def test_rehearsal_depends_on_the_seed_alone(tiny: tuple[str, Path], pixels: torch.Tensor) -> None:
    name = f"open_clip:{tiny[0]}@{tiny[1]}"
    before = torch.random.get_rng_state()
    first = load_teacher(name, random_weights=True, seed=1).encode_image(pixels)
    torch.rand(5)
    again = load_teacher(name, random_weights=True, seed=1).encode_image(pixels)
    other = load_teacher(name, random_weights=True, seed=2).encode_image(pixels)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    torch.random.set_rng_state(before)


def test_byte_tokenizer() -> None:
    tokens = ByteTokenizer(8, 300)(["ab", "", "a longer caption"])
    assert tokens.shape == (3, 8)
    assert tokens[0].tolist() == [99, 100, 0, 0, 0, 0, 0, 0]
    assert int(tokens.max()) < 300


def test_a_hub_tokenizer_is_found_like_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_clip: Any) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path / "lab--words"
    folder.mkdir()
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "a": 2, "cat": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "unk_token": "<unk>"}'
    )
    config = {"text_cfg": {"context_length": 5, "hf_tokenizer_name": "lab/words"}}
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DistillError, match=r"tokenizer\.json of lab/words"):
        tokenizer_of(config, stand_in=False, what="the tokenizer")
    monkeypatch.setenv("DISTILL_WEIGHTS", str(tmp_path))
    tokenizer, name = tokenizer_of(config, stand_in=False, what="the tokenizer")
    assert name == "lab/words"
    assert tokenizer(["a cat", "a dog"]).tolist() == [[2, 3, 0, 0, 0], [2, 1, 0, 0, 0]]


def test_missing_weights_refuse_before_the_model_is_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("teachers.open_clip.model.build_clip", lambda *_, **__: pytest.fail("built for nothing"))
    with pytest.raises(DistillError, match=r"the weights of teacher 'dfn-vitl14'.*apple/DFN2B-CLIP-ViT-L-14"):
        load_teacher(resolve_teacher("dfn-vitl14"))


def test_what_is_inheritable_builds_the_same_model(tiny: tuple[str, Path], pixels: torch.Tensor) -> None:
    teacher: Any = load_teacher(f"open_clip:{tiny[0]}@{tiny[1]}")
    weights = teacher.inheritable()
    twin: Any = build_clip(weights.model_cfg, seed=9).eval()
    twin.load_state_dict(weights.state)
    normal = (pixels - torch.tensor(teacher.preprocess.mean).view(3, 1, 1)) / torch.tensor(teacher.preprocess.std).view(
        3, 1, 1
    )
    with torch.no_grad():
        torch.testing.assert_close(teacher.encode_image(pixels), twin.encode_image(normal, normalize=True))
    assert (weights.name, weights.vocabulary) == (teacher.spec.name, "clip-bpe")
    assert weights.sha256 == hashlib.sha256(tiny[1].read_bytes()).hexdigest()
    total = sum(parameter.numel() for parameter in twin.parameters())
    assert sum(teacher.parameters.values()) == total - 1  # all but the logit scale


def test_a_teacher_moves_as_a_whole(tiny: tuple[str, Path]) -> None:
    teacher = load_teacher(f"open_clip:{tiny[0]}@{tiny[1]}")
    assert teacher.device.type == "cpu"
    assert teacher.to("meta") is teacher
    assert teacher.device.type == "meta"


def test_inheritance_sees_the_activation_of_the_weights_themselves():
    """ViT-B-16 is a GELU model by its name; its openai weights were trained with QuickGELU, which the tag says."""
    from students.inherit.planning import make_plan
    from students.spec import STUDENTS

    quick = load_teacher("open_clip:ViT-B-16/openai", random_weights=True)
    source = quick.inheritable()
    activation = type(quick.model.visual.transformer.resblocks[0].mlp.gelu).__name__
    assert (activation, source.model_cfg.get("quick_gelu")) == ("QuickGELU", True)
    student = STUDENTS.get("tinyclip-vit8m16").model_cfg
    assert not student.get("quick_gelu")
    plan = make_plan(source, student, "front", source.vocabulary)
    assert [facts["activation"] for facts in plan.across.values()] == ["quick_gelu in the source, gelu here"] * 2
    plain = load_teacher("open_clip:ViT-B-16/laion2b_s34b_b88k", random_weights=True).inheritable()
    assert not plain.model_cfg.get("quick_gelu")
    same = make_plan(plain, student, "front", plain.vocabulary)
    assert (set(same.towers), same.across) == ({"visual", "text"}, {})
