"""A quantized file with chosen layers in floats: just those, in every target that can."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from distill.core.errors import DistillError
from export.app.licence import Notice
from export.children.process import spawn
from export.mil.program import MilProgram
from export.target import get_target
from export.targets.parts.kept import Kept, key_of
from export.towers.parity import Reference


class Net(nn.Module):
    """A convolution with a layer scale, a linear layer, a plain matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 64, 4, stride=4), nn.Linear(64, 96)
        self.matrix = nn.Parameter(torch.randn(96, 48) / 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(pixels)).mean((2, 3))
        z = torch.relu(self.fc(x[:, None])).squeeze(1) @ self.matrix
        return z / z.norm(dim=-1, keepdim=True)


WEIGHTS = {"conv.weight": (64, 3, 4, 4), "fc.weight": (96, 64), "matrix": (96, 48)}
MIXES = [
    ("coreml", "w8"),
    ("coreml", "p6"),
    ("coreml", "p4"),
    ("coreml", "w8a8"),
    ("onnx", "w8"),
    ("onnx", "w8a8-dynamic"),
    ("onnx", "w8a8"),
]


@pytest.fixture(scope="module")
def program() -> torch.export.ExportedProgram:
    torch.manual_seed(0)
    return torch.export.export(Net().eval().requires_grad_(False), (torch.rand(1, 3, 8, 8),))


def _written(program: torch.export.ExportedProgram, name: str, precision: str, kept: list[str], folder: Path) -> Path:
    target = get_target(name).at(precision).with_options({"kept": {"image": kept}})
    path = folder / f"{len(kept)}{target.suffix}"
    target.convert(
        program, "image", path, calibration=torch.rand(8, 3, 8, 8).numpy() if target.precision.calibrated else None
    )
    return path


def _floats(name: str, path: Path) -> set[tuple[int, ...]]:
    """Shapes (axes sorted) of the weights that a file holds as floats."""
    if name == "coreml":
        shapes = set()
        for op in MilProgram(path).operations:
            if op.op_type in ("conv", "linear", "matmul"):
                weight = op.inputs.get("weight") or op.inputs.get("y")
                if weight is not None and weight.op is not None and weight.op.op_type == "const":
                    shapes.add(tuple(sorted(weight.shape)))
        return shapes
    import onnx

    graph = onnx.load(path).graph
    return {tuple(sorted(item.dims)) for item in graph.initializer if item.data_type == 1 and len(item.dims) > 1}


@pytest.mark.parametrize(("name", "precision"), MIXES)
def test_just_those_stay_floats(
    name: str, precision: str, program: torch.export.ExportedProgram, tmp_path: Path
) -> None:
    quantized = set(map(tuple, map(sorted, WEIGHTS.values()))) - _floats(
        name, _written(program, name, precision, [], tmp_path)
    )
    assert tuple(sorted(WEIGHTS["fc.weight"])) in quantized
    left = _floats(name, _written(program, name, precision, ["fc.weight"], tmp_path))
    assert left & quantized == {tuple(sorted(WEIGHTS["fc.weight"]))}


def test_xnnpack_too(program: torch.export.ExportedProgram) -> None:
    """Before it is lowered: the linear layer that is kept reads floats, the matrix int8."""
    for precision, samples in (("w8a8-dynamic", None), ("w8a8", torch.rand(4, 3, 8, 8).numpy())):
        target = get_target("executorch-xnnpack").at(precision).with_options({"kept": {"image": ["fc.weight"]}})
        graph = target.prepared(program, "image", samples).graph
        (linear,) = [node for node in graph.nodes if "linear" in str(node.target)]
        (conv,) = [node for node in graph.nodes if "conv2d" in str(node.target)]
        assert not any("dequantize" in str(source.target) for source in linear.all_input_nodes)
        assert any("dequantize" in str(source.target) for source in conv.all_input_nodes) is (samples is not None)
        plain = get_target("executorch-xnnpack").at(precision).prepared(program, "image", samples).graph
        (linear,) = [node for node in plain.nodes if "linear" in str(node.target)]
        assert sum("dequantize" in str(source.target) for source in linear.all_input_nodes) == 2


def test_a_layer_that_is_not_there_is_refused(program: torch.export.ExportedProgram, tmp_path: Path) -> None:
    for name in ("onnx-w8", "executorch-xnnpack-w8a8-dynamic"):
        target = get_target(name).with_options({"kept": {"image": ["gone.weight"]}})
        with pytest.raises(DistillError, match=r"'gone.weight'.*not in this model"):
            target.convert(program, "image", tmp_path / "x")
    kept = Kept(program, ["fc.weight", "matrix"])
    assert kept.holds(program.state_dict["fc.weight"].numpy().T)
    with pytest.raises(DistillError, match="Somebody has merged 'matrix'"):
        kept.check("Somebody")


def test_a_weight_is_known_by_its_numbers() -> None:
    random = np.random.default_rng(0)
    weight = random.normal(size=(8, 6)).astype(np.float32)
    assert key_of(weight) == key_of(weight.T) == key_of(weight.astype(np.float16).reshape(-1))
    other = weight.copy()
    other[0, 0] *= 1.01
    assert key_of(other) != key_of(weight)


@pytest.mark.process
def test_litert_too(program: torch.export.ExportedProgram, tmp_path: Path) -> None:
    """In its environment: what is kept takes four bytes a number, and the rest one."""
    try:
        found = get_target("litert").environment.find()  # type: ignore[union-attr]
    except DistillError as absent:
        pytest.skip(str(absent))
    pixels = torch.rand(2, 3, 8, 8)
    outputs = program.module()(pixels[:1]).numpy()
    torch.export.save(program, tmp_path / "image.pt2")
    Reference(pixels[:1].numpy(), np.zeros((1, 4), np.int32), outputs, outputs).save(tmp_path / "reference.npz")
    job = {"target": "litert-w8", "options": {"kept": {"image": ["fc.weight"]}}, "folder": str(tmp_path), "notice": asdict(Notice.of("MIT", {})),
           "programs": {"image": str(tmp_path / "image.pt2")}, "reference": str(tmp_path / "reference.npz"), "calibration": "", "result": str(tmp_path / "result.json")}  # fmt: skip
    (tmp_path / "job.json").write_text(json.dumps(job))
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = spawn(
            ["-m", "export.children.convert", str(tmp_path / "job.json")], threads=1, log=file, python=found.python
        )
        status = process.wait(120)
    assert process.stdin is not None
    process.stdin.close()
    assert status == 0, log.read_text()
    numbers = {name: int(np.prod(shape)) for name, shape in WEIGHTS.items()}
    stored = 4 * numbers["fc.weight"] + numbers["conv.weight"] + numbers["matrix"]
    assert stored < (tmp_path / "image.tflite").stat().st_size < stored + 2 * numbers["matrix"]
    assert json.loads((tmp_path / "result.json").read_text())["image"]["parity"]["cosine_min"] > 0.999
