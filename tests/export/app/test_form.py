"""How files take their inputs: bytes and batches, by hand, and what the record tells an app of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from export.app.form import Form, batches
from export.app.golden import GOLDEN_FILE, TENSORS_FILE, golden_as_bytes, write_golden
from export.app.preprocess import in_form, preprocess_block
from tests.export.app import app_reader


def test_bytes_are_those_of_the_picture(tmp_path: Path) -> None:
    """Pillow's own bytes, in each layout; floats between two of them go to the nearer one."""
    photo = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    pixels = (photo.transpose(2, 0, 1)[None] / 255).astype(np.float32)
    flat = np.asarray(Image.fromarray(photo))
    assert np.array_equal(Form(1, "uint8", "NHWC").given(pixels)[0], flat)
    planes = Form(1, "uint8", "NCHW").given(pixels)
    assert (planes.dtype, planes.shape) == (np.uint8, (1, 3, 5, 5))
    assert [planes[0, c, y, x] for c, y, x in ((0, 1, 2), (2, 4, 0))] == [flat[1, 2, 0], flat[4, 0, 2]]
    picture = Form(1, "uint8", "picture").given(pixels)
    assert (picture.dtype, float(picture[0, 1, 2, 3])) == (np.float32, float(flat[2, 3, 1]))
    assert np.array_equal(Form().given(pixels), pixels)
    between = np.full((1, 3, 1, 1), 100.4 / 255, np.float32)
    assert Form(1, "uint8").given(between).ravel().tolist() == [100] * 3
    tokens = np.arange(4, dtype=np.int32)[None]
    assert Form(1, "uint8", "NHWC").given(tokens) is tokens


@pytest.mark.parametrize(("n", "batch"), [(7, 3), (6, 3), (1, 4), (5, 1)])
def test_batches_are_full_and_say_each_input_once(n: int, batch: int) -> None:
    values, seen = np.arange(n * 2, dtype=np.int32).reshape(n, 2), []

    def runner(rows: np.ndarray) -> np.ndarray:
        seen.append(len(rows))
        return rows * 10

    assert np.array_equal(np.concatenate(list(Form(batch).run(runner, values))), values * 10)
    assert seen == [batch] * -(-n // batch)
    assert np.array_equal(list(batches(values, batch))[-1][-1], values[-1])


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (Form(), "float32[1,3,8,8] RGB in [0, 1]"),
        (Form(4, "uint8"), "uint8[4,3,8,8] RGB from 0 to 255"),
        (Form(2, "uint8", "NHWC"), "uint8[2,8,8,3] RGB from 0 to 255"),
        (Form(1, "uint8", "picture"), "image[1,3,8,8] a picture of 8-bit RGB"),
    ],
)
def test_the_words_of_an_input(form: Form, words: str) -> None:
    assert form.describe((9, 3, 8, 8)).startswith(words)
    assert form.describe((9, 16)).startswith(f"int32[{form.batch},16] token ids")


@pytest.mark.parametrize(("layout", "golden"), [("NCHW", "NCHW"), ("NHWC", "NHWC"), ("picture", "NHWC")])
def test_the_kit_is_of_the_files_form(
    layout: Any, golden: Any, tmp_path: Path, photos: list[bytes], pixels: np.ndarray
) -> None:
    """An app that is written from the block makes the golden pixels from the golden photo, byte for byte."""
    form = Form(1, "uint8", layout)
    block = in_form(preprocess_block(32, "shortest", "bicubic"), form)
    assert (block["dtype"], block["layout"], block["value_range"]) == ("uint8", layout, [0, 255])
    assert not any("divide by 255" in step for step in block["steps"])
    write_golden(tmp_path, {"pixels": pixels[:3], "image_embeddings": np.eye(3, dtype=np.float32)}, [], photos[:3])
    golden_as_bytes(tmp_path, form)
    held, record = load_file(tmp_path / TENSORS_FILE), json.loads((tmp_path / GOLDEN_FILE).read_text())
    for index, name in enumerate(record["photos"]):
        own = app_reader.pixels_of(tmp_path / name, {**block, "layout": golden})
        assert own.dtype == held["pixels"].dtype == np.uint8
        assert np.array_equal(own[0], held["pixels"][index])
    assert "uint8" in record["meaning"]["pixels"]
    assert np.array_equal(held["image_embeddings"], np.eye(3, dtype=np.float32))
