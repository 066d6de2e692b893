"""Android phones that `adb` sees. They are listed; timing on them is not built yet, and is said to be so."""

import re
import shlex
import shutil
import subprocess
import tempfile

from typing_extensions import override

from distill.core.errors import DistillError
from export.device import DEVICES, DeviceInfo, DeviceKind

NO_ADB = "adb is not on the PATH: install Android's platform tools (Debian: apt install adb) and attach a phone"
NO_PHONE = "no phone is attached: switch on USB debugging, plug it in, accept the dialog, and see `adb devices -l`"
NOT_BUILT = "the phone is there, but timing on Android phones is not built yet"
SECONDS = 5.0  # starting adb's server takes two or three
TITLE = "List of devices attached"

# The states of a phone in adb's listing, each with what it means and what to do. "{serial}" is the phone's, quoted for a shell.
STATES = {
    "device": NOT_BUILT,
    "offline": "adb has lost it ('offline'): wake the phone, plug it in again, then `adb reconnect offline`",
    "unauthorized": "it does not trust this computer yet ('unauthorized'): unlock it and accept the USB debugging dialog; "
    "if none appears, revoke USB debugging authorisations in its developer options and plug it in again",
    "authorizing": "it is being asked whether it trusts this computer ('authorizing'): unlock it, then look again",
    "connecting": "adb is still connecting to it ('connecting'): look again in a few seconds",
    "recovery": "it runs its recovery system ('recovery'), not Android: `adb -s {serial} reboot`",
    "sideload": "it waits for an update ('sideload'), and runs no Android: `adb -s {serial} reboot`, or choose that on the phone",
    "rescue": "it runs its rescue system ('rescue'), not Android: `adb -s {serial} reboot`, or choose that on the phone",
    "bootloader": "it is in its bootloader ('bootloader'), not in Android: `fastboot -s {serial} reboot`",
    "host": "it is another computer that runs adb ('host'), not a phone: unplug it",
    "detached": "adb has let go of it ('detached'): `adb -s {serial} attach`",
    "unknown": "adb does not know its state ('unknown'): plug it in again, then `adb kill-server` and look again",
}
NO_PERMISSIONS = (
    "this user may not open it over USB (adb: {state!r}): install the udev rules (Debian: apt install "
    "android-sdk-platform-tools-common), join the group plugdev and log in again, then `adb kill-server` and plug it in again"
)
# "SERIAL STATE key:value ...". A serial may hold spaces (two phones of one name over Wi-Fi), and so does one state,
# "no permissions (reason); see [URL]"; hence the states are looked for by name, and what follows must be facts.
LINE = re.compile(
    rf"(?P<serial>\S.*?)\s+(?P<state>{'|'.join(STATES)}|no permissions.*?)(?P<facts>(?:\s+[a-z_]+:\S*)*)\s*"
)
NO_SERIAL = ("(no serial number)", "????????????")


class Android(DeviceKind):
    """Phones over adb."""

    kind = "android"

    @override
    def find(self) -> list[DeviceInfo]:
        """What `adb devices -l` lists within `SECONDS`. The call may start adb's server."""
        if shutil.which("adb") is None:
            return [DeviceInfo("android", "android", missing=NO_ADB)]
        try:
            return parse_devices(_listing()) or [DeviceInfo("android", "android", missing=NO_PHONE)]
        except DistillError as error:
            return [DeviceInfo("android", "android", missing=str(error))]


def _listing() -> str:
    """What `adb devices -l` prints; bytes that are not UTF-8 come as "\\x..". Raises DistillError when there is none."""
    restart = "Run `adb kill-server`, then `adb devices -l`, and see what it says."
    # Into files: the server that adb may start keeps the client's pipes open, and reading them to their end would wait for it.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            adb = subprocess.Popen(["adb", "devices", "-l"], stdout=out, stderr=err, stdin=subprocess.DEVNULL)
        except OSError as error:
            raise DistillError(f"adb does not start ({error}). Install Android's platform tools again.") from None
        try:
            status = adb.wait(SECONDS)
        except subprocess.TimeoutExpired:
            adb.kill()
            adb.wait()
            raise DistillError(f"`adb devices -l` gave no answer in {SECONDS:g} seconds. {restart}") from None
        out.seek(0)
        err.seek(0)
        printed, said = (stream.read().decode("utf-8", "backslashreplace") for stream in (out, err))
    if status or TITLE not in printed:
        words = " ".join(f"{said} {printed}".split())[-300:] or "it printed nothing"
        raise DistillError(f"`adb devices -l` failed with status {status}: {words}. {restart}")
    return printed


def parse_devices(listing: str) -> list[DeviceInfo]:
    """The phones in the output of `adb devices -l`: those in the lines below its title. What its server says is left out."""
    lines = [line.strip() for line in listing.partition(TITLE)[2].splitlines()]
    return [_phone(line) for line in lines if line and not line.startswith(("* ", "adb server"))]


def _phone(line: str) -> DeviceInfo:
    found = LINE.fullmatch(line)
    if found is None:
        what = f"adb says {line!r} of it, which is no state known here: plug it in again, and see `adb devices -l`"
        return DeviceInfo(line.split()[0], "android", missing=what)
    serial, state = found["serial"], found["state"]
    facts = dict(word.split(":", 1) for word in found["facts"].split())
    advice = STATES.get(state, NO_PERMISSIONS)
    missing = advice.format(serial=shlex.quote(serial), state=state)
    name = "android" if serial in NO_SERIAL else serial
    return DeviceInfo(name, "android", facts.get("model", "").replace("_", " "), "Android", missing=missing)


DEVICES.register("android")(Android())
