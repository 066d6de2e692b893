"""Weights files as people have them: what training programs put around a model, and what each misfit is called."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from distill.core.clip.checkpoint import load_weights, misfit, plain_names, read_checkpoint
from distill.core.errors import DistillError


class Tower(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.visual = nn.Sequential(nn.Linear(3, width), nn.Linear(width, 2))
        self.text = nn.Linear(5, 2)


def model_and_state() -> tuple[Tower, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    return Tower(), Tower().state_dict()


def renamed(state: dict[str, torch.Tensor], change: Any) -> dict[str, torch.Tensor]:
    return {change(name): value for name, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3, "optimizer": {"state": {}}},
        lambda s: {"model": {"state_dict": s}, "args": {"lr": 0.1}},
        lambda s: {"pytorch-lightning_version": "2", "state_dict": renamed(s, "module.{}".format), "loops": {}},
        lambda s: renamed(s, "module.module.{}".format),
        lambda s: renamed(s, "_orig_mod.module.{}".format),
        lambda s: renamed(s, "module._orig_mod.{}".format),
        lambda s: renamed(s, lambda name: name.replace("visual.", "visual._orig_mod.")),
        lambda s: renamed(s, "_forward_module._fsdp_wrapped_module.{}".format),
        lambda s: {"n_averaged": torch.tensor(7)} | renamed(s, "module.{}".format),
    ],
)
def test_wrappers_are_taken_off(tmp_path: Path, wrap: Any) -> None:
    model, state = model_and_state()
    file = tmp_path / "last.ckpt"
    torch.save(wrap(state), file)
    load_weights(model, read_checkpoint(file), path=file, what="the tower")
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_real_wrappers_give_the_names_back() -> None:
    """Against the modules that put the segments in."""
    model, state = model_and_state()
    averaged = torch.optim.swa_utils.AveragedModel(model).state_dict()
    assert plain_names(averaged, Path("x")).keys() == state.keys()
    compiled = torch.compile(nn.DataParallel(model), backend="eager").state_dict()
    assert any("_orig_mod" in name for name in compiled)
    assert plain_names(compiled, Path("x")).keys() == state.keys()


@pytest.mark.parametrize("length", [0x480, 0x4B50, 0x3C20])
def test_a_header_whose_length_looks_like_another_kind_of_file(tmp_path: Path, length: int) -> None:
    """The first bytes of a safetensors file are its header's length: here "\\x80" of a pickle, "PK" of a zip, " <" of a web page."""
    file = tmp_path / "model.safetensors"
    save_file({"weight": torch.ones(3)}, file, metadata={"filler": ""})
    own = int.from_bytes(file.read_bytes()[:8], "little")
    text = file.read_bytes()[8 : 8 + own].rstrip()
    save_file({"weight": torch.ones(3)}, file, metadata={"filler": "x" * (length - len(text) - 4)})
    assert int.from_bytes(file.read_bytes()[:8], "little") == length
    assert torch.equal(read_checkpoint(file)["weight"], torch.ones(3))


def test_the_content_decides_how_a_file_is_read(tmp_path: Path) -> None:
    _, state = model_and_state()
    save_file(state, tmp_path / "weights.pt")
    torch.save(state, tmp_path / "weights.safetensors")
    torch.save(state, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    for name in ("weights.pt", "weights.safetensors", "old.bin"):
        assert read_checkpoint(tmp_path / name).keys() == state.keys()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (LFS, "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\n <html>", "web page"),
        (b"", "damaged, cut short"),
        (b"\x00" * 100, "damaged, cut short"),
        (b"PK\x03\x04" + b"\x00" * 100, "damaged or cut short"),
        (b"\x80\x02", "damaged or cut short|more than tensors"),
    ],
)
def test_what_is_no_weights_file_is_called_what_it_is(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(DistillError, match=words) as caught:
        read_checkpoint(tmp_path / "w.pt")
    assert "w.pt" in str(caught.value)


def test_a_cut_file_and_none_at_all(tmp_path: Path) -> None:
    _, state = model_and_state()
    for name, write in {"a.safetensors": save_file, "a.pt": torch.save}.items():
        write(state, tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(DistillError, match="cut short"):
            read_checkpoint(tmp_path / name)
    with pytest.raises(DistillError, match="No such file"):
        read_checkpoint(tmp_path / "none.pt")
    with pytest.raises(DistillError, match="directory"):
        read_checkpoint(tmp_path)


def test_pickled_objects_are_refused_by_name(tmp_path: Path) -> None:
    model, state = model_and_state()
    torch.save({"state_dict": state, "hyper_parameters": argparse.Namespace(lr=1)}, tmp_path / "lightning.ckpt")
    with pytest.raises(DistillError, match=r"more than tensors \(an object of argparse\.Namespace\).*\.safetensors"):
        read_checkpoint(tmp_path / "lightning.ckpt")
    torch.save(model, tmp_path / "whole.pt")
    with pytest.raises(DistillError, match=r"an object of .*Tower"):
        read_checkpoint(tmp_path / "whole.pt")
    with pytest.warns(DeprecationWarning, match="jit"):
        torch.jit.save(torch.jit.script(nn.Linear(1, 1)), tmp_path / "jit.pt")
    with pytest.raises(DistillError, match="TorchScript"):
        read_checkpoint(tmp_path / "jit.pt")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"epoch": 1, "optimizer": {"lr": 1}}, "no model's weights. Its keys: 'epoch', 'optimizer'"),
        ([torch.zeros(1)], "a list"),
        (torch.zeros(1), "a Tensor"),
        ({}, "Its keys: none"),
    ],
)
def test_a_file_without_a_model_says_what_it_has(tmp_path: Path, value: Any, words: str) -> None:
    torch.save(value, tmp_path / "w.pt")
    with pytest.raises(DistillError, match=words):
        read_checkpoint(tmp_path / "w.pt")


def test_two_models_under_one_name_are_not_mixed() -> None:
    _, state = model_and_state()
    with pytest.raises(DistillError, match="twice"):
        plain_names(state | renamed(state, "module.{}".format), Path("x"))


WANT = {f"visual.trunk.stages.{i}.conv_kxk.0.conv.weight": (4, 4) for i in range(6)}
WANT |= {"visual.trunk.head.weight": (8, 4), "text.token_embedding.weight": (100, 8), "logit_scale": ()}


def test_equal_names_and_shapes_fit() -> None:
    assert misfit(WANT, dict(reversed(WANT.items()))) == ""


@pytest.mark.parametrize(
    ("have", "words"),
    [
        ({f"clip.{name}": s for name, s in WANT.items()}, "carry the prefix 'clip.'"),
        ({f"model.clip.{name}": s for name, s in WANT.items()} | {"criterion.weight": (2,)}, "the prefix 'model.clip.'"),
        (
            {f"{owner}.{name}": s for owner in ("student", "teacher") for name, s in WANT.items()},
            "the prefix 'student.' and 'teacher.'.* 2 such models; choose one",
        ),
        ({name.removeprefix("visual.trunk."): s for name, s in WANT.items() if "trunk" in name}, "those of 'visual.trunk'"),
        ({name.replace("conv_kxk.0.conv", "reparam_conv"): s for name, s in WANT.items()}, "already reparameterized"),
        ({"vision_model.post_layernorm.weight": (4,), "text_model.final.weight": (4,)}, "transformers package"),
        ({"image_encoder.model.stem.weight": (4,), "text_encoder.x": (4,)}, "Apple's ml-mobileclip"),
        (WANT | {"visual.trunk.head.weight": (16, 4)}, r"1 of 9 tensors have other shapes.*\[16, 4\] in the file, \[8, 4\]"),
        (
            {name: (*s[:-1], 9) if i % 2 else s for i, (name, s) in enumerate(WANT.items()) if s},
            r"4 of 9 tensors have other shapes.* Missing 1: 'logit_scale'",
        ),
        (WANT | {"text_decoder.proj": (2, 2)}, "9 of 9 names agree. Unexpected 1: 'text_decoder.proj'"),
        ({n: s for n, s in WANT.items() if n != "logit_scale"}, "8 of 9 names agree. Missing 1: 'logit_scale'"),
        ({"conv1.weight": (3, 3), "fc.bias": (3,)}, "no name of it is a name of this model; it has 'conv1.weight'"),
    ],
)  # fmt: skip
def test_a_misfit_is_called_by_its_cause(have: dict[str, tuple[int, ...]], words: str) -> None:
    import re

    assert re.search(words, misfit(have, WANT)), misfit(have, WANT)


def test_reparameterized_by_timm_itself() -> None:
    """MobileOne and RepMixer blocks folded by the package that models come from."""
    from distill.core.torch_compat import ensure_torchvision

    ensure_torchvision()
    from timm.layers import LayerNorm2d  # noqa: F401  timm imported after torchvision was mended
    from timm.models.fastvit import MobileOneBlock, RepMixer
    from timm.utils import reparameterize_model

    model = nn.Sequential(MobileOneBlock(4, 4, 3), RepMixer(4)).eval()
    folded = reparameterize_model(model)
    with pytest.raises(DistillError, match="already reparameterized"):
        load_weights(model, folded.state_dict(), path=Path("folded.pt"), what="a FastViT")
