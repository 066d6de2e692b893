"""Published checkpoints, by their published names and shapes with random values: read into students, written back for open_clip."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from distill.core.clip.checkpoint import plain_names
from distill.core.clip.layouts import open_clip_names
from distill.core.clip.model import import_open_clip
from distill.core.errors import DistillError, UsageError
from distill.stages.training import checkpoint_files
from students.checkpoints.irregular import regular
from students.checkpoints.read import read_image_tower, read_student
from students.inherit.start import start_from
from students.spec import STUDENTS, StudentSpec
from students.student import Student, build_student
from students.tokenizer import vocabulary_path
from teachers.load import absolute_teacher, load_teacher, resolve_teacher

open_clip = import_open_clip()
import timm  # noqa: E402

State = dict[str, Tensor]
TINY = StudentSpec(
    "tiny-for-checkpoints",
    {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
        "text_cfg": {"context_length": 16, "width": 32, "heads": 2, "layers": 1},
    },
    vocabulary="rendered",
)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Callable[[StudentSpec], str]:
    """Makes an architecture a registered one for one test; returns its name."""

    def register(spec: StudentSpec) -> str:
        assert "nano" in STUDENTS  # which fills the registry
        monkeypatch.setitem(STUDENTS._entries, spec.name, spec)
        return spec.name

    return register


def lively(student: Student) -> Student:
    """Norms and scales as after training, so that a value in the wrong place shows."""
    generator = torch.Generator().manual_seed(5)
    for name, value in student.clip.state_dict().items():
        if value.is_floating_point() and value.dim() < 4 and "logit" not in name:
            value.copy_(torch.rand(value.shape, generator=generator) * 0.5 + 0.25)
    return student.eval()


def same(student: Student, other: Student) -> None:
    tokens, size = student.tokenize(["two dogs on a hill", "a cat"]), student.image_size
    pixels = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(student.encode_text(tokens), other.encode_text(tokens))
        assert torch.allclose(student.encode_image(pixels), other.encode_image(pixels), atol=1e-6)
    assert torch.equal(student.logit_scale, other.logit_scale)


# --- Apple's first version: image_encoder.model.*, text_encoder.*, logit_scale, by the names of its modules


def apple_text(name: str, value: Tensor, layers: int) -> tuple[str, Tensor]:
    name = name.removeprefix("text.")
    if name == "positional_embedding":
        return "text_encoder.positional_embedding.pos_embed.pos_embed", value[None, None]
    name = re.sub(r"transformer\.before\.", "transformer.0.", name)
    name = re.sub(r"transformer\.after\.", f"transformer.{layers + 1}.", name)
    name = re.sub(r"resblocks\.(\d+)\.", lambda m: f"{int(m[1]) + (1 if MIXED_NOW else 0)}.", name)
    for ours, theirs in {
        "token_embedding": "embedding_layer", "ln_final": "final_layer_norm", "text_projection": "projection_layer",
        "ln_1": "pre_norm_mha.0", "ln_2": "pre_norm_ffn.0", "attn.in_proj_": "pre_norm_mha.1.qkv_proj.",
        "attn.out_proj": "pre_norm_mha.1.out_proj", "mlp.c_fc": "pre_norm_ffn.1", "mlp.c_proj": "pre_norm_ffn.4",
        "convffn.conv.0.": "convffn.conv.conv.", "convffn.conv.1.": "convffn.conv.bn.", ".skip.": ".rbr_skip.",
        "mixer.conv.0.": "mixer.rbr_conv.0.conv.", "mixer.conv.1.": "mixer.rbr_conv.0.bn.",
    }.items():  # fmt: skip
        name = name.replace(ours, theirs)
    return f"text_encoder.{name}", value


MIXED_NOW = False
FASTVIT = {  # of Apple's mci.py; a downsampling and a position encoding are entries of one flat list of networks there
    "stem.": "patch_embed.", "conv_kxk": "rbr_conv", "conv_scale": "rbr_scale", ".identity.": ".rbr_skip.",
    "final_conv": "conv_exp", "large_conv": "lkb_origin", ".mlp.": ".convffn.", "se.fc1": "se.reduce", "se.fc2": "se.expand",
}  # fmt: skip


def apple_image(state: State) -> State:
    """timm's FastViT names -> Apple's: stages of blocks become the entries of `network`."""
    found, flat, number = {}, {}, 0
    for stage in range(4):
        for part, mark in (("downsample", ".proj"), ("pos_emb", ".pe"), ("blocks", "")):
            prefix = f"stages.{stage}.{part}."
            if any(name.startswith(prefix) for name in state):
                flat[prefix] = f"network.{number}{mark}."
                number += 1
    for name, value in state.items():
        if name == "head.fc.bias":
            continue  # Apple's projection has none
        if name == "head.fc.weight":
            found["head.proj"] = value.T
            continue
        place = re.match(r"stages\.\d\.(downsample|pos_emb|blocks)\.", name)
        if place:
            rest = name.removeprefix(place[0])
            rest = rest.removeprefix("proj." if place[1] == "downsample" else "pos_enc.")
            name = flat[place[0]] + rest
        for ours, theirs in FASTVIT.items():
            name = name.replace(ours, theirs)
        name = re.sub(r"layer_scale_(\d)\.gamma", r"layer_scale_\1", name).replace("layer_scale.gamma", "layer_scale")
        found[name] = value
    return {f"image_encoder.model.{name}": value for name, value in found.items()}


def apple_s0(student: Student) -> State:
    global MIXED_NOW
    state, MIXED_NOW = student.clip.state_dict(), True
    layers = student.spec.model_cfg["text_cfg"]["layers"]
    found = dict(apple_text(name, value, layers) for name, value in state.items() if name.startswith("text."))
    trunk = {name.removeprefix("visual.trunk."): value for name, value in state.items() if name.startswith("visual.")}
    return {**found, **apple_image(trunk), "logit_scale": state["logit_scale"]}


@pytest.fixture(scope="module")
def s0() -> Student:
    student = lively(build_student(STUDENTS.get("mobileclip-s0"), 0))
    student.clip.visual.trunk.head.fc.bias.data.zero_()
    return student


def test_apples_names_of_s0_are_the_published_ones(s0: Student):
    """Read from the modules of Apple's text_encoder.py, repmixer.py and mobileone.py."""
    names = apple_s0(s0).keys()
    assert {
        "text_encoder.embedding_layer.weight", "text_encoder.positional_embedding.pos_embed.pos_embed",
        "text_encoder.transformer.0.token_mixer.norm.rbr_skip.running_var",
        "text_encoder.transformer.0.token_mixer.mixer.rbr_skip.weight",
        "text_encoder.transformer.0.token_mixer.mixer.rbr_conv.0.conv.weight",
        "text_encoder.transformer.0.token_mixer.mixer.rbr_conv.0.bn.running_mean",
        "text_encoder.transformer.0.token_mixer.layer_scale", "text_encoder.transformer.0.layer_scale",
        "text_encoder.transformer.5.convffn.conv.conv.weight", "text_encoder.transformer.5.convffn.conv.bn.weight",
        "text_encoder.transformer.5.convffn.fc1.weight", "text_encoder.transformer.1.pre_norm_mha.1.qkv_proj.weight",
        "text_encoder.transformer.4.pre_norm_ffn.4.bias", "text_encoder.final_layer_norm.weight",
        "text_encoder.projection_layer", "logit_scale", "image_encoder.model.head.proj",
        "image_encoder.model.patch_embed.0.rbr_conv.0.conv.weight", "image_encoder.model.network.0.0.layer_scale",
        "image_encoder.model.network.1.proj.0.lkb_origin.conv.weight", "image_encoder.model.conv_exp.se.reduce.weight",
        "image_encoder.model.network.6.pe.weight",
    } <= names  # fmt: skip


def test_apples_s0_is_read(s0: Student, tmp_path: Path):
    """In its published shapes, inside a training program's state."""
    file = tmp_path / "mobileclip_s0.pt"
    state = {f"module.{name}": value.half() for name, value in apple_s0(s0).items()}
    torch.save({"epoch": 3, "state_dict": state}, file)
    halved = {name: value.half().float() for name, value in s0.clip.state_dict().items()}
    read = read_student("mobileclip-s0", file).clip.state_dict()
    assert all(torch.equal(read[name].float(), value) for name, value in halved.items())


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "student.clip."])
def test_apples_layout_is_known_inside_one_object(s0: Student, prefix: str):
    state = plain_names({f"{prefix}{name}": value for name, value in apple_s0(s0).items()}, Path("x.pt"))
    turned, wanted = open_clip_names(s0.clip, state), s0.clip.state_dict()
    assert turned.keys() == wanted.keys() - {n for n in wanted if n.endswith("num_batches_tracked") and n not in turned}
    assert all(torch.equal(value, wanted[name]) for name, value in turned.items())


def test_open_clips_layout_of_the_second_version_is_read_and_written_for_open_clip(
    tmp_path: Path, registered: Callable[[StudentSpec], str]
):
    """Apple's mobileclip2_s0.pt is a state dict of open_clip's with timm's names."""
    shallow = STUDENTS.get("mci0").resized(text_layers=1).with_vocabulary(str(vocabulary_path("rendered")))
    student = lively(build_student(replace(shallow, name="mci0-shallow"), 0))
    name, file = registered(student.spec), tmp_path / "mobileclip2_s0.pt"
    torch.save({f"module.{key}": value for key, value in student.clip.state_dict().items()}, file)
    read = read_student(name, file)
    same(read, student)
    read.save(tmp_path / "s", {"licence": "x"})
    folder = f"local-dir:{tmp_path / 's'}"
    model = open_clip.create_model(folder).eval()
    again = build_student(student.spec, 1)
    assert start_from(again, load_teacher(folder).inheritable(), "copy")["towers"] == ["visual", "text"]
    same(again.eval(), student)
    assert absolute_teacher(folder) == str(tmp_path / "s")
    tokens = read.tokenize(["a cat"])
    with torch.no_grad():
        assert torch.allclose(model.encode_text(tokens, normalize=True), read.encode_text(tokens), atol=1e-6)


# --- TinyCLIP: an encoder each, wrapped by DistributedDataParallel or not


def tinyclip_state(student: Student, form: str) -> State:
    state = {}
    for key, value in student.clip.state_dict().items():
        owner = (
            "_image_encoder"
            if key.startswith("visual.")
            else "_logit_scale"
            if key == "logit_scale"
            else "_text_encoder"
        )
        state[f"{form.replace('_image_encoder', owner)}{key}"] = value
    return state


def test_tinyclips_manual_checkpoint_is_read_in_its_published_shapes(
    tmp_path: Path, registered: Callable[[StudentSpec], str]
):
    student = build_student(STUDENTS.get("tinyclip-vit8m16"), 0)
    file = tmp_path / "TinyCLIP-ViT-8M-16-Text-3M-YFCC15M.pt"
    state = {name: value.half() for name, value in tinyclip_state(student, "_image_encoder.module.").items()}
    torch.save({"name": "x", "epoch": 6, "state_dict": state}, file)
    read = read_student("tinyclip-vit8m16", file).clip.state_dict()
    assert all(torch.equal(read[name], value.half().float()) for name, value in student.clip.state_dict().items())
    with pytest.raises(DistillError, match=r"cannot be loaded as the student tiny-for-checkpoints: .*other shapes"):
        read_student(registered(TINY), file)


@pytest.mark.parametrize("form", ["module._image_encoder.module.", "_image_encoder.", "image_encoder_without_ddp."])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_tinyclips_layout_is_known_however_it_was_wrapped(
    tmp_path: Path, registered: Callable[[StudentSpec], str], form: str, suffix: str
):
    student = build_student(TINY, 3).eval()
    state = tinyclip_state(student, form.replace("image_encoder_without_ddp", "_image_encoder"))
    if "without" in form:
        state = {re.sub(r"^_(\w+)\.", r"\1_without_ddp.", name): value for name, value in state.items()}
    file = tmp_path / f"tiny{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": state}, file)
    else:
        save_file(state, file)
    same(read_student(registered(TINY), file), student)


IRREGULAR = {  # width, (heads, neurons) of each layer; no part at all where 0
    "visual.": (100, [(2, 48), (0, 70), (3, 0)]),
    "": (72, [(1, 30), (2, 10)]),
}
PLAIN = {"visual.": (128, [(2, 48), (0, 70), (1, 512)]), "": (64, [(1, 30), (1, 10)])}
Shapes = dict[str, tuple[int, list[tuple[int, int]]]]


def auto_state(shapes: Shapes, seed: int = 0) -> State:
    """A pruned TinyCLIP: 32 pixels in patches of 16, 5 places; 40 tokens, 9 of context; embeddings 24 wide."""
    generator = torch.Generator().manual_seed(seed)

    def made(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.2

    state: State = {"_logit_scale.logit_scale": torch.tensor(math.log(50.0))}
    for prefix, (width, layers) in shapes.items():
        owner = "_image_encoder." if prefix else "_text_encoder."
        own: State = {}
        if prefix:
            own |= {"conv1.weight": made(width, 3, 16, 16), "class_embedding": made(width), "proj": made(width, 24)}
            own |= {
                "ln_pre.weight": made(width) + 1,
                "ln_pre.bias": made(width),
                "positional_embedding": made(5, width),
            }
        else:
            own |= {"token_embedding.weight": made(40, width), "positional_embedding": made(9, width)}
            own |= {"text_projection": made(width, 24)}
        last = "ln_post" if prefix else "ln_final"
        own |= {f"{last}.weight": made(width) + 1, f"{last}.bias": made(width)}
        for layer, (heads, neurons) in enumerate(layers):
            block = f"transformer.resblocks.{layer}."
            if heads:
                own |= {f"{block}ln_1.weight": made(width) + 1, f"{block}ln_1.bias": made(width)}
                own |= {
                    f"{block}attn.in_proj_weight": made(192 * heads, width),
                    f"{block}attn.in_proj_bias": made(192 * heads),
                }
                own |= {
                    f"{block}attn.out_proj.weight": made(width, 64 * heads),
                    f"{block}attn.out_proj.bias": made(width),
                }
            if neurons:
                own |= {f"{block}ln_2.weight": made(width) + 1, f"{block}ln_2.bias": made(width)}
                own |= {f"{block}mlp.c_fc.weight": made(neurons, width), f"{block}mlp.c_fc.bias": made(neurons)}
                own |= {f"{block}mlp.c_proj.weight": made(width, neurons), f"{block}mlp.c_proj.bias": made(width)}
        state |= {f"{owner}{prefix}{name}": value for name, value in own.items()}
    return state


def by_hand(state: State, prefix: str, x: Tensor, layers: list[tuple[int, int]], *, causal: bool) -> Tensor:
    """The layers of a pruned tower, head by head, those parts alone that are there."""
    for layer, (heads, neurons) in enumerate(layers):
        block = f"{prefix}transformer.resblocks.{layer}."
        get: Callable[[str], Tensor] = lambda name, block=block: state[block + name]  # type: ignore[misc]  # noqa: E731
        if heads:
            y = F.layer_norm(x, x.shape[-1:], get("ln_1.weight"), get("ln_1.bias"))
            out = get("attn.out_proj.bias").expand_as(x).clone()
            for head in range(heads):
                rows = [slice(64 * (part * heads + head), 64 * (part * heads + head + 1)) for part in range(3)]
                q, k, v = (y @ get("attn.in_proj_weight")[row].T + get("attn.in_proj_bias")[row] for row in rows)
                scores = q @ k.transpose(1, 2) / 8
                if causal:
                    scores = scores + torch.full_like(scores, -math.inf).triu(1)
                out = out + scores.softmax(-1) @ v @ get("attn.out_proj.weight")[:, 64 * head : 64 * head + 64].T
            x = x + out
        if neurons:
            y = F.layer_norm(x, x.shape[-1:], get("ln_2.weight"), get("ln_2.bias"))
            x = x + F.linear(
                F.gelu(F.linear(y, get("mlp.c_fc.weight"), get("mlp.c_fc.bias"))),
                get("mlp.c_proj.weight"),
                get("mlp.c_proj.bias"),
            )
    return x


@pytest.mark.parametrize("shapes", [IRREGULAR, PLAIN], ids=["widths of no whole heads", "whole heads"])
def test_tinyclips_auto_checkpoints_compute_what_their_own_layers_do(tmp_path: Path, shapes: Shapes):
    state = auto_state(shapes)
    file = tmp_path / "auto.pt"
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, file)
    student = read_student("tinyclip-auto-small", file)
    clip: Any = student.clip
    plain = {name.partition(".")[2]: value for name, value in state.items()}
    pixels, tokens = (
        torch.randn(2, 3, 32, 32),
        torch.tensor([[38, 3, 4, 39, 0, 0, 0, 0, 0], [38, 7, 39, 0, 0, 0, 0, 0, 0]]),
    )
    with torch.no_grad():
        patches = F.conv2d(pixels, plain["visual.conv1.weight"], stride=16).flatten(2).transpose(1, 2)
        x = (
            torch.cat([plain["visual.class_embedding"].expand(2, 1, -1), patches], 1)
            + plain["visual.positional_embedding"]
        )
        x = F.layer_norm(x, x.shape[-1:], plain["visual.ln_pre.weight"], plain["visual.ln_pre.bias"])
        x = by_hand(plain, "visual.", x, shapes["visual."][1], causal=False)[:, 0]
        image = (
            F.layer_norm(x, x.shape[-1:], plain["visual.ln_post.weight"], plain["visual.ln_post.bias"])
            @ plain["visual.proj"]
        )
        assert torch.allclose(clip.encode_image(pixels), image, atol=1e-5)
        x = plain["token_embedding.weight"][tokens] + plain["positional_embedding"]
        x = by_hand(plain, "", x, shapes[""][1], causal=True)
        x = F.layer_norm(x, x.shape[-1:], plain["ln_final.weight"], plain["ln_final.bias"])
        text = x[torch.arange(2), tokens.argmax(1)] @ plain["text_projection"]
        assert torch.allclose(clip.encode_text(tokens), text, atol=1e-5)
    assert student.logit_scale.item() == pytest.approx(50)
    assert regular(state, file).open_clips == (shapes is PLAIN)


def test_a_student_inherits_from_an_auto_checkpoint(tmp_path: Path):
    file = tmp_path / "auto.pt"
    torch.save(auto_state(IRREGULAR), file)
    source = load_teacher(f"student:tinyclip-auto-x@{file}").inheritable()
    cfg = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16, "mlp_ratio": 0.75},
        "text_cfg": {"context_length": 9, "width": 64, "heads": 1, "layers": 2, "mlp_ratio": 0.25},
    }
    rows = replace(StudentSpec("narrow", cfg), vocabulary="rendered")
    clip_student = build_student(rows, 0)
    took = start_from(clip_student, source, "magnitude")
    assert "visual" in took["towers"], took["skipped"]
    picked = took["plan"]["towers"]["visual"]
    assert len(picked["hidden"]) == 64
    wanted = source.state["visual.class_embedding"][picked["hidden"]]
    assert torch.equal(clip_student.clip.state_dict()["visual.class_embedding"], wanted)


def test_masks_that_are_not_folded_and_other_files_are_named(tmp_path: Path):
    state = {**auto_state(PLAIN), "_image_encoder.l0_module.heads_loga": torch.zeros(3, 2)}
    torch.save(state, tmp_path / "masks.pt")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(DistillError, match="masks: they are not folded"):
        read_student("tinyclip-auto-x", tmp_path / "masks.pt")
    with pytest.raises(DistillError, match=r"other\.pt is no checkpoint of a TinyCLIP"):
        read_student("tinyclip-auto-x", tmp_path / "other.pt")


# --- timm


@pytest.mark.parametrize(
    ("tower", "prefix"), [("resnet18", ""), ("mobilenetv4_conv_small_035", "model."), ("vit_tiny_patch16_224", "")]
)
def test_timm_files_are_image_towers_to_inherit_from(tmp_path: Path, tower: str, prefix: str):
    net = timm.create_model(tower, num_classes=7)
    save_file({f"{prefix}{name}": value for name, value in net.state_dict().items()}, tmp_path / "w.safetensors")
    source = load_teacher(f"timm:{tower}@{tmp_path / 'w.safetensors'}").inheritable()
    student = build_student(STUDENTS.get(f"timm:{tower}+text:1x64"), 0)
    took = start_from(student, source, "uniform")
    assert took["towers"] == ["visual"], took["skipped"]
    own = {
        name.removeprefix("visual.trunk."): value
        for name, value in student.clip.state_dict().items()
        if "trunk" in name
    }
    head = net.get_classifier()
    heads = {name for name, module in net.named_modules() if module is head}
    inherited = [name for name in net.state_dict() if name.rpartition(".")[0] not in heads]
    assert len(inherited) > 50
    assert all(torch.equal(own[name], net.state_dict()[name]) for name in inherited)
    with pytest.raises(DistillError, match=r"w\.safetensors cannot be loaded as timm's resnet34"):
        read_image_tower("resnet34", tmp_path / "w.safetensors")


# --- names, terms, and files that are not what they are called


def test_names_of_checkpoints_state_their_terms_and_mean_the_same_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "w.pt").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    spec = resolve_teacher("student:mobileclip-s0@w.pt")
    assert (spec.width, spec.image_size, spec.commercial) == (512, 256, False)
    assert "research only" in spec.licence
    assert resolve_teacher("student:tinyclip-vit8m16@w.pt").licence == "MIT"
    assert absolute_teacher("student:mci0@w.pt") == f"student:mci0@{tmp_path / 'w.pt'}"
    assert absolute_teacher("student:timm:resnet18@160+text:1x64@w.pt").startswith("student:timm:resnet18@")
    for name, words in {
        "student:mobileclip-s0@nowhere.pt": "There is no file 'nowhere.pt'. Write student:NAME@FILE",
        "student:mobileclip-s0": "names no file. Write student:NAME@FILE",
        "student:mobileclip-s9@w.pt": "Unknown student 'mobileclip-s9'. Did you mean",
        "timm:resnet18": "names no file. Write timm:TOWER@FILE",
    }.items():
        with pytest.raises(UsageError, match=re.escape(words)):
            resolve_teacher(name)


def test_a_read_checkpoint_is_a_teacher_and_a_model_to_export(tmp_path: Path, registered: Callable[[StudentSpec], str]):
    """What `distill eval` and `distill export` are given by that name."""
    from distill import load_student
    from distill.run_folder import RunFolder
    from distill.stages.exporting.any_model import take_in

    spec = TINY
    registered(spec)
    student = build_student(spec, 3).eval()
    save_file(dict(student.clip.state_dict()), tmp_path / "w.safetensors")
    name = f"student:{spec.name}@{tmp_path / 'w.safetensors'}"
    teacher = load_teacher(name)
    pixels = torch.rand(2, 3, 32, 32)
    assert torch.allclose(teacher.encode_image(pixels), student.encode_image(pixels), atol=1e-6)
    assert torch.allclose(teacher.encode_text(["a cat"]), student.encode_text(student.tokenize(["a cat"])), atol=1e-6)
    same(load_student(name), student)
    take_in(name, RunFolder(tmp_path / "x"), overwrite=False)
    card = json.loads((tmp_path / "x/student/card.json").read_text())
    assert card["origin"] == name
    assert open_clip.create_model(f"local-dir:{tmp_path / 'x' / 'student'}") is not None
    assert checkpoint_files.KEY == "student"


def test_an_image_tower_labels_nothing(tmp_path: Path):
    save_file(dict(timm.create_model("resnet18", num_classes=0).state_dict()), tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match="to inherit from"):
        load_teacher(f"timm:resnet18@{tmp_path / 'w.safetensors'}").encode_text(["a cat"])
