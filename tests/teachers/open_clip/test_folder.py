"""`load_folder` against open_clip's own "local-dir:" loading of the same folder."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.core.errors import DistillError
from teachers.load import load_teacher, resolve_teacher
from teachers.open_clip.folder import folder_spec, load_folder

CAPTIONS = ["a red ball", "blue"]


@pytest.fixture
def folder(tmp_path: Path, tiny: tuple[str, Path], tiny_config: dict[str, Any]) -> Path:
    """The shared format: fp16 on disk, mean and std of its own, a card."""
    from safetensors.torch import load_file, save_file

    path = tmp_path / "teacher"
    path.mkdir()
    save_file(
        {k: v.half() if v.is_floating_point() else v for k, v in load_file(tiny[1]).items()}, path / "model.safetensors"
    )
    preprocess = {
        "size": [32, 32],
        "mean": [0.1, 0.2, 0.3],
        "std": [0.9, 0.8, 0.7],
        "interpolation": "bilinear",
        "resize_mode": "shortest",
    }
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": tiny_config, "preprocess_cfg": preprocess}))
    (path / "card.json").write_text(json.dumps({"name": "small", "licence": "MIT", "kind": "softmax"}))
    return path


def test_same_outputs_as_open_clip(folder: Path, open_clip: Any, picture: Any, pixels: torch.Tensor) -> None:
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(CAPTIONS)
    with torch.no_grad():
        image = model.eval().encode_image(transform(picture).unsqueeze(0), normalize=True)
        text = model.encode_text(tokens, normalize=True)
    teacher = load_teacher(str(folder))
    torch.testing.assert_close(teacher.encode_image(pixels), image, atol=1e-6, rtol=0)
    torch.testing.assert_close(teacher.encode_text(CAPTIONS), text, atol=1e-6, rtol=0)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_facts_come_from_the_folder(folder: Path) -> None:
    spec = resolve_teacher(str(folder))
    assert (spec.name, spec.licence, spec.width, spec.image_size, spec.loader) == ("small", "MIT", 24, 32, "folder")
    (folder / "card.json").unlink()
    assert folder_spec(folder).name == "teacher"
    assert "unknown" in folder_spec(folder).licence


def test_describe_has_what_a_manifest_needs(folder: Path) -> None:
    facts: Any = load_teacher(str(folder)).describe()
    json.dumps(facts)
    assert facts["spec"]["name"] == "small"
    assert facts["preprocess"]["mean"] == (0.1, 0.2, 0.3)
    assert facts["context_length"] == 16
    assert facts["logit_scale"] == pytest.approx(1 / 0.07, rel=1e-3)


def test_own_merges_are_used(folder: Path, open_clip: Any) -> None:
    import gzip

    with gzip.open(open_clip.tokenizer.default_bpe()) as file:
        lines = file.read().decode().split("\n")[:201]
    with gzip.open(folder / "bpe_merges.txt.gz", "wb") as file:
        file.write("\n".join(lines).encode())
    teacher = load_folder(folder)
    assert teacher.tokenizer.vocab_size == 512 + 200 + 2
    assert "bpe_merges" in str(teacher.describe()["tokenizer"])
    reference = open_clip.tokenizer.SimpleTokenizer(bpe_path=str(folder / "bpe_merges.txt.gz"), context_length=16)
    assert torch.equal(teacher.tokenizer(CAPTIONS), reference(CAPTIONS))


def test_rehearsal_reads_no_weights(folder: Path, pixels: torch.Tensor) -> None:
    (folder / "model.safetensors").unlink()
    teacher = load_teacher(str(folder), random_weights=True)
    assert teacher.weights_sha256 == "random"
    assert teacher.encode_image(pixels).shape == (1, 24)


def test_a_repository_copied_from_the_hub_is_read(folder: Path, pixels: torch.Tensor) -> None:
    own = load_teacher(str(folder)).encode_image(pixels)
    shutil.move(folder / "model.safetensors", folder / "open_clip_model.safetensors")
    (folder / "card.json").unlink()
    torch.testing.assert_close(load_teacher(str(folder)).encode_image(pixels), own)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("model.safetensors", b"\x10\x00\x00", "model.safetensors"),
        ("model.safetensors", None, "There is no"),
        ("open_clip_config.json", b"{", "cannot be read as JSON"),
        ("open_clip_config.json", b"{}", "no model_cfg"),
        ("open_clip_config.json", b'{"model_cfg": {"embed_dim": 4}}', "lacks"),
        ("card.json", b'{"kind": "softmin"}', "softmin"),
        ("bpe_merges.txt.gz", b"plain", "not a gzipped merges file"),
    ],
)
def test_damaged_folders_name_the_file(folder: Path, file: str, content: bytes | None, words: str) -> None:
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(DistillError, match=words):
        load_teacher(str(folder))
