"""The doctor: what it finds here, what it says when things are missing, and that it looks without importing."""

import importlib.metadata
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from export.target import TARGETS
from export.targets.parts import doctor as module
from export.targets.parts.doctor import doctor


def test_here() -> None:
    checks = {check.name: check for check in doctor()}
    assert list(checks)[:3] == ["python", "torch", "torchvision"]
    assert set(checks) >= {*(f"target {name}" for name in TARGETS), "adb", "disk", "memory", "threads", "gpu"}
    assert checks["torch"].ok
    for check in checks.values():
        assert check.detail
        assert check.ok or check.fix


@pytest.mark.process
def test_it_imports_nothing_heavy(run_python: Callable[[str], str]) -> None:
    loaded = run_python(
        "import sys; from export.targets.parts.doctor import doctor; doctor(); print(*sys.modules)"
    ).split()
    assert not set(loaded) & {"torch", "coremltools", "executorch", "onnx", "onnxruntime", "numpy"}


def _versions(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)


@pytest.mark.parametrize(
    ("torch", "torchvision", "cuda", "ok", "words"),
    [
        ("2.13.0+cpu", "0.28.0", True, False, "torchvision::nms does not exist"),
        ("2.13.0+cpu", "0.28.0", False, True, "0.28.0"),  # built here
        ("2.13.0+cpu", "0.28.0+cpu", False, True, "0.28.0+cpu"),
        ("2.13.0", "0.28.0", True, True, "0.28.0"),
        ("2.13.0+cu128", "0.28.0+cpu", False, False, "beside torch"),
    ],
)
def test_torchvision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, torch: str, torchvision: str, cuda: bool, ok: bool, words: str
) -> None:
    _versions(monkeypatch, torch=torch, torchvision=torchvision)
    (tmp_path / "_C.so").write_bytes(b"\x7fELF...libtorch_cuda.so..." if cuda else b"\x7fELF...libtorch_cpu.so...")
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    check = module._torchvision()
    assert check.ok == ok
    assert words in check.detail
    if not ok:  # by the index that this torch is from
        assert (
            f"'torchvision==0.28.0' --index-url https://download.pytorch.org/whl/{torch.partition('+')[2]}" in check.fix
        )


@pytest.mark.process
def test_what_is_said_of_torchvision_is_so(tmp_path: Path) -> None:
    """Against Python itself: the import works, or fails as the doctor says."""
    plain = subprocess.run([sys.executable, "-c", "import torchvision"], cwd=tmp_path, capture_output=True, text=True)
    check = module._torchvision()
    assert check.ok == (plain.returncode == 0), plain.stderr
    if not check.ok:
        assert "torchvision::nms does not exist" in plain.stderr


def test_missing_and_wrong_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    _versions(monkeypatch, torch="2.4.1")
    assert (module._torch().ok, module._torchvision().ok) == (False, False)
    assert "pip install" in module._torch().fix
    _versions(monkeypatch)
    assert not module._torch().ok
    monkeypatch.setattr(type(TARGETS.get("onnx")), "requires", {"no_such_package_here": "nspkg"})
    assert "pip install 'nspkg'" in module._target("onnx").fix
    litert = module._target("litert")  # without torch too
    assert litert.ok or "distill doctor --install litert" in litert.fix
    monkeypatch.setenv("OMP_NUM_THREADS", "100000")
    assert not module._threads().ok
