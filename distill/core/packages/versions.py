"""What made a result: the versions of Python, platform and packages, and the commit of the source tree."""

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path

PACKAGES = (
    "distill-edge", "torch", "torchvision", "timm", "open_clip_torch", "accelerate", "datasets", "coremltools",
    "executorch", "onnx", "onnxruntime", "onnxscript", "numpy", "pillow", "simplejpeg", "pyarrow",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Python, platform and package versions; "absent" for a package that is not installed."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


@functools.cache  # asked for at every run that begins
def git_commit() -> str:
    """The commit of the source tree this package runs from, with "+changes" when it is not clean; "" outside git."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return ""
    try:
        call = ["git", "-C", str(root)]
        head = subprocess.run([*call, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        status = subprocess.run(
            [*call, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return head.stdout.strip() + ("+changes" if status.stdout.strip() else "")
