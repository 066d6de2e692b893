"""The frame of an ONNX file, and the ORT format of a model: the same embeddings from a graph that is fused already."""

from pathlib import Path

import numpy as np
import pytest
import torch

from export.settings import ExportSettings
from export.target import get_target
from export.towers.parity import run_all
from export.towers.tower import deployable_towers
from students.student import Student

pytestmark = pytest.mark.process


@pytest.mark.parametrize("asked", [9, 11])
def test_the_frame_is_the_one_asked_for(asked: int, tmp_path: Path) -> None:
    import onnx

    class Sum(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sum(-1)

    target = get_target("onnx").configured(ExportSettings.model_validate({"onnx": {"ir_version": asked}}))
    target.convert(torch.export.export(Sum(), (torch.rand(1, 4),)), "image", tmp_path / "x.onnx")
    model = onnx.load(tmp_path / "x.onnx")
    onnx.checker.check_model(model)
    assert model.ir_version == asked


@pytest.mark.parametrize("precision", ["fp32", "w8a8-dynamic"])
def test_the_same_model(precision: str, student: Student, tokens: np.ndarray, tmp_path: Path) -> None:
    _, text = deployable_towers(student)
    program = torch.export.export(text, (torch.from_numpy(tokens[:1]),))
    ort, onnx = get_target("ort", precision), get_target("onnx", precision)
    made = ort.convert(program, "text", tmp_path / "text.ort")
    plain = onnx.convert(program, "text", tmp_path / "text.onnx")
    assert (tmp_path / "text.ort").read_bytes()[4:8] == b"ORTM"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.onnx", "text.ort"]
    assert made.counts["Add"] < plain.counts["Add"]  # sums are fused into products
    found, wanted = (run_all(target.load(tmp_path / f"text{target.suffix}"), tokens) for target in (ort, onnx))
    assert np.abs(found - wanted).max() < 1e-5
