"""What an app's developer is told first: its lines make the pixels that an independent reader makes, and none is offered that would not."""

import numpy as np
import pytest
from PIL import Image

from export.app.brief import brief
from export.app.preprocess import preprocess_block
from tests.export.app.app_reader import pixels_of


def artifact(tower, rules, target="onnx", **more):
    names = {"image": "pixels", "text": "tokens"}
    return {
        "target": target, "precision": "fp32", "tower": tower, "file": f"{tower}.{target}", "inputs": {names.get(tower, "pixels"): "float32"},
        "output": {"name": f"{tower}_embedding", "shape": "float32[1,8]"}, "preprocess": rules,
        "tokenizer": {"kind": "clip-bpe", "vocabulary_size": 9, "context_length": 4, "dtype": "int32", "files": {"a": "vocab.json"}},
        "kind": "softmax", "logit_scale": 12.5, "logit_bias": 0.0, **more,
    }  # fmt: skip


@pytest.mark.parametrize("sides", [(90, 60), (50, 77), (64, 64)])
@pytest.mark.parametrize(
    "rules",
    [
        preprocess_block(32, "shortest", "bicubic"),
        preprocess_block(32, "shortest", "bilinear", resize_to=40),
        preprocess_block(32, "squash", "bicubic"),
    ],
)
def test_the_lines_make_the_pixels_of_an_independent_reader(tmp_path, rules, sides):
    noise = np.random.default_rng(0).integers(0, 256, (sides[1], sides[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    snippet = brief([artifact("image", rules), artifact("text", rules)])["snippet"]
    lines = snippet.replace('"photo.jpg"', repr(str(tmp_path / "photo.png"))).partition("ids = ")[0]
    found = {}
    exec(lines, found)
    assert found["pixels"].flags.c_contiguous  # a runtime that reads plain memory takes it as it is
    assert np.array_equal(found["pixels"], pixels_of(tmp_path / "photo.png", rules))


def test_what_the_few_lines_would_do_wrongly_is_left_out():
    cut, padded = preprocess_block(32, "shortest", "bicubic"), preprocess_block(32, "longest", "bicubic")
    bytes_last = {**cut, "layout": "NHWC", "dtype": "uint8"}
    for rules in (padded, bytes_last):
        assert brief([artifact("image", rules), artifact("text", rules)])["snippet"] == ""
    assert brief([artifact("image", cut)])["snippet"] == ""
    assert brief([artifact("image", cut, "coreml"), artifact("text", cut, "coreml")])["snippet"] == ""
    assert brief([]) == {"rows": [], "photo": [], "text": [], "score": "", "snippet": ""}


def test_every_file_has_a_row_and_a_sigmoid_is_called_one():
    cut = preprocess_block(32, "shortest", "bicubic")
    told = brief([artifact("image", cut, kind="sigmoid", logit_bias=-3.0), artifact("text", cut)])
    assert [row[0] for row in told["rows"]] == ["onnx-fp32/image.onnx", "onnx-fp32/text.onnx"]
    assert told["score"] == "Embeddings have unit length. 12.5 * dot(image, text) + -3, then a sigmoid of each."
    assert told["photo"] == cut["steps"]
