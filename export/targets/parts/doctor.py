"""`doctor` checks what this machine can do. It imports nothing heavy, so that it answers at once and never crashes.

Left out: mending what is wrong (each check says what to run), and making environments (`distill.core.packages.install`).
"""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from distill.core.errors import DistillError, UsageError
from distill.core.machine import free_memory_bytes, usable_cores
from distill.core.packages.environment import Environment
from export.devices.parts.runners import RUNNERS, PhoneRunner, runners_folder
from export.devices.web import how_to_get, runtime_folder, runtime_version
from export.target import TARGETS, Target

FREE_GB, MEMORY_GB = 5.0, 4.0  # what the embedded default needs, with room


@dataclass(frozen=True)
class Check:
    """One finding: `detail` says what is there, `fix` what to do when not ok ("" otherwise)."""

    name: str
    ok: bool
    detail: str
    fix: str = ""


def doctor() -> list[Check]:
    """All checks, the most basic first. One that is not ok need not stop the main job: its `fix` says what for."""
    checks = [_python(), _torch(), _torchvision()]
    checks += [_target(name) for name in TARGETS]
    return [
        *checks,
        _adb(),
        *(_runner(kind) for kind in RUNNERS),
        _web(),
        _disk(Path.cwd()),
        _memory(),
        _threads(),
        _gpu(),
    ]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _python() -> Check:
    ok = sys.version_info >= (3, 10)
    return Check("python", ok, platform.python_version(), "" if ok else "Install Python 3.10 or newer.")


def _torch() -> Check:
    version = _version("torch")
    if version is None or importlib.util.find_spec("torch") is None:
        return Check("torch", False, "not installed", "pip install 'torch>=2.11,<2.14'")
    major, minor = (int(part) for part in version.split(".")[:2])
    ok = (2, 11) <= (major, minor) < (2, 14)
    return Check("torch", ok, version, "" if ok else "pip install 'torch>=2.11,<2.14'")


def _torchvision() -> Check:
    """Whether torchvision's library can load beside this torch: the registry's Linux wheel is built for CUDA (torch_compat.py)."""
    version, torch_version = _version("torchvision"), _version("torch") or ""
    if version is None:
        return Check("torchvision", False, "not installed", "pip install 'torchvision>=0.26,<0.29'")
    tag, own = torch_version.partition("+")[2], version.partition("+")[2]
    index = f" --index-url https://download.pytorch.org/whl/{tag}" if tag else ""
    fix = f"For good: pip install --force-reinstall --no-deps 'torchvision=={version.partition('+')[0]}'{index}"
    if tag == own or (tag == "cpu" and not _wants_cuda()):
        return Check("torchvision", True, version)
    if tag == "cpu":
        detail = (
            f"{version} is built for CUDA, which torch {torch_version} has not: `import torchvision`, open_clip and timm fail in "
            "other programs of this Python (operator torchvision::nms does not exist). distill mends it for itself."
        )
        return Check("torchvision", False, detail, fix)
    return Check("torchvision", False, f"{version} beside torch {torch_version}", fix)


def _wants_cuda() -> bool:
    """Whether torchvision's library names torch's CUDA library, which no CPU torch has. Nothing is imported."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    return any(b"libtorch_cuda" in file.read_bytes() for file in Path(spec.origin).parent.glob("_C.*"))


def _target(name: str) -> Check:
    target = TARGETS.get(name)
    if target.environment is not None:
        return _environment(name, target.environment)
    line = target.missing()
    if line:
        return Check(f"target {name}", False, "packages are missing", f"{line}  (only needed for this target)")
    return Check(f"target {name}", True, f"{target.package} {_version(target.package) or '?'}; {_ways(target)}")


def _environment(name: str, environment: Environment) -> Check:
    """A target that works in a Python of its own. It is found by its record, and not started: that takes seconds."""
    target = TARGETS.get(name)
    try:
        found = environment.find()
    except DistillError as error:
        fix = f"{environment.command}  (about {environment.gigabytes:g} GB; only needed for this target)"
        return Check(f"target {name}", False, str(error).partition(" Run: ")[0], fix)
    size = f", {found.gigabytes:.1f} GB" if found.gigabytes else ""
    detail = f"{target.package} {found.versions.get(target.package, '?')} in {found.python}{size}; {_ways(target)}"
    return Check(f"target {name}", True, detail)


def _ways(target: Target) -> str:
    words = f"checked by: {target.checked_by}"
    return f"{words}; not timed here: {target.no_latency}" if target.no_latency else words


def _adb() -> Check:
    path = shutil.which("adb")
    fix = "" if path else "For Android phones install the platform tools (Debian: apt install adb)."
    return Check("adb", path is not None, path or "not on the PATH", fix)


def _runner(kind: PhoneRunner) -> Check:
    """A vendor's program for phones, in the cache: none is shipped, and each phone may have its own."""
    folder = runners_folder("arm64-v8a")
    found = (folder / kind.name).is_file()
    fix = f"Only to time {kind.backend} files on phones. Put it into {folder}, or give it by --runner. {kind.how}."
    return Check(f"phone {kind.name}", found, str(folder / kind.name) if found else "not here", "" if found else fix)


def _web() -> Check:
    """onnxruntime-web, which times files in browsers and answers in the demo's page."""
    try:
        folder = runtime_folder("")
    except UsageError:
        fix = f"Only for browsers: {how_to_get()}  (or give its folder by profile.web_runtime)"
        return Check("onnxruntime-web", False, "not here", fix)
    return Check("onnxruntime-web", True, f"{runtime_version(folder)} in {folder}")


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free / 1e9
    ok = free >= FREE_GB
    return Check(
        "disk", ok, f"{free:.0f} GB free in {folder}", "" if ok else f"Free {FREE_GB:.0f} GB, or run in another folder."
    )


def _memory() -> Check:
    try:
        free = free_memory_bytes() / 1e9
    except ImportError:
        return Check("memory", False, "unknown", "pip install psutil")
    ok = free >= MEMORY_GB
    return Check(
        "memory", ok, f"{free:.0f} GB available", "" if ok else f"Close programs until {MEMORY_GB:.0f} GB are free."
    )


def _threads() -> Check:
    asked = os.environ.get("OMP_NUM_THREADS")
    cores = usable_cores()
    ok = not (asked and asked.isdigit() and int(asked) > cores)
    detail = f"{cores} cores usable, OMP_NUM_THREADS {asked or 'not set'}"
    return Check(
        "threads",
        ok,
        detail,
        "" if ok else f"Set OMP_NUM_THREADS to at most {cores}: more threads than cores is slower.",
    )


def _gpu() -> Check:
    if (_version("torch") or "").endswith("+cpu"):
        return Check("gpu", True, "none used: this torch is the CPU build; the embedded default needs no GPU")
    if shutil.which("nvidia-smi"):
        return Check("gpu", True, "an NVIDIA driver is there")
    if sys.platform == "darwin":
        return Check("gpu", True, "Apple GPU (mps), if this Mac has one")
    return Check("gpu", True, "none found; the embedded default needs none")
