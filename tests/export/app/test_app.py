"""An export folder is enough to build an app: proven by a reader (app_reader.py) that knows nothing else."""

import ast
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from distill.core.errors import DistillError
from distill.evaluation.evalset import pixels as prepared
from export.app.golden import LARGEST_PHOTO_BYTES, MEANINGS, probabilities, write_golden
from export.app.kit import FOLDER, AppKit
from export.app.preprocess import preprocess_block
from export.app.reader import tokenizer_of
from export.app.tokenizer import write_tokenizer
from students.spec import StudentSpec
from students.student import Student, build_student
from students.tokenizer import load_tokenizer, vocabulary_path
from tests.export.app import app_reader

ODD = [
    "", "   ", "!", "a RED circle", "a photo of a 🐈‍⬛ at the café, naïve Zürich", "日本語の写真", "<|endoftext|> red",
    "<|startoftext|>", "<end_of_text> red <START_of_text>", "x" * 400, "red " * 200, "a\u0000b", "A&amp;B &lt; &amp;gt;",
    "ﬁ ½ ①", "it's DON'T", "\u202eabc", "cafe\u0301", "schÃ¶n", "a\tb\n\nc", "don\u2019t 'S", "100 2nd",
]  # fmt: skip
PLAIN = [
    text for text in ODD if not {"&", "Ã", "\u2019", "ﬁ", "\0"} & set(text)
]  # needing neither ftfy nor HTML entities


def _photo(path: Path, width: int, height: int, seed: int = 0) -> Path:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


def test_the_reader_knows_nothing_of_this_project() -> None:
    tree = ast.parse(Path(app_reader.__file__).read_text(encoding="utf-8"))
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    ours = ("distill", "export", "students", "teachers", "reinforced_data", "tests")
    assert not {name for name in imported if name.split(".")[0] in (*ours, "open_clip", "torch")}


@pytest.mark.process
def test_a_photo_and_captions_become_the_students_probabilities(
    exported: tuple[Path, list[Any]], student: Student, tmp_path: Path
) -> None:
    folder = tmp_path / "elsewhere"
    shutil.copytree(exported[0] / "onnx-fp32", folder)
    photo = _photo(tmp_path / "photo.png", 61, 40)
    captions = ["a RED circle", "two  blue&amp;green squares", "café"]
    found = app_reader.App(folder).probabilities(photo, captions)
    with torch.no_grad():
        image = student.encode_image(torch.from_numpy(prepared([("photo", photo.read_bytes())], 32)))
        text = student.encode_text(student.tokenize(captions))
        expected = (student.logit_scale * image @ text.T).softmax(-1)[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert expected.max() - expected.min() > 0.1  # the scale and each caption matter


@pytest.mark.process
def test_golden_samples_are_the_eager_students(
    exported: tuple[Path, list[Any]], student: Student, photos: list[bytes], captions: list[str], tmp_path: Path
) -> None:
    out, artifacts = exported
    for folder in (out / "onnx-fp32", out / "coreml-fp16", out / "executorch-xnnpack-fp32"):
        record, tensors = app_reader.golden(folder)
        app = app_reader.App(folder)
        assert record["captions"] == captions[:4]
        for index, caption in enumerate(record["captions"]):
            assert np.array_equal(app.tokenizer.row(caption)[0], tensors["tokens"][index])
            assert (folder / record["photos"][index]).read_bytes() == photos[index]
            own = app_reader.pixels_of(folder / record["photos"][index], app.record["image"]["preprocess"])
            assert np.array_equal(own[0], tensors["pixels"][index])
        with torch.no_grad():
            image = student.encode_image(torch.from_numpy(tensors["pixels"]))
            text = student.encode_text(torch.from_numpy(tensors["tokens"]).long())
            shares = (student.logit_scale * image @ text.T).softmax(-1)
        np.testing.assert_allclose(tensors["image_embeddings"], image, atol=1e-6)
        np.testing.assert_allclose(tensors["text_embeddings"], text, atol=1e-6)
        np.testing.assert_allclose(tensors["probabilities"], shares, atol=1e-5)
        listed = {name: artifact.beside[name] for artifact in artifacts for name in artifact.beside}
        assert set(listed) <= {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("size", [(61, 40), (33, 90), (32, 32), (200, 7), (31, 47), (20, 21)])
def test_preprocessing_by_the_block_is_the_evaluations(
    tmp_path: Path, mode: str, interpolation: str, size: tuple[int, int]
) -> None:
    photo = _photo(tmp_path / "photo.png", *size)
    own = app_reader.pixels_of(photo, preprocess_block(32, mode, interpolation))
    assert np.array_equal(own, prepared([("photo", photo.read_bytes())], 32, mode, interpolation))


def test_the_preprocess_block_tells_modes_apart() -> None:
    words = {
        mode: " ".join(preprocess_block(224, mode, "bicubic")["steps"]) for mode in ("shortest", "squash", "longest")
    }
    assert "crop" in words["shortest"]
    assert "crop" not in words["squash"] + words["longest"]
    assert all("224" in text for text in words.values())


@pytest.fixture(scope="module", params=["", "rendered"])
def tokenizer_files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, Any]:
    """open_clip's tokenizer, the folder of its files and the block, for CLIP's vocabulary and a cut one."""
    merges = vocabulary_path(request.param) if request.param else None
    folder = tmp_path_factory.mktemp("tokenizer")
    theirs = load_tokenizer(merges, 16)
    return theirs, folder, write_tokenizer(theirs, 16, merges, folder)


def test_own_byte_pairs_from_the_files(tokenizer_files: tuple[Any, Path, Any]) -> None:
    theirs, folder, block = tokenizer_files
    own = app_reader.Words(folder, block)
    for text in ODD:
        assert np.array_equal(own.row(text), theirs([text]).numpy()), text
    assert block["vocabulary_size"] == len(own.ids) == theirs.vocab_size
    assert (block["start_id"], block["end_id"], block["padding_id"]) == (
        theirs.vocab_size - 2,
        theirs.vocab_size - 1,
        0,
    )
    assert all((folder / name).is_file() for name in block["files"].values())


def test_the_tokenizers_library_reads_its_file(tokenizer_files: tuple[Any, Path, Any]) -> None:
    from tokenizers import Tokenizer

    theirs, folder, block = tokenizer_files
    library = Tokenizer.from_file(str(folder / block["files"]["tokenizers"]))
    for text in PLAIN:
        assert library.encode(text).ids == theirs([text])[0].tolist(), text


def test_open_clip_reads_the_gzip_file(tokenizer_files: tuple[Any, Path, Any]) -> None:
    theirs, folder, block = tokenizer_files
    again = load_tokenizer(folder / block["files"]["open_clip"], 16)
    assert torch.equal(again(ODD), theirs(ODD))


def test_transformers_reads_the_two_text_files(tokenizer_files: tuple[Any, Path, Any]) -> None:
    """As an app's library for CLIP's tokenizer does, given the names of the markers."""
    from transformers import CLIPTokenizer

    theirs, folder, block = tokenizer_files
    start, end = block["words"]["special"]
    files = {"vocab": str(folder / block["files"]["vocabulary"]), "merges": str(folder / block["files"]["merges"])}
    library = CLIPTokenizer(**files, bos_token=start, eos_token=end, unk_token=end)
    for text in ("a red circle", "two blue squares on grass", "Zürich it's 42"):
        ids = library(text)["input_ids"]
        assert ids == [int(i) for i in theirs([text])[0] if int(i)][: len(ids)], text


@settings(max_examples=40)
@given(st.text(max_size=40))
def test_any_text_gives_the_same_row(tokenizer_files: tuple[Any, Path, Any], text: str) -> None:
    theirs, folder, block = tokenizer_files
    own = app_reader.Words(folder, block)
    assert np.array_equal(own.row(text), theirs([text]).numpy())


def test_a_tokenizer_of_hugging_face(tmp_path: Path) -> None:
    """A word-level one made here, inside open_clip's wrapper, whose own rows are the truth."""
    import open_clip.tokenizer as of
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "red": 5, "circle": 6}
    inner = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(tmp_path / "hf")
    theirs = of.HFTokenizer(str(tmp_path / "hf"), context_length=6)
    folder = tmp_path / "app"
    folder.mkdir()
    theirs(["a red circle"], context_length=5)  # leaves another length behind in the library
    block = write_tokenizer(theirs, 6, None, folder)
    assert (block["start_id"], block["end_id"], block["padding_id"], block["vocabulary_size"]) == (2, 3, 0, 7)
    assert block["lower_case"] is False
    library = Tokenizer.from_file(str(folder / block["files"]["tokenizers"]))
    for text in ("a red circle", "red", "", "a red circle a red circle"):
        assert library.encode(text).ids == theirs([text])[0].tolist()
    captions = ["a red circle", "red", "", "a red circle a red circle"]
    assert np.array_equal(tokenizer_of(folder, block)(captions), theirs(captions))
    theirs.strip_sep_token = True
    block = write_tokenizer(theirs, 6, None, folder)
    assert block["after"] == ["replace 3 by 0"]
    assert np.array_equal(tokenizer_of(folder, block)(captions), theirs(captions))
    for text in ("a red circle", "a red circle a red circle"):
        assert [0 if i == 3 else i for i in library.encode(text).ids] == theirs([text])[0].tolist()


def test_a_tokenizer_that_makes_rows_of_its_own(tmp_path: Path) -> None:
    """open_clip's mode "clips": what the file cannot say is in `after`."""
    import open_clip.tokenizer as of
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[BOS]": 3, "[EOS]": 4, "a": 5, "red": 6, "circle": 7}
    inner = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        bos_token="[BOS]",
        eos_token="[EOS]",
    ).save_pretrained(tmp_path / "hf")
    theirs = of.HFTokenizer(str(tmp_path / "hf"), context_length=8, tokenizer_mode="clips")
    block = write_tokenizer(theirs, 8, None, tmp_path)
    library = Tokenizer.from_file(str(tmp_path / block["files"]["tokenizers"]))
    assert block["after"] == [
        "put 3 before the ids and 4 behind them", "fill up with 0 to 7 ids", "put 2 behind all of it",
    ]  # fmt: skip
    for text in ("a red circle", "", "a red circle a red circle a"):
        ids = [3, *library.encode(text).ids, 4]
        assert [*ids, *[0] * (7 - len(ids)), 2] == theirs([text])[0].tolist()
        assert np.array_equal(tokenizer_of(tmp_path, block)([text]), theirs([text]))


@pytest.mark.parametrize("block", [{}, {"cleaning": ["collapse white space"]}, {"cleaning": [{"rule": "shout"}]}])
def test_a_record_that_is_not_ours_is_refused(tmp_path: Path, block: dict[str, Any]) -> None:
    with pytest.raises(DistillError, match="Export again"):
        tokenizer_of(tmp_path, block)


@pytest.mark.parametrize("clean", ["lower", "whitespace", "canonicalize"])
def test_cleaning_as_the_model_wants_it(tmp_path: Path, clean: str) -> None:
    from open_clip.tokenizer import SimpleTokenizer
    from tokenizers import Tokenizer

    theirs = SimpleTokenizer(context_length=16, clean=clean)
    block = write_tokenizer(theirs, 16, None, tmp_path)
    assert block["lower_case"] is (clean != "whitespace")
    own, library = app_reader.Words(tmp_path, block), Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    again = tokenizer_of(tmp_path, block)
    for text in [*ODD, "A_b, (c) [d]! `e` {f} ~g~"]:
        assert np.array_equal(own.row(text), theirs([text]).numpy()), text
        assert np.array_equal(again([text]), theirs([text]).numpy()), text
    for text in [*PLAIN, "A_b, (c) [d]! `e` {f} ~g~"]:
        if clean == "whitespace" and "START" in text:
            continue  # to open_clip a marker in capitals is one word, to the library three
        assert library.encode(text).ids == theirs([text])[0].tolist(), text


def test_a_tokenizer_without_a_readable_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DistillError, match="no form that an app can read"):
        write_tokenizer(object(), 16, None, tmp_path)


def test_the_kit_of_squashing_and_sigmoid_models(tmp_path: Path, make_student: Callable[..., Student]) -> None:
    """As SigLIP: squashed images, a bias, a probability for each caption alone; with a cut vocabulary."""
    cfg = make_student().spec.model_cfg | {"init_logit_bias": -10.0}
    text = cfg["text_cfg"] | {"vocab_size": 0}
    spec = StudentSpec(
        "s", cfg | {"text_cfg": text}, resize_mode="squash", interpolation="bilinear", vocabulary="rendered"
    )
    student = build_student(spec, 0)
    kit = AppKit.write(student, "sigmoid", tmp_path)
    assert (kit.kind, kit.logit_bias) == ("sigmoid", -10.0)
    assert kit.logit_scale == pytest.approx(1 / 0.07)
    assert (kit.preprocess["resize_mode"], kit.preprocess["interpolation"]) == ("squash", "bilinear")
    assert kit.tokenizer["vocabulary_size"] == student.tokenizer.vocab_size < 49408
    assert AppKit.read(tmp_path) == kit
    assert set(kit.tokenizer["files"].values()) == {path.name for path in (tmp_path / FOLDER).iterdir()}


def test_probabilities_against_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    image, text = (torch.nn.functional.normalize(torch.randn(n, 8, generator=generator), dim=1) for n in (3, 5))
    logits = 20 * image @ text.T - 3
    for kind, expected in (("softmax", logits.softmax(1)), ("sigmoid", logits.sigmoid())):
        found = probabilities(image.numpy(), text.numpy(), 20.0, -3.0, kind)
        np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_golden_files(tmp_path: Path) -> None:
    """The same bytes for the same samples; photos of formats that phones do not all read are left out, and large ones."""
    tensors = {name: np.full((2, 3), number, np.float32) for number, name in enumerate(MEANINGS)}
    jpeg = io.BytesIO()
    Image.new("RGB", (8, 8), (255, 0, 0)).save(jpeg, "JPEG")
    photos = [jpeg.getvalue(), b"RIFF....WEBP", jpeg.getvalue() + bytes(LARGEST_PHOTO_BYTES)]
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert write_golden(tmp_path / name, tensors, ["ä"], photos) == [
            "golden.json", "golden.safetensors", "golden-photo-0.jpg",
        ]  # fmt: skip
        made.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert made[0] == made[1]
    record, read = app_reader.golden(tmp_path / "one")
    assert record["photos"] == ["golden-photo-0.jpg", None, None]
    assert record["captions"] == ["ä"]
    assert {name: value.tolist() for name, value in read.items()} == {n: v.tolist() for n, v in tensors.items()}


def test_the_kit_of_a_model_with_a_hugging_face_text_tower(
    make_hf_text_folder: Callable[..., Path], tmp_path: Path
) -> None:
    from tokenizers import Tokenizer

    from students.student import load_student

    student = load_student(make_hf_text_folder(tmp_path / "clip", kind="bert", pooler="mean_pooler"))
    kit = AppKit.write(student, "softmax", tmp_path)
    assert kit.preprocess["resize_mode"] == "squash"
    library = Tokenizer.from_file(str(tmp_path / FOLDER / kit.tokenizer["files"]["tokenizers"]))
    for text in ("a red circle", "two cats on a hill", "x " * 40, ""):
        assert library.encode(text).ids == student.tokenize([text])[0].tolist()
