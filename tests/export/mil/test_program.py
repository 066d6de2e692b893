"""The reference on whole saved packages: rounding, weights read from disk, and programs that it does not know."""

import gc
import warnings
from pathlib import Path

import numpy as np
import pytest

from export.mil.coremltools import import_coremltools
from export.mil.program import MilProgram
from export.target import NotCheckedError

ct = import_coremltools()
from coremltools.converters.mil.mil import Builder as mb  # noqa: E402
from coremltools.converters.mil.mil import types  # noqa: E402

X = np.random.default_rng(0).normal(size=(1, 6)).astype(np.float32)
WEIGHT = np.random.default_rng(1).normal(size=(64, 6)).astype(np.float32)  # large enough to go to weight.bin


def _save(path: Path, body: object, precision: str) -> Path:
    program = mb.program(input_specs=[mb.TensorSpec(shape=(1, 6), dtype=types.fp32)], opset_version=ct.target.iOS17)(
        body
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # coremltools leaves its temporary folders to the collector
        model = ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=getattr(ct.precision, precision),
            skip_model_load=True,
        )
        model.save(str(path))
        del model
        gc.collect()
    return path


def test_fp16_rounds_after_each_operation(tmp_path: Path) -> None:
    def body(x: object) -> object:
        return mb.mul(x=mb.linear(x=x, weight=WEIGHT), y=np.float32(0.1))

    half = MilProgram(_save(tmp_path / "half.mlpackage", body, "FLOAT16")).run(X)
    product = (X.astype(np.float16).astype(np.float32) @ WEIGHT.astype(np.float16).astype(np.float32).T).astype(
        np.float16
    )
    expected = (product.astype(np.float32) * np.float32(np.float16(0.1))).astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(
        half, expected, rtol=2e-3
    )  # one unit in the last place: the sums may differ before rounding
    assert np.mean(half == expected) > 0.9
    assert np.array_equal(half, half.astype(np.float16))

    full = MilProgram(_save(tmp_path / "full.mlpackage", body, "FLOAT32")).run(X)
    np.testing.assert_allclose(full, X @ WEIGHT.T * 0.1, rtol=1e-5)


def test_the_operation_that_goes_astray_is_named(tmp_path: Path) -> None:
    """A planted overflow between two sound operations, and one that is none in fp32."""

    def body(x: object) -> object:
        large = mb.mul(x=mb.linear(x=x, weight=WEIGHT, name="sound"), y=np.float32(3e4), name="large")
        return mb.mul(x=mb.mul(x=large, y=large, name="square"), y=np.float32(1e-9), name="small")

    found = MilProgram(_save(tmp_path / "half.mlpackage", body, "FLOAT16")).first_divergence(X)
    assert found.startswith("mul 'large"), found
    largest = (
        np.abs(X.astype(np.float16).astype(np.float64) @ WEIGHT.astype(np.float16).astype(np.float64).T).max() * 3e4
    )
    assert largest > 65504
    assert float(found.split()[-1]) == pytest.approx(largest, rel=0.01)
    assert MilProgram(_save(tmp_path / "full.mlpackage", body, "FLOAT32")).first_divergence(X) == ""

    def sound(x: object) -> object:
        return mb.mul(x=mb.linear(x=x, weight=WEIGHT), y=np.float32(0.1))

    assert MilProgram(_save(tmp_path / "sound.mlpackage", sound, "FLOAT16")).first_divergence(X) == ""


def test_fp16_overflows_where_fp16_does(tmp_path: Path) -> None:
    def body(x: object) -> object:
        return mb.mul(x=mb.mul(x=x, y=np.float32(60000)), y=np.float32(1e-4))

    out = MilProgram(_save(tmp_path / "m.mlpackage", body, "FLOAT16")).run(np.full((1, 6), 3, np.float32))
    assert np.isinf(out).all()


def test_unknown_operations_are_named(tmp_path: Path) -> None:
    def body(x: object) -> object:
        return mb.cosh(x=mb.atan(x=x))

    with pytest.raises(NotCheckedError, match="not checked: op atan, cosh"):
        MilProgram(_save(tmp_path / "m.mlpackage", body, "FLOAT32"))
