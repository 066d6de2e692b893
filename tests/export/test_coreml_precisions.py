"""Core ML at every precision: what is stored, how near it comes, and that a palette is a good one."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.core.errors import UsageError
from export.artifacts.folder import hash_path, size_of
from export.mil.coremltools import import_coremltools
from export.target import get_target
from export.targets.coreml import _without_aliases
from export.targets.parts.coreml_weights import palette
from export.towers.parity import Reference, check_file
from export.towers.tower import deployable_towers
from students.student import Student


def test_palettes_are_as_good_as_the_best() -> None:
    """Against coremltools' k-means in one dimension, which finds the optimum (and takes a hundred times as long)."""
    import_coremltools()
    from coremltools._deps import kmeans1d

    random = np.random.default_rng(0)
    heavy = np.concatenate([random.normal(size=3000), random.normal(size=30) * 20])
    for values in (random.normal(size=2000), random.uniform(size=500), heavy):
        values = values.astype(np.float16)
        for bits in (4, 6, 8):
            table, index = palette(values, bits)
            clusters, centres = kmeans1d.cluster(values.astype(np.float64), 1 << bits)
            best = np.square(np.array(centres)[clusters] - values.astype(np.float64)).mean()
            assert np.square(table[index].astype(np.float64) - values).mean() < 1.1 * best
            nearest = np.abs(values[:, None].astype(np.float64) - table[None].astype(np.float64)).min(1)
            np.testing.assert_allclose(np.abs(table[index].astype(np.float64) - values), nearest, atol=2e-2)
            assert table.dtype == values.dtype
            assert index.dtype == np.uint8


def test_few_values_are_kept_as_they_are() -> None:
    values = np.array([[0, -10_000], [0.5, 0]], np.float16)
    table, index = palette(values, 4)
    assert table.shape == (16,)
    assert np.array_equal(table[index].reshape(2, 2), values)


def test_int8_means_weights_alone() -> None:
    assert get_target("coreml").at("int8").precision.name == "w8"
    with pytest.raises(UsageError, match="w8a16"):
        get_target("coreml").at("w8a16")


@pytest.mark.process
def test_each_precision_is_stored_and_checked(student: Student, pixels: np.ndarray, tmp_path: Path) -> None:
    image, _ = deployable_towers(student)
    program = torch.export.export(image, (torch.from_numpy(pixels[:1]),))
    with torch.no_grad():
        eager = student.encode_image(torch.from_numpy(pixels)).numpy()
    reference = Reference(pixels, np.zeros((1, 16), np.int32), eager, eager)
    ct = import_coremltools()
    sizes, cosines = {}, {}
    for name, version, op in (
        ("fp32", 8, ""),
        ("fp16", 8, ""),
        ("w8", 8, "constexpr_affine_dequantize"),
        ("p8", 8, "constexpr_lut_to_dense"),
        ("p4", 9, "constexpr_lut_to_dense"),
    ):
        target, path = get_target("coreml").at(name), tmp_path / f"{name}.mlpackage"
        target.convert(program, "image", path)
        spec = ct.models.MLModel(str(path), skip_model_load=True).get_spec()
        assert spec.specificationVersion == version
        (body,) = spec.mlProgram.functions["main"].block_specializations.values()
        found = {operation.type for operation in body.operations if operation.type.startswith("constexpr")}
        assert found == ({op} if op else set())
        assert "com.github.apple.coremltools.conversion_date" not in spec.description.metadata.userDefined
        report = check_file(target, path, "image", reference)
        assert report.cosine_min is not None
        sizes[name], cosines[name] = size_of(path), report.cosine_min
        assert ("expanded" in report.checked_by) is bool(op)
    assert cosines["fp32"] > 0.999999
    assert cosines["fp16"] > 0.9999
    assert min(cosines["w8"], cosines["p8"]) > 0.998
    assert cosines["w8"] > cosines["p4"] > 0.9
    assert sizes["fp32"] > 1.6 * sizes["fp16"] > 1.6 * 1.4 * sizes["w8"] > 1.6 * 1.4 * 1.1 * sizes["p4"]
    again = tmp_path / "again.mlpackage"
    get_target("coreml").at("p4").convert(program, "image", again)
    assert hash_path(again) == hash_path(tmp_path / "p4.mlpackage")
    shutil.rmtree(again)


def test_names_that_mean_another_node_are_taken_away() -> None:
    """SigLIP's attention pool has aten.alias, which coremltools does not convert."""

    class Named(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.aten.alias(torch.ops.aten.alias(x) * 2) + 1

    x = torch.arange(6.0)[None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecating its own internals
        program = torch.export.export(Named(), (x,)).run_decompositions({})
        assert "alias" in str(program.graph)
        without = _without_aliases(program)
        assert "alias" not in str(without.graph)
        assert torch.equal(without.module()(x), x * 2 + 1)
