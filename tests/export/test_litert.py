"""LiteRT's own converter and interpreter, where their environment is: files, interface, parity, versions, a latency."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from distill.core.errors import DistillError
from export.app.brief import brief
from export.latency.measure import profile
from export.run import export_student
from export.settings import ExportSettings, ProfileSettings
from export.target import get_target
from export.targets.litert import _ranges
from students.student import load_student
from tests.export.app.app_reader import pixels_of

# Reads the signatures of files with the runtime alone.
INTERFACE = """
import json, sys
from ai_edge_litert.interpreter import Interpreter
found = []
for path in sys.argv[1:]:
    runner = Interpreter(model_path=path).get_signature_runner()
    found.append([
        {name: [detail["shape"].tolist(), detail["dtype"].__name__] for name, detail in part.items()}
        for part in (runner.get_input_details(), runner.get_output_details())
    ])
print(json.dumps(found))
"""


def test_int8_means_weights() -> None:
    assert get_target("litert-int8").folder == "litert-w8"
    assert get_target("tflite").name == "litert"


def test_learned_ranges_are_of_all_samples() -> None:
    """A moving average, which the quantizer takes of several samples, cuts off what few of them reach: cosine 0.986, not 0.9997."""
    samples = [{"pixels": np.random.default_rng(n).normal(size=(1, 3, 4)) * (10 if n == 2 else 1)} for n in range(5)]

    class Quantizer:  # min and max per channel, as ai_edge_quantizer gives them, of one signature's samples
        def calibrate(self, data: dict[str, Any], num_threads: int) -> dict[str, dict[str, Any]]:
            (sample,) = data["serving_default"]
            value = sample["pixels"]
            return {"a": {"min": value.min(2, keepdims=True), "max": value.max(2, keepdims=True)}, "empty": {}}

    found = _ranges(Quantizer(), samples)
    everything = np.concatenate([sample["pixels"] for sample in samples], axis=2)
    np.testing.assert_array_equal(found["a"]["min"], everything.min(2, keepdims=True))
    np.testing.assert_array_equal(found["a"]["max"], everything.max(2, keepdims=True))
    assert found["empty"] == {}


@pytest.mark.process
def test_files_agree_with_the_student(
    student_dir: Path, pixels: np.ndarray, tokens: np.ndarray, tmp_path: Path
) -> None:
    try:
        found = get_target("litert").environment.find()
    except DistillError as absent:
        pytest.skip(str(absent))
    settings = ExportSettings(targets=("litert",), precisions=("fp32", "int8"), jobs=2, min_cosine_quantized=0.99)
    arguments: dict[str, Any] = {"pixels": pixels, "tokens": tokens, "licence": "x", "provenance": {}, "resume": False}
    artifacts = export_student(student_dir, tmp_path, settings, **arguments)
    assert [(a.precision, a.tower) for a in artifacts] == [(p, t) for p in ("fp32", "w8") for t in ("image", "text")]
    exact, quantized = artifacts[:2], artifacts[2:]
    assert all(a.parity.cosine_min > 1 - 1e-6 and a.parity.samples == 12 for a in exact)
    assert all(0.99 < a.parity.cosine_min < 1 - 1e-6 for a in quantized)
    assert all(b.size_bytes < 0.5 * a.size_bytes for a, b in zip(exact, quantized, strict=True))
    for name in ("litert-torch", "ai-edge-litert", "ai-edge-quantizer"):
        assert artifacts[0].versions[name] == found.versions[name]
    here = str(tmp_path).encode()
    files = {a.tower: tmp_path / "litert-fp32" / a.file for a in exact}
    assert not any(here in file.read_bytes() for file in files.values())
    call = [str(found.python), "-c", INTERFACE, *(str(files[tower]) for tower in ("image", "text"))]
    image, text = json.loads(subprocess.run(call, capture_output=True, check=True).stdout)
    assert image == [{"pixels": [[1, 3, 32, 32], "float32"]}, {"image_embedding": [[1, 32], "float32"]}]
    assert text == [{"tokens": [[1, 16], "int32"]}, {"text_embedding": [[1, 32], "float32"]}]

    # The report's lines, run where the runtime is, say of a photo and a sentence what the student says.
    code = next(line["code"] for line in brief([a.to_json() for a in exact])["code"] if line["language"] == "python")
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    script = code.replace('"photo.jpg"', '"photo.png"').replace('"export/', '"').replace("a red circle", "a star")
    said = subprocess.run([str(found.python), "-c", script], cwd=tmp_path, capture_output=True, check=True, text=True)
    student, rules = load_student(student_dir), exact[0].preprocess
    with torch.no_grad():
        image_row = student.encode_image(torch.from_numpy(pixels_of(tmp_path / "photo.png", rules)))
        text_row = student.encode_text(student.tokenize(["a star"]))
    expected = float(torch.nn.functional.cosine_similarity(image_row, text_row))
    assert float(said.stdout.split()[-1]) == pytest.approx(expected, abs=1e-4)

    rows = profile(
        [tmp_path / "litert-fp32"], student_dir, ProfileSettings(devices=("host",), runs=6, rounds=2, warmup_runs=1)
    )
    measured = {
        row.tower for row in rows if row.runtime == f"LiteRT (ai-edge-litert {found.versions['ai-edge-litert']})"
    }
    assert measured == {"image", "text"}
