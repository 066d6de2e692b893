"""This machine: ExecuTorch, ONNX Runtime and eager torch can be timed on its CPU. It says nothing about a phone."""

import importlib.metadata
import platform
from pathlib import Path

from typing_extensions import override

from distill.core.machine import usable_cores
from export.device import DEVICES, DeviceInfo, DeviceKind
from export.settings import ProfileSettings


class Host(DeviceKind):
    """The machine that runs this."""

    kind = "host"

    @override
    def find(self, settings: ProfileSettings | None = None) -> list[DeviceInfo]:
        return [
            DeviceInfo(
                name="host",
                kind="host",
                model=f"{cpu_model()}, {usable_cores()} cores",
                os=f"{platform.system()} {platform.release()}, {platform.machine()}",
                runtimes=_versions(),
                ready=True,
            )
        ]


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for name in ("torch", "onnxruntime", "executorch"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


DEVICES.register("host")(Host())
