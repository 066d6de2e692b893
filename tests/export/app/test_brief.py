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
    (code,) = brief([artifact("image", rules), artifact("text", rules)])["code"]
    lines = code["code"].replace('"photo.jpg"', repr(str(tmp_path / "photo.png"))).partition("ids = ")[0]
    found = {}
    exec(lines, found)
    assert found["pixels"].flags.c_contiguous  # a runtime that reads plain memory takes it as it is
    assert np.array_equal(found["pixels"], pixels_of(tmp_path / "photo.png", rules))


def test_what_the_few_lines_would_do_wrongly_is_left_out():
    cut, padded = preprocess_block(32, "shortest", "bicubic"), preprocess_block(32, "longest", "bicubic")
    bytes_last = {**cut, "layout": "NHWC", "dtype": "uint8"}
    for rules in (padded, bytes_last):
        assert brief([artifact("image", rules), artifact("text", rules)])["code"] == []
    assert brief([artifact("image", cut)])["code"] == []
    four = {"inputs": {"pixels": "float32[4,3,32,32] RGB"}}
    assert brief([artifact("image", cut, **four), artifact("text", cut)])["code"] == []
    assert brief([artifact("image", cut, "coreai"), artifact("text", cut, "coreai")])["code"] == []
    assert brief([]) == {"rows": [], "photo": [], "text": [], "score": "", "code": []}


def exported(target, rules, suffix, pixels, form=None, one=None):
    """Both towers as a target's record has them, with inputs in the words that records are written in."""
    from export.app.form import Form
    from export.app.preprocess import in_form

    form = form or Form()
    image = {"inputs": {pixels: form.describe((1, 3, 48, 48))}, "file": one or f"image.{suffix}"}
    text = {"inputs": {"words": form.describe((1, 16))}, "file": one or f"text.{suffix}"}
    return [artifact("image", in_form(rules, form), target, **image), artifact("text", rules, target, **text)]


def code_of(artifacts, language):
    (found,) = [line["code"] for line in brief(artifacts)["code"] if line["language"] == language]
    for opens, closes in ("()", "[]", "{}"):  # of what is written, nothing is left open
        assert found.count(opens) == found.count(closes)
    return found


@pytest.mark.parametrize(
    ("rules", "scale", "behind"),
    [
        (
            preprocess_block(48, "shortest", "bicubic", resize_to=56),
            "56.0 / min(photo.size.width, photo.size.height)",
            "white",
        ),
        (preprocess_block(48, "squash", "bicubic"), "let (w, h) = (side, side)", "white"),
        (preprocess_block(48, "longest", "bicubic"), "side / max(photo.size.width, photo.size.height)", "black"),
    ],
)
def test_swift_names_what_the_package_takes_and_makes_the_square_as_the_rules_say(rules, scale, behind):
    code = code_of(exported("coreml", rules, "mlpackage", "a picture's pixels"), "swift")
    assert scale in code
    assert f"UIColor.{behind}." in code
    for words in ("CGFloat(48)", "[1, 3, 48, 48], dataType: .float32", "[1, 16], dataType: .int32", '["a picture\'s pixels": input(',
                  '["words": MLFeatureValue', '"image_embedding"', '"text_embedding"', 'load("image")', 'load("text")', ".computeUnits"):  # fmt: skip
        assert words in code, words


def test_swift_hands_over_a_picture_where_the_package_takes_one_and_names_functions_of_a_package_that_has_both():
    from export.app.form import Form

    rules = preprocess_block(48, "shortest", "bicubic")
    picture = code_of(exported("coreml", rules, "mlpackage", "pixels", Form(pixels="uint8", layout="picture")), "swift")
    assert 'inputDescriptionsByName["pixels"]!.imageConstraint!' in picture
    assert "float32" not in picture
    both = code_of(exported("coreml", rules, "mlpackage", "pixels", one="towers.mlpackage"), "swift")
    for words in (
        'load("towers", function: "image")',
        'load("towers", function: "text")',
        "configuration.functionName = function",
    ):
        assert words in both


def test_kotlin_writes_planes_of_floats_or_the_bytes_of_pixels_as_the_file_takes_them():
    from export.app.form import Form

    rules = preprocess_block(48, "shortest", "bicubic", resize_to=56)
    floats = code_of(exported("litert", rules, "tflite", "pixels"), "kotlin")
    for words in ("SIDE = 48", "56f / minOf(photo.width, photo.height)", "pixels: float32[1,3,48,48]", "int32[1,16]", "image_embedding",
                  "text_embedding", '"image.tflite"', '"text.tflite"', "writeFloat(pixels(photo))", "/ 255f"):  # fmt: skip
        assert words in floats, words
    octets = code_of(exported("litert", rules, "tflite", "pixels", Form(pixels="uint8", layout="NHWC")), "kotlin")
    for words in ("pixels: uint8[1,48,48,3]", "writeInt8(pixels(photo))", "argb[i / 3]"):
        assert words in octets, words
    assert "255f" not in octets


def test_every_file_has_a_row_and_a_sigmoid_is_called_one():
    cut = preprocess_block(32, "shortest", "bicubic")
    told = brief([artifact("image", cut, kind="sigmoid", logit_bias=-3.0), artifact("text", cut)])
    assert [row[0] for row in told["rows"]] == ["onnx-fp32/image.onnx", "onnx-fp32/text.onnx"]
    assert told["score"] == "Embeddings have unit length. 12.5 * dot(image, text) + -3, then a sigmoid of each."
    assert told["photo"] == cut["steps"]
