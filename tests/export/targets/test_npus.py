"""ExecuTorch's delegates for accelerators: what is missing is said without importing it; lowering, with stand-ins for two vendors' compilers."""

import json
import logging
import re
import subprocess
import sys
import types
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from distill.core.errors import DistillError
from export.app.licence import Notice
from export.children.process import spawn
from export.settings import ExportSettings
from export.target import NotCheckedError, get_target
from export.targets.parts.npu import agreement
from export.towers.parity import Reference

VENDORS = {
    "executorch-qnn": "QNN_SDK_ROOT",
    "executorch-mediatek": "mtk_converter and mtk_neuron",
    "executorch-samsung": "EXYNOS_AI_LITECORE_ROOT",
}


@pytest.mark.parametrize("name", VENDORS)
def test_a_missing_sdk_is_told_with_what_to_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QNN_SDK_ROOT", raising=False)
    target = get_target(name)
    monkeypatch.setattr(type(target), "requires", {"executorch": "executorch>=1.4,<1.5"})
    assert VENDORS[name] in (target.missing() or "")
    with pytest.raises(DistillError, match=f"(?s){name}.*needs its vendor's tools.*{VENDORS[name]}"):
        target.require_packages()
    assert not any(
        module.startswith("executorch.backends.qualcomm") for module in sys.modules
    )  # it would start a download
    with pytest.raises(NotCheckedError, match="compare the golden samples there"):
        target.load(Path("x.pte"))


def test_qualcomms_sdk_is_looked_for_where_the_loader_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target: Any = get_target("executorch-qnn")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    libraries = tmp_path / "lib/x86_64-linux-clang"
    libraries.mkdir(parents=True)
    monkeypatch.setenv("QNN_SDK_ROOT", str(tmp_path))
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/elsewhere:{libraries}")
    assert target.lacks()
    (libraries / "libQnnHtp.so").touch()
    assert not target.lacks()
    monkeypatch.setenv("LD_LIBRARY_PATH", "/elsewhere")
    assert target.lacks()


@pytest.mark.parametrize(
    ("name", "setting", "chip"),
    [
        ("executorch-ethos-u", "ethos_u", "ethos-u55-128"),
        ("executorch-vgf", "vgf", "TOSA-1.0+FP"),
        ("executorch-qnn", "qualcomm", "SM8750"),
        ("executorch-mediatek", "mediatek", "mt6993"),
        ("executorch-samsung", "samsung", "E9965"),
    ],
)
def test_the_chip_is_a_choice(name: str, setting: str, chip: str) -> None:
    plain: Any = get_target(name).configured(ExportSettings())
    chosen: Any = get_target(name).configured(ExportSettings.model_validate({"chips": {setting: chip}}))
    assert (plain.options, chosen.options) == ({}, {"chip": chip})
    assert chip in chosen.runs_on
    assert plain.chosen_chip == getattr(ExportSettings().chips, setting)
    with pytest.raises(ValueError, match=setting):
        ExportSettings.model_validate({"chips": {setting: "toaster"}})


class Net(nn.Module):
    """A linear layer and an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.fc(pixels))


@pytest.fixture
def program() -> torch.export.ExportedProgram:
    torch.manual_seed(0)
    return torch.export.export(Net().eval().requires_grad_(False), (torch.rand(1, 8),))


def _module(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> Any:
    module = types.ModuleType(name)
    vars(module).update(content)
    parent, _, own = name.rpartition(".")
    if parent:
        monkeypatch.setattr(sys.modules[parent], own, module, raising=False)
    monkeypatch.setitem(sys.modules, name, module)
    return module


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # in what executorch imports
def test_mediateks_lowering(
    program: torch.export.ExportedProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With stand-ins for its converter and compiler, which are told the graph and the chip."""
    logging.disable(logging.INFO)
    import executorch.exir  # noqa: F401

    asked: list[Any] = []

    class Converter:
        @classmethod
        def from_exported_program(cls, edge: Any) -> "Converter":
            asked.append([str(node.target) for node in edge.graph.nodes if node.op == "call_function"])
            return cls()

        def convert_to_mlir(self) -> str:
            return "mlir"

    for name in ("mtk_converter", "mtk_converter.python", "mtk_converter.python.converters"):
        _module(monkeypatch, name, PyTorchV2Converter=Converter)
    importer = _module(monkeypatch, "importer_v2", is_fx_node_supported=lambda node: True)
    _module(monkeypatch, "mtk_converter.python.converters.pytorch", importer_v2=importer)
    _module(monkeypatch, "mtk_neuron", compile=lambda mlir, options: asked.append(options) or b"compiled")
    target = get_target("executorch-mediatek").with_options({"chip": "mt6993"})
    made = target.convert(program, "image", tmp_path / "image.pte")
    assert any("linear" in name or "addmm" in name for name in asked[0])
    assert "--platform-config=mt6993" in asked[1]
    assert (made.subgraphs, made.left) == (1, {})
    written = (tmp_path / "image.pte").read_bytes()
    assert b"compiled" in written
    assert b"NeuropilotBackend" in written
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # executorch's imports use what Python deprecates
        quantized = get_target("executorch-mediatek-w8a8").prepared(
            program, "image", np.random.default_rng(0).random((4, 8), np.float32)
        )  # type: ignore[attr-defined]
    assert any("quantize_per" in str(node.target) for node in quantized.graph.nodes)
    logging.disable(logging.NOTSET)


def test_qualcomms_lowering_is_told_the_chip(tmp_path: Path) -> None:
    """Its compile specification is a flatbuffer of the wheel's own; in a process whose SDK is an empty folder, so that none is fetched."""
    pytest.importorskip("cpuinfo", reason="pip install py-cpuinfo")
    code = """
import warnings; warnings.simplefilter("ignore")
from export.target import get_target
from executorch.backends.qualcomm.serialization.qc_schema_serialize import flatbuffer_to_option
(spec,) = get_target("executorch-qnn").with_options({"chip": "SM8750"})._compile_specs()
options = flatbuffer_to_option(spec.value)
print(options.soc_info.soc_model.name, options.backend_options.htp_options.precision.name)
"""
    environ = {"QNN_SDK_ROOT": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert done.stdout.split()[-2:] == ["SM8750", "kHtpFp16"], done.stderr


def test_agreement_tells_a_collapse(program: torch.export.ExportedProgram) -> None:
    samples = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    assert agreement(program, program, samples) == pytest.approx(1)
    torch.manual_seed(5)
    other = torch.export.export(Net().eval().requires_grad_(False), (torch.rand(1, 8),))
    outputs = [
        made.module()(torch.from_numpy(samples)[i : i + 1]).numpy()[0] for made in (program, other) for i in range(16)
    ]
    eager, got = (np.array(part, np.float64) for part in (outputs[:16], outputs[16:]))
    a, b = eager - eager.mean(0), got - eager.mean(0)
    by_hand = np.mean([x @ y / np.sqrt((x @ x) * (y @ y)) for x, y in zip(a, b, strict=True)])
    assert agreement(program, other, samples) == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.process
@pytest.mark.parametrize(
    ("name", "backend"), [("executorch-ethos-u-w8a8", b"EthosUBackend"), ("executorch-vgf-fp32", b"VgfBackend")]
)
def test_arms_compilers(name: str, backend: bytes, program: torch.export.ExportedProgram, tmp_path: Path) -> None:
    """Real ones, where their environments are."""
    try:
        found = get_target(name).environment.find()  # type: ignore[union-attr]
    except DistillError as absent:
        pytest.skip(str(absent))
    samples = torch.rand(8, 8)
    outputs = program.module()(samples[:1]).numpy()
    torch.export.save(program, tmp_path / "image.pt2")
    Reference(samples[:1].numpy(), np.zeros((1, 4), np.int32), outputs, outputs).save(tmp_path / "reference.npz")
    np.savez(tmp_path / "calibration.npz", pixels=samples.numpy())
    places = {
        key: str(tmp_path / file)
        for key, file in (("reference", "reference.npz"), ("calibration", "calibration.npz"), ("result", "result.json"))
    }
    job = {
        "target": name,
        "folder": str(tmp_path),
        "notice": asdict(Notice.of("MIT", {})),
        "programs": {"image": str(tmp_path / "image.pt2")},
    }
    (tmp_path / "job.json").write_text(json.dumps({**job, **places}))
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = spawn(
            ["-m", "export.children.convert", str(tmp_path / "job.json")], threads=1, log=file, python=found.python
        )
        status = process.wait(300)
    assert process.stdin is not None
    process.stdin.close()
    assert status == 0, log.read_text()
    made = json.loads((tmp_path / "result.json").read_text())["image"]
    assert "not checked: only" in made["parity"]["checked_by"]
    assert made["operations"]["subgraphs"] >= 1
    assert backend in (tmp_path / "image.pte").read_bytes()
    if "w8a8" in name:
        assert re.search(r"mean-centred cosine (0\.9\d\d|1\.000)\.$", made["operations"]["why"]["quantized"])
        assert "Accelerator configuration               Ethos_U85_256" in log.read_text()
