"""Any phone or computer with a browser: ONNX files are timed by onnxruntime-web in a page that this computer serves.

Such a latency is of a browser, not of an app: its source says so, and it is never mixed with others. onnxruntime-web is not
shipped: it comes from npm, or from a folder that the user gives.
"""

import json
from pathlib import Path

from typing_extensions import override

from distill.core.errors import UsageError
from distill.core.packages.environment import cache_folder
from distill.core.progress import Progress
from export.artifacts.record import ExportArtifact, LatencyProfile
from export.device import DEVICES, DeviceInfo, DeviceKind
from export.settings import ProfileSettings

NAME = "web"
PACKAGE = "onnxruntime-web"
ENTRY = "ort.webgpu.min.mjs"  # wasm, WebGPU and WebNN in one


class Web(DeviceKind):
    """A browser, somewhere in reach, in which somebody opens the page."""

    kind = "web"

    @override
    def find(self, settings: ProfileSettings | None = None) -> list[DeviceInfo]:
        try:
            folder = runtime_folder(settings.web_runtime if settings else "")
        except UsageError as missing:
            if settings and settings.web_runtime:  # a wrong path, not a package that is not there yet
                raise
            return [DeviceInfo(NAME, self.kind, attended=True, missing=str(missing))]
        runtimes = {"ONNX Runtime Web": runtime_version(folder)}
        return [DeviceInfo(NAME, self.kind, "any browser", "", runtimes, ready=True, attended=True)]

    @override
    def measure(
        self,
        info: DeviceInfo,
        artifacts: dict[Path, list[ExportArtifact]],
        settings: ProfileSettings,
        *,
        resume: bool,
        progress: Progress,
    ) -> dict[Path, list[LatencyProfile]]:
        from export.devices.parts.browser import measure_in_browser

        return measure_in_browser(info, runtime_folder(settings.web_runtime), artifacts, settings, progress)


def how_to_get() -> str:
    """The command that brings onnxruntime-web to where it is looked for."""
    return f"npm install --prefix {cache_folder() / NAME} {PACKAGE}@1"


def runtime_folder(given: str) -> Path:
    """The folder that holds onnxruntime-web's files (its dist/).

    Args:
        given: a path; "" = where `how_to_get` puts it.

    Raises UsageError where it is not.
    """
    root = Path(given).expanduser() if given else cache_folder() / NAME / "node_modules" / PACKAGE
    for folder in (root, root / "dist"):
        if (folder / ENTRY).is_file():
            return folder
    where = f"{str(root)!r} (profile.web_runtime)" if given else "the cache"
    raise UsageError(f"{PACKAGE} is not in {where}: there is no {ENTRY}. Run: {how_to_get()}")


def runtime_version(folder: Path) -> str:
    """The package's version; "unknown" for a folder without its package.json."""
    for place in (folder.parent, folder):
        try:
            return str(json.loads((place / "package.json").read_text(encoding="utf-8"))["version"])
        except (OSError, ValueError, KeyError):
            continue
    return "unknown"


DEVICES.register(NAME)(Web())
