"""iPhones and Macs without one: devicectl's listing, and the timing against stand-ins of coremltools' own interface."""

import dataclasses
import inspect
import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from distill.core.errors import DistillError
from export.artifacts.folder import read_artifacts
from export.artifacts.record import ExportArtifact
from export.device import DEVICES, DeviceInfo
from export.devices.apple import NO_DEVELOPER_MODE, NO_MAC, NO_TEAM, parse_devicectl
from export.devices.parts.core_ml import UNITS, measure_core_ml
from export.devices.parts.golden import golden_sample
from export.mil.coremltools import import_coremltools
from export.settings import ProfileSettings

EXPERIMENTAL = "coremltools.models.ml_program.experimental"


def _device(udid: str, kind: str = "iPhone", state: str = "connected", developer: str = "enabled") -> dict[str, Any]:
    """As `xcrun devicectl list devices --json-output` has it."""
    return {
        "identifier": f"id-{udid}",
        "deviceProperties": {
            "name": "Ada's phone", "osVersionNumber": "18.2", "osBuildUpdate": "22C152", "developerModeStatus": developer,
        },
        "hardwareProperties": {"deviceType": kind, "udid": udid, "marketingName": "iPhone 15", "productType": "iPhone15,4"},
        "connectionProperties": {"tunnelState": state},
    }  # fmt: skip


def test_devices_of_devicectl() -> None:
    listing = {
        "result": {
            "devices": [
                _device("A"),
                _device("B", state="disconnected"),
                _device("C", developer="disabled"),
                _device("D", "appleWatch"),
                {"identifier": "half"},
            ]
        }
    }
    found = {device.name: device for device in parse_devicectl(listing, "TEAM")}
    assert set(found) == {"A", "B", "C"}
    assert found["A"] == DeviceInfo(
        "A", "apple", "iPhone 15", "iOS 18.2 22C152", {"Core ML": "iOS 18.2 22C152"}, ready=True
    )
    assert "not connected (disconnected)" in found["B"].missing
    assert found["C"].missing == NO_DEVELOPER_MODE
    assert parse_devicectl(listing, "")[0].missing == NO_TEAM
    assert parse_devicectl({}, "TEAM") == []


def test_elsewhere_than_on_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.devices.apple.sys.platform", "linux")
    assert [device.missing for device in DEVICES.get("apple").find()] == [NO_MAC]


@pytest.mark.process
def test_coremltools_has_what_is_called() -> None:
    """The experimental interface, as the installed coremltools has it: names, parameters, fields."""
    import importlib

    import_coremltools()

    def of(module: str, name: str) -> Any:
        return getattr(importlib.import_module(f"{EXPERIMENTAL}.{module}"), name)

    def takes(function: Any, *names: str) -> None:
        assert set(names) <= set(inspect.signature(function).parameters)

    wrapper, benchmarker = of("async_wrapper", "MLModelAsyncWrapper"), of("perf_utils", "MLModelBenchmarker")
    takes(wrapper.from_spec_or_path, "spec_or_path", "weights_dir", "compute_units", "device")
    takes(wrapper.predict, "inputs", "state")
    for name in ("load", "unload", "load_duration_in_nano_seconds", "last_predict_duration_in_nano_seconds"):
        assert hasattr(wrapper, name)
    takes(benchmarker, "model", "device")
    takes(benchmarker.benchmark_operation_execution, "inputs", "iterations", "warmup")
    fields = {field.name for field in dataclasses.fields(benchmarker.OperationExecutionInfo)}
    assert {"spec", "compute_device_usage", "measurement"} <= fields
    takes(of("remote_device", "AppSigningCredentials"), "development_team")
    takes(of("remote_device", "Device").prepare_for_model_debugging, "credentials")
    devices = importlib.import_module("coremltools.models.compute_device")
    assert all(hasattr(devices, name) for name in UNITS)


class _Wrapper:
    """Answers the golden embedding; its calls take 9 ms at first, then 2, 3, 4 ms by turns."""

    answer: ClassVar[np.ndarray]
    load_duration_in_nano_seconds = 5_000_000
    asked: ClassVar[list[Any]] = []

    def __init__(self) -> None:
        self.calls = 0

    @classmethod
    def from_spec_or_path(cls, **given: Any) -> "_Wrapper":
        cls.asked.append(given["device"])
        return cls()

    async def load(self) -> None:
        return None

    async def unload(self) -> None:
        return None

    async def predict(self, inputs: dict[str, Any], state: Any) -> dict[str, Any]:
        (value,) = inputs.values()
        assert value.shape[0] == 1
        self.calls += 1
        return {"embedding": self.answer[None]}

    @property
    def last_predict_duration_in_nano_seconds(self) -> int:
        return 9_000_000 if self.calls <= 2 else (2 + self.calls % 3) * 1_000_000


class MLNeuralEngineComputeDevice:
    pass


class MLCPUComputeDevice:
    pass


class _Benchmarker:
    def __init__(self, model: Any, device: Any) -> None:
        pass

    async def benchmark_operation_execution(self, **given: Any) -> list[Any]:
        def operation(kind: str, unit: Any, ms: float) -> Any:
            usage = type("Usage", (), {"preferred_compute_device": unit})()
            measured = type("Measured", (), {"statistics": type("Statistics", (), {"median": ms})()})()
            spec = type("Spec", (), {"type": kind})()
            return type("Info", (), {"spec": spec, "compute_device_usage": usage, "measurement": measured})()

        constant = type(
            "Info", (), {"compute_device_usage": None, "measurement": type("M", (), {"statistics": None})()}
        )()
        engine, cpu = MLNeuralEngineComputeDevice(), MLCPUComputeDevice()
        return [
            operation("conv", engine, 0.5),
            operation("conv", engine, 0.25),
            operation("gather", cpu, 0.1),
            constant,
        ]


@pytest.fixture
def core_ml(exported: tuple[Path, list[ExportArtifact]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Core ML folder with the image tower alone, and stand-ins for what needs a Mac."""
    folder = tmp_path / "coreml-fp16"
    shutil.copytree(exported[0] / "coreml-fp16", folder)
    image = next(item for item in read_artifacts(folder) if item.tower == "image")
    given, answer = golden_sample(folder, image)
    assert given is not None
    assert answer is not None
    _Wrapper.answer = answer
    import_coremltools()
    monkeypatch.setattr(f"{EXPERIMENTAL}.async_wrapper.MLModelAsyncWrapper", _Wrapper)
    monkeypatch.setattr(f"{EXPERIMENTAL}.perf_utils.MLModelBenchmarker", _Benchmarker)
    return folder


@pytest.mark.process
def test_a_package_is_timed_and_placed(core_ml: Path) -> None:
    image = [item for item in read_artifacts(core_ml) if item.tower == "image"]
    settings = ProfileSettings(runs=6, warmup_runs=2, rounds=2)
    info = DeviceInfo("mac", "apple", "arm64", "macOS 15.2", ready=True)
    rows = measure_core_ml(info, {core_ml: image}, settings, lambda *step: None, remote=False)[core_ml]
    (row,) = rows
    # Warm-up apart, both rounds are runs of three calls of 2, 3 and 4 ms in some order.
    assert (row.source, row.p50_ms, row.runs, row.rounds) == ("measured", 3.0, 6, 2)
    assert row.rounds_p50_ms == (3.0, 3.0)
    assert (row.load_ms, row.output_cosine) == (5.0, 1.0)
    assert row.operations == [
        {"name": "conv, Neural Engine", "delegated": True, "count": 2, "ms": 0.75},
        {"name": "gather, CPU", "delegated": False, "count": 1, "ms": 0.1},
    ]
    _Wrapper.answer = -_Wrapper.answer
    with pytest.raises(DistillError, match=r"says something else there than here: cosine -1\.0000"):
        measure_core_ml(info, {core_ml: image}, settings, lambda *step: None, remote=False)


@pytest.mark.process
def test_a_phone_that_fails_is_told_in_words(core_ml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        udid = "A"

        @staticmethod
        def get_devices() -> list[Any]:
            return [Gone()]

        async def prepare_for_model_debugging(self, credentials: Any) -> Any:
            raise RuntimeError(f"errSecInternalComponent for {credentials.development_team}")

    monkeypatch.setattr(f"{EXPERIMENTAL}.remote_device.Device", Gone)
    settings = ProfileSettings(apple_team="TEAM")
    phone = DeviceInfo("A", "apple", "iPhone 15", "iOS 18.2", ready=True)
    with pytest.raises(
        DistillError, match=r"Timing on iPhone 15 failed: RuntimeError: errSecInternalComponent for TEAM.*unlocked"
    ):
        measure_core_ml(phone, {core_ml: read_artifacts(core_ml)}, settings, lambda *step: None, remote=True)
    with pytest.raises(DistillError, match="'B' is gone"):
        measure_core_ml(dataclasses.replace(phone, name="B"), {}, settings, lambda *step: None, remote=True)
