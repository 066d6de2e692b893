"""iPhones and Macs. Core ML needs macOS, an iPhone also Xcode. Timing there is not built yet, and is said to be so."""

import platform
import shutil
import sys

from typing_extensions import override

from export.device import DEVICES, DeviceInfo, DeviceKind
from export.settings import ProfileSettings


class Apple(DeviceKind):
    """This Mac, and phones attached to it."""

    kind = "apple"

    @override
    def find(self, settings: ProfileSettings | None = None) -> list[DeviceInfo]:
        if sys.platform != "darwin":
            return [
                DeviceInfo(
                    "apple", "apple", missing="Core ML can be run and timed from a Mac only, and this is not one"
                )
            ]
        missing = "timing Core ML on phones is not built yet"
        if shutil.which("xcrun") is None:
            missing = "Xcode's command line tools are missing (xcode-select --install)"
        return [DeviceInfo("apple", "apple", platform.machine(), f"macOS {platform.mac_ver()[0]}", missing=missing)]


DEVICES.register("apple")(Apple())
