"""fp16 is called fragile where the order of summation decides what the file says, and not elsewhere."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill.core.errors import DistillError
from export.artifacts.folder import read_artifacts
from export.artifacts.record import ExportArtifact, ParityReport
from export.children.job import ExportJob, accept
from export.target import get_target
from export.towers.parity import Reference, check_file
from export.towers.tower import deployable_towers
from students.student import Student


def _converted(student: Student, path: Path) -> Path:
    image, _ = deployable_towers(student)
    pixels = torch.rand(1, 3, student.image_size, student.image_size)
    get_target("coreml").convert(torch.export.export(image, (pixels,)), "image", path)
    return path


def _reference(student: Student, pixels: np.ndarray) -> Reference:
    with torch.no_grad():
        image = student.encode_image(torch.from_numpy(pixels)).numpy()
    return Reference(pixels, np.zeros((2, 16), np.int32), image, image[:2])


@pytest.mark.process
def test_the_fp16_of_an_ill_conditioned_network_is_fragile(ill_conditioned: Student, tmp_path: Path) -> None:
    """That of a well-conditioned one is not: tests/export/test_run.py, test_fastvit_exports."""
    coarse = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    pixels = torch.nn.functional.interpolate(coarse, (64, 64), mode="bilinear").numpy()
    path = _converted(ill_conditioned, tmp_path / "image.mlpackage")
    found = check_file(get_target("coreml"), path, "image", _reference(ill_conditioned, pixels)).order_cosine_min
    assert found is not None
    assert found < 0.999


def test_runtimes_of_one_order_measure_none() -> None:
    assert get_target("onnx").other_orders(Path("x.onnx")) == []


@pytest.fixture
def job(tmp_path: Path) -> ExportJob:
    return ExportJob(get_target("coreml"), tmp_path, "request", 0.999, None, {}, "x", {"student": "s"})


def _artifact(cosine: float | None, order: float | None) -> ExportArtifact:
    parity = ParityReport("x", cosine, cosine, 1.0, 4, order)
    return ExportArtifact("coreml", "fp16", "image", "image.mlpackage", 1, "0", {}, {}, 1.0, {}, parity)


@pytest.mark.parametrize(
    ("order", "fragile"), [(None, False), (0.9999, False), (0.999, False), (0.9989, True), (float("nan"), True)]
)
def test_fragile_by_the_bar(job: ExportJob, order: float | None, fragile: bool) -> None:
    judged = job.judged(_artifact(0.9999, order))
    assert judged.parity.fragile is fragile
    assert job.judged(judged) == judged
    assert bool(job.fragility([judged])) is fragile
    assert not replace(job, bar=0.5).judged(_artifact(1.0, 0.6)).parity.fragile


@pytest.mark.parametrize(("centred", "missed"), [(0.95, False), (0.85, True), (float("nan"), True), (None, False)])
def test_quantized_files_are_held_to_a_centred_cosine_too(job: ExportJob, centred: float | None, missed: bool) -> None:
    parity = replace(_artifact(0.9999, None).parity, centred_cosine_mean=centred)
    assert not job.misses(parity)  # fp16 has no such bar
    said = replace(job, centred_bar=0.9).misses(parity)
    assert bool(said) is missed
    assert ("export.min_centred_cosine_quantized" in said) is missed


def test_the_message_of_a_failed_gate_names_it(job: ExportJob, tmp_path: Path, make_files: Callable[..., Any]) -> None:
    """A gate that fails with a steady program says nothing of fragility; cosines are told from the bar."""
    for order, said in ((0.9412, True), (0.99999, False)):
        with pytest.raises(DistillError, match=r"image: smallest cosine 0\.9450.*wanted 0\.99900") as caught:
            accept(job, *make_files(0.945, order))
        assert ("fp16 is fragile for this student" in str(caught.value)) is said
        assert ("0.94120" in str(caught.value)) is said
        kept = read_artifacts(tmp_path / "coreml-fp16.failed-parity")
        assert [a.parity.fragile for a in kept] == [said, False]
    close = replace(job, bar=0.99999999)
    with pytest.raises(DistillError, match=r"image: smallest cosine 0\.999999000, wanted 0\.999999990"):
        accept(close, *make_files(0.999999, 1.0))


@pytest.fixture
def make_files(tmp_path: Path) -> Callable[..., Any]:
    """A conversion that has ended with one report for the image tower and a perfect text tower."""
    from types import SimpleNamespace

    def make(cosine: float, order: float) -> tuple[Any, Reference, Path]:
        import tempfile

        from export.app.kit import AppKit

        work = Path(tempfile.mkdtemp(dir=tmp_path))
        AppKit.write(_tiny(), "softmax", work)
        folder = work / "files"
        folder.mkdir()
        reports = {"image": (cosine, order), "text": (1.0, 1.0)}
        result = {}
        for tower, (nearest, other) in reports.items():
            (folder / f"{tower}.mlpackage").write_text("x")
            parity = {"checked_by": "x", "cosine_min": nearest, "cosine_mean": 1.0, "top1_agreement": 1.0, "samples": 4}
            result[tower] = {
                "parity": {**parity, "order_cosine_min": other},
                "operations": {},
                "convert_s": 1.0,
                "check_s": 1.0,
            }
        zeros = np.zeros((1, 4), np.float32)
        reference = Reference(np.zeros((1, 3, 4, 4), np.float32), np.zeros((1, 4), np.int32), zeros, zeros)
        return SimpleNamespace(result=lambda: result, folder=folder), reference, work

    return make


def _tiny() -> Student:
    from students.spec import STUDENTS
    from students.student import build_student

    return build_student(STUDENTS.get("nano"), 0)
