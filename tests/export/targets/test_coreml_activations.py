"""Core ML with int8 activations: learned ranges by hand, where the operations stand, what they compute, and a collapse at the gate."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from export.artifacts.folder import hash_path
from export.children.job import ExportJob
from export.mil.coremltools import import_coremltools
from export.mil.program import MilProgram
from export.settings import ExportSettings
from export.target import get_target
from export.targets.parts.coreml_activations import ranges
from export.towers.parity import compare, required_cosine


class Net(nn.Module):
    """A convolution, an addition and a linear layer; weights of fewer than 2048 numbers would stay floats."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 64, 4, stride=4), nn.Linear(64, 64)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.conv(pixels))
        y = y + y.flip(-1)
        z = self.fc(y.mean((2, 3)))
        return z / z.norm(dim=-1, keepdim=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Net, Path, np.ndarray]:
    torch.manual_seed(0)
    net = Net().eval().requires_grad_(False)
    samples = torch.rand(20, 3, 8, 8).numpy()
    path = tmp_path_factory.mktemp("coreml") / "image.mlpackage"
    convert(net, path, samples)
    return net, path, samples


def convert(net: nn.Module, path: Path, samples: np.ndarray) -> dict[str, int]:
    program = torch.export.export(net, (torch.from_numpy(samples[:1]),))
    return get_target("coreml").at("w8a8").convert(program, "image", path, calibration=samples).counts


def test_layers_read_int8_and_additions_do_not(made: tuple[Net, Path, np.ndarray]) -> None:
    _, path, _ = made
    operations = MilProgram(path).operations
    readers: dict[str, list[str]] = {}
    for op in operations:
        for variable in op.inputs.values():
            if getattr(variable, "op", None) is not None:
                readers.setdefault(op.op_type, []).append(variable.op.op_type)
    assert readers["conv"][0] == readers["linear"][0] == "dequantize"
    assert "dequantize" not in readers["add"]
    assert sum(op.op_type == "quantize" for op in operations) == 2
    ct = import_coremltools()
    spec = ct.models.MLModel(str(path), skip_model_load=True).get_spec()
    assert spec.specificationVersion == 8  # iOS 17, although nobody asked for it


def test_layers_compute_what_int8_layers_compute(made: tuple[Net, Path, np.ndarray]) -> None:
    """Each against torch, given the same input, which and whose weights are rounded to int8 by hand."""
    net, path, samples = made
    program = MilProgram(path)
    seen: dict[str, list[torch.Tensor]] = {}
    for sample in samples:
        program.run(sample[None], see=lambda name, value: seen.setdefault(name, []).append(value))
    values = {name: torch.cat(rows) for name, rows in seen.items()}

    pixels = torch.from_numpy(samples)
    hidden = torch.relu(net.conv(pixels))
    inputs = {
        "conv": pixels,
        "linear": (hidden + hidden.flip(-1)).mean((2, 3)),
    }  # of the float network, as it is calibrated

    def eight(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Over the range of `like`, which holds zero, in 255 steps."""
        low, high = min(float(like.min()), 0.0), max(float(like.max()), 0.0)
        scale = (high - low) / 255
        return ((x - low) / scale).round() * scale + low

    def weight(w: torch.Tensor) -> torch.Tensor:
        scale = w.abs().flatten(1).amax(1).div(127).view(-1, *[1] * (w.dim() - 1))
        return (w / scale).round() * scale

    def conv(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(x, w, net.conv.bias, stride=4)

    def linear(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, w, net.fc.bias)

    for op in program.operations:
        if op.op_type in ("conv", "linear"):
            layer, w = (conv, net.conv.weight) if op.op_type == "conv" else (linear, net.fc.weight)
            floats = values[op.inputs["x"].op.inputs["input"].op.inputs["input"].name]
            got, wanted, exact = (
                values[op.outputs[0].name],
                layer(eight(floats, inputs[op.op_type]), weight(w)),
                layer(floats, w),
            )
            error, without = float((got - wanted).abs().mean()), float((got - exact).abs().mean())
            assert error < 0.6 * without  # what is left: fp16 of the scales and of the result
            assert without < 0.02


def test_ranges_are_over_all_samples(made: tuple[Net, Path, np.ndarray]) -> None:
    """coremltools' own function keeps the last sample's only."""
    _, path, samples = made
    program = MilProgram(path)
    found = ranges(program, samples)
    assert found["pixels"]["rmin"] == pytest.approx(samples.min(), abs=1e-3)
    assert found["pixels"]["rmax"] == pytest.approx(samples.max(), abs=1e-3)
    alone = [ranges(program, samples[i : i + 1]) for i in range(len(samples))]
    for name, seen in found.items():
        assert seen == {
            "rmin": min(one[name]["rmin"] for one in alone),
            "rmax": max(one[name]["rmax"] for one in alone),
        }


def test_equal_exports_are_equal(made: tuple[Net, Path, np.ndarray], tmp_path: Path) -> None:
    """Whatever the process did before: programs that were built, read, or given up half-way leave their numbers in coremltools."""
    import_coremltools()
    from coremltools.converters.mil import Builder as mb

    net, path, samples = made
    convert(net, tmp_path / "image.mlpackage", samples)
    assert hash_path(tmp_path / "image.mlpackage") == hash_path(path)

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 4))])
    def unfinished(x: Any) -> Any:
        return mb.relu(x=mb.linear(x=x, weight=np.ones((4, 4), np.float32)))

    assert mb.name_count["linear"]
    convert(net, tmp_path / "later.mlpackage", samples)
    assert hash_path(tmp_path / "later.mlpackage") == hash_path(path)


def test_a_collapse_fails_at_the_gate(made: tuple[Net, Path, np.ndarray], tmp_path: Path) -> None:
    """A few channels hundreds of times larger than what tells pictures apart, as in large ViTs: int8 has no steps left for that."""
    net, _, samples = made
    torch.manual_seed(1)

    class Outliers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = net.conv, nn.Linear(65, 64)
            self.fc.weight.data[:, -1] *= 1e-3

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            y = torch.relu(self.conv(pixels)).mean((2, 3))
            z = self.fc(torch.cat([y, y[:, :1] * 0 + 400], 1))
            return z / z.norm(dim=-1, keepdim=True)

    outliers = Outliers().eval().requires_grad_(False)
    settings = ExportSettings()
    target = get_target("coreml").at("w8a8")
    told: dict[str, Any] = {}
    for name, module in (("fine", net), ("outliers", outliers)):
        convert(module, tmp_path / f"{name}.mlpackage", samples)
        program = MilProgram(tmp_path / f"{name}.mlpackage")
        got = np.concatenate([program.run(sample[None]) for sample in samples])
        eager = module(torch.from_numpy(samples)).numpy()
        job = ExportJob(
            target,
            tmp_path,
            "",
            required_cosine(target.precision, settings),
            settings.min_centred_cosine_quantized,
            {},
            "",
            {},
        )
        told[name] = job.misses(compare(got, eager, eager, ""))
    assert told["fine"] == ""
    assert "cosine" in told["outliers"]
