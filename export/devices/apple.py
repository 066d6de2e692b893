"""This Mac, and iPhones and iPads attached to it: Core ML files are timed through coremltools' remote device and its model runner.

A Mac is needed, and Xcode for phones. None was at hand where this was written: what it does is checked against coremltools' own
interface and against stand-ins, and has never run on a phone. Left out: timing (parts/core_ml.py).
"""

import json
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from typing_extensions import override

from distill.core.progress import Progress
from export.artifacts.record import ExportArtifact, LatencyProfile
from export.device import DEVICES, DeviceInfo, DeviceKind
from export.settings import ProfileSettings

MAC = "mac"
NO_MAC = "Core ML can be run and timed from a Mac only, and this is not one"
NO_XCODE = "Xcode's command line tools are missing (xcode-select --install)"
NO_PHONE = "no iPhone or iPad is attached: plug it in, unlock it, and trust this Mac"
NOT_CONNECTED = "it is known and not connected ({state}): unlock it, and plug it in"
NO_DEVELOPER_MODE = "its developer mode is off: Settings, Privacy & Security, Developer Mode"
NO_TEAM = "the model runner must be signed for it: give your Apple developer team by --set profile.apple_team=TEAM"
SECONDS = 5.0
PHONES = ("iPhone", "iPad")


class Apple(DeviceKind):
    """This Mac, and phones attached to it."""

    kind = "apple"

    @override
    def find(self, settings: ProfileSettings | None = None) -> list[DeviceInfo]:
        if sys.platform != "darwin":
            return [DeviceInfo("apple", self.kind, missing=NO_MAC)]
        system = f"macOS {platform.mac_ver()[0]}"
        mac = DeviceInfo(MAC, self.kind, platform.machine(), system, {"Core ML": system}, ready=True)
        if shutil.which("xcrun") is None:
            return [mac, DeviceInfo("iphone", self.kind, missing=NO_XCODE)]
        team = settings.apple_team if settings else ""
        return [mac, *(parse_devicectl(_listing(), team) or [DeviceInfo("iphone", self.kind, missing=NO_PHONE)])]

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
        from export.devices.parts.core_ml import measure_core_ml

        return measure_core_ml(info, artifacts, settings, progress, remote=info.name != MAC)


def _listing() -> dict[str, Any]:
    """What `xcrun devicectl list devices` writes; {} when it gives nothing in time."""
    with tempfile.TemporaryDirectory() as scratch:
        answer = Path(scratch) / "devices.json"
        command = ["xcrun", "devicectl", "list", "devices", "--json-output", str(answer)]
        try:
            subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=SECONDS, check=True)
            listing: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        except (OSError, ValueError, subprocess.SubprocessError):
            return {}
    return listing


def parse_devicectl(listing: dict[str, Any], team: str) -> list[DeviceInfo]:
    """The iPhones and iPads in devicectl's JSON, each with what is in the way of timing on it.

    Args:
        team: the Apple developer team that signs the model runner; "" = none was given.
    """
    found = []
    for device in listing.get("result", {}).get("devices", []):
        about, hardware = device.get("deviceProperties", {}), device.get("hardwareProperties", {})
        if hardware.get("deviceType") not in PHONES or not hardware.get("udid"):
            continue
        state = str(device.get("connectionProperties", {}).get("tunnelState", "unknown"))
        missing = ""
        if state != "connected":
            missing = NOT_CONNECTED.format(state=state)
        elif about.get("developerModeStatus") != "enabled":
            missing = NO_DEVELOPER_MODE
        elif not team:
            missing = NO_TEAM
        system = " ".join(filter(None, ["iOS", about.get("osVersionNumber"), about.get("osBuildUpdate")]))
        found.append(
            DeviceInfo(
                name=str(hardware["udid"]),
                kind="apple",
                model=str(hardware.get("marketingName") or hardware.get("productType") or about.get("name", "")),
                os=system,
                runtimes={"Core ML": system},
                ready=not missing,
                missing=missing,
            )
        )
    return found


DEVICES.register("apple")(Apple())
