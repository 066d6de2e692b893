"""Android phones that `adb` sees. They are listed; timing on them is not built yet, and is said to be so."""

import shutil
import subprocess

from typing_extensions import override

from export.device import DEVICES, DeviceInfo, DeviceKind

NO_ADB = "adb is not on the PATH: install Android's platform tools (Debian: apt install adb) and attach a phone"
NO_PHONE = "no phone is attached: switch on USB debugging, plug it in, accept the dialog, and see `adb devices -l`"
NOT_BUILT = "the phone is there, but timing on Android phones is not built yet"


class Android(DeviceKind):
    """Phones over adb."""

    kind = "android"

    @override
    def find(self) -> list[DeviceInfo]:
        """What `adb devices -l` lists within five seconds. The call may start adb's server."""
        if shutil.which("adb") is None:
            return [DeviceInfo("android", "android", missing=NO_ADB)]
        try:
            answer = subprocess.run(
                ["adb", "devices", "-l"],
                capture_output=True,
                text=True,
                timeout=5,
                check=True,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.SubprocessError) as error:
            return [DeviceInfo("android", "android", missing=f"`adb devices -l` failed: {error}")]
        return parse_devices(answer.stdout) or [DeviceInfo("android", "android", missing=NO_PHONE)]


def parse_devices(listing: str) -> list[DeviceInfo]:
    """The phones in the output of `adb devices -l`: a title line, then "SERIAL STATE key:value ..." each."""
    found = []
    for line in listing.splitlines():
        words = line.split()
        if len(words) < 2 or line.startswith(("List of devices", "*")):
            continue
        serial, state = words[0], words[1]
        facts = dict(word.split(":", 1) for word in words[2:] if ":" in word)
        missing = (
            NOT_BUILT
            if state == "device"
            else f"adb reports it as {state!r}: unlock it and accept the USB debugging dialog"
        )
        found.append(
            DeviceInfo(serial, "android", facts.get("model", "").replace("_", " "), "Android", missing=missing)
        )
    return found


DEVICES.register("android")(Android())
