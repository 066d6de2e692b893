"""Whole programs against the tower in float64 with what the file's weights expand to by coremltools (benchmarks/second_road.py has all)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.second_road import compare, inputs_of, road, weights_of
from export.mil.compressed import EXPANSIONS
from export.mil.program import MilProgram
from export.target import get_target
from export.towers.tower import deployable_towers
from students.student import Student

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files are made once."""
    return tmp_path_factory.mktemp("road")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "w8", "p6"])
def test_images(precision: str, student: Student, files: Path) -> None:
    image, _ = deployable_towers(student)
    row = compare(image, "image", inputs_of(student)["image"], precision, files)
    assert row["weights"] == row["of"] >= 7
    assert row["exact"] < 2e-6
    assert row["rounded"] > (1 - 1e-9 if precision == "fp32" else 1 - 1e-4)
    assert row["to eager"] == pytest.approx(row["road to eager"], abs=1e-4)
    if precision in ("w8", "p6"):
        assert row["road to eager"] < 1 - 1e-6  # the weights are the file's, not the student's


def test_a_text_tower_that_sees_all_tokens(make_student: Any, tmp_path: Path) -> None:
    student = make_student(text={"no_causal_mask": True}, custom_text=True)
    _, text = deployable_towers(student)
    row = compare(text, "text", inputs_of(student)["text"], "w8", tmp_path)
    assert row["weights"] == row["of"] >= 7
    assert row["exact"] < 2e-6


def test_the_road_sees_what_the_interpreter_gets_wrong(
    student: Student, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted wrong expansion (every weight one step too large) and a planted wrong mask."""
    image, text = deployable_towers(student)
    inputs = inputs_of(student)
    assert compare(image, "image", inputs["image"], "w8", files)["exact"] < 2e-6
    name = "constexpr_affine_dequantize"
    right = EXPANSIONS[name]
    monkeypatch.setitem(EXPANSIONS, name, lambda a: right(a) + a.tensor("scale").abs().min())
    assert compare(image, "image", inputs["image"], "w8", files)["exact"] > 1e-4
    monkeypatch.undo()
    target = get_target("coreml").at("fp32")
    path = files / "plain.mlpackage"
    tokens = inputs["text"]
    target.convert(torch.export.export(text, (tokens[:1].clone(),)), "text", path)
    program = MilProgram(path)
    other, _ = road(text, program, program, half=False)
    got = np.concatenate([program.run(row[None].numpy(), exact=True) for row in tokens])
    assert np.abs(got - other(tokens).detach().numpy()).max() < 2e-6
    masks = [buffer for key, buffer in other.named_buffers() if "mask" in key]
    assert masks
    masks[0].zero_()  # what stands behind is seen
    assert np.abs(got - other(tokens).detach().numpy()).max() > 1e-4


def test_expansions_are_coremltools_own(student: Student, files: Path) -> None:
    """What the road puts into the tower is not the interpreter's work: weights of a palette have its few values."""
    image, _ = deployable_towers(student)
    compare(image, "image", inputs_of(student)["image"], "p6", files)
    weights = weights_of(MilProgram(files / "image-p6.mlpackage"))
    assert any(len(np.unique(weight)) <= 64 < weight.size for weight in weights.values())
