"""Core AI's own converter and runtime, where their environment is: packages, interface, what they store, parity."""

import json
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill.core.errors import DistillError
from export.app.licence import Notice
from export.children.process import spawn
from export.run import export_student
from export.settings import ExportSettings
from export.target import get_target
from export.towers.parity import Reference

# What packages say of themselves, read with Core AI alone.
SUMMARY = """
import json, os, sys
from pathlib import Path
from coreai.authoring import AIModelAsset
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
found = []
for path in sys.argv[1:]:
    summary = AIModelAsset.load(Path(path)).summary()
    parts = [summary.function_names, summary.function_inputs("main"), summary.function_outputs("main")]
    found.append([*parts, dict(summary.storage_types), summary._compatibility_version])
json.dump(found, answers)
answers.flush()
os._exit(0)
"""


def test_names() -> None:
    assert get_target("core-ai").folder == "coreai-fp32"
    assert get_target("coreai-int8").folder == "coreai-w8"


@pytest.mark.process
def test_packages_agree_with_the_student(
    student_dir: Path, pixels: np.ndarray, tokens: np.ndarray, tmp_path: Path
) -> None:
    try:
        found = get_target("coreai").environment.find()
    except DistillError as absent:
        pytest.skip(str(absent))
    settings = ExportSettings(targets=("coreai",), precisions=("fp32", "fp16"), jobs=2, min_cosine=0.999)
    arguments: dict[str, Any] = {
        "pixels": pixels,
        "tokens": tokens,
        "licence": "CC-BY-NC-4.0",
        "provenance": {},
        "resume": False,
    }
    artifacts = export_student(student_dir, tmp_path, settings, **arguments)
    assert [(a.precision, a.tower) for a in artifacts] == [(p, t) for p in ("fp32", "fp16") for t in ("image", "text")]
    exact, halved = artifacts[:2], artifacts[2:]
    assert all(a.parity.cosine_min > 1 - 1e-6 and a.parity.samples == 12 for a in exact)
    assert all(1 - 1e-4 < a.parity.cosine_min < 1 - 1e-7 and a.parity.samples >= 1 for a in halved)
    told = json.loads((tmp_path / "coreai-fp32/image.aimodel/metadata.json").read_text())
    assert (told["license"], "creationDate" in told) == ("CC-BY-NC-4.0", False)
    assert artifacts[0].versions["coreai-core"] == found.versions["coreai-core"]
    here = str(tmp_path).encode()
    packages = [tmp_path / f"coreai-{a.precision}" / a.file for a in artifacts]
    assert not any(here in file.read_bytes() for place in packages for file in place.rglob("*") if file.is_file())
    call = [str(found.python), "-c", SUMMARY, *map(str, packages)]
    summaries = json.loads(subprocess.run(call, capture_output=True, check=True).stdout)
    pixels_in, tokens_in = "NDArray (Float32, 1 \u00d7 3 \u00d7 32 \u00d7 32)", "NDArray (Int32, 1 \u00d7 16)"
    for artifact, (names, given, made, stored, system) in zip(artifacts, summaries, strict=True):
        assert names == ["main"]
        assert given == [["pixels", pixels_in] if artifact.tower == "image" else ["tokens", tokens_in]]
        assert made == [[f"{artifact.tower}_embedding", "NDArray (Float32, 1 \u00d7 32)"]]  # float32 at every precision
        assert system == "27.0"
        floats = ("Float16", "Float32") if artifact.precision == "fp16" else ("Float32", "Float16")
        assert stored[floats[0]] > 30_000 > 10 > stored.get(floats[1], 0)


@pytest.mark.process
def test_learned_scales(tmp_path: Path) -> None:
    """Layers read int8 and hold int8, by Apple's quantizer, and its own runtime finds the embeddings still."""
    try:
        found = get_target("coreai").environment.find()
    except DistillError as absent:
        pytest.skip(str(absent))
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 4, stride=4), torch.nn.Flatten(), torch.nn.Linear(128, 32)).eval()
    pixels = torch.rand(8, 3, 8, 8)
    with torch.no_grad():
        outputs = net(pixels).numpy()
    torch.export.save(torch.export.export(net.requires_grad_(False), (pixels[:1],)), tmp_path / "image.pt2")
    Reference(pixels.numpy(), np.zeros((1, 4), np.int32), outputs, outputs[:1]).save(tmp_path / "reference.npz")
    np.savez(tmp_path / "calibration.npz", pixels=torch.rand(8, 3, 8, 8).numpy())
    job = {"target": "coreai-w8a8", "folder": str(tmp_path), "notice": asdict(Notice.of("MIT", {})), "programs": {"image": str(tmp_path / "image.pt2")},
           "reference": str(tmp_path / "reference.npz"), "calibration": str(tmp_path / "calibration.npz"), "result": str(tmp_path / "result.json")}  # fmt: skip
    (tmp_path / "job.json").write_text(json.dumps(job))
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = spawn(
            ["-m", "export.children.convert", str(tmp_path / "job.json")], threads=1, log=file, python=found.python
        )
        status = process.wait(600)  # seconds on an idle machine; it is here for a converter that hangs
    assert process.stdin is not None
    process.stdin.close()
    assert status == 0, log.read_text()
    made = json.loads((tmp_path / "result.json").read_text())["image"]
    counts, parity = made["operations"]["counts"], made["parity"]
    assert (counts["quantize"], counts["dequantize"], counts["blockwise_shift_scale"]) == (2, 2, 2)
    assert 0.98 < parity["centred_cosine_min"] < 0.99999
