"""Android phones that `adb` sees, over USB or TCP: which there are, and what is missing before one can be timed.

Left out: timing them (parts/measure.py), and the programs that do so there (parts/runners.py).
"""

import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from typing_extensions import override

from distill.core.errors import DistillError, UsageError
from distill.core.progress import Progress
from export.artifacts.record import ExportArtifact, LatencyProfile
from export.device import DEVICES, DeviceInfo, DeviceKind
from export.devices.parts.adb import SCRATCH_IN_SHELL, Phone
from export.devices.parts.runners import RUNNERS, FoundRunner, runners_folder
from export.settings import ProfileSettings

NO_ADB = "adb is not on the PATH: install Android's platform tools (Debian: apt install adb) and attach a phone"
NO_PHONE = "no phone is attached: switch on USB debugging, plug it in, accept the dialog, and see `adb devices -l`"
NO_RUNNER = (
    "the phone is there; what is missing is a vendor's program that times files on it. Give its path by --runner, or put it into "
    "{folder}: {names}. distill doctor says how each is got"
)
NOT_ASKED = "it does not answer: {why}"
OLDEST_SDK = 23  # Android 6, ExecuTorch's and LiteRT's oldest
TOO_OLD = "it runs Android {release} (API {sdk}), and ExecuTorch and LiteRT need Android 6 (API 23)"
# What is asked of a phone, one line of answer each.
PROPERTIES = {
    "model": "getprop ro.product.model",
    "soc": "getprop ro.soc.model",
    "hardware": "getprop ro.hardware",
    "abi": "getprop ro.product.cpu.abi",
    "release": "getprop ro.build.version.release",
    "sdk": "getprop ro.build.version.sdk",
    "build": "getprop ro.build.fingerprint",
    "emulator": "getprop ro.kernel.qemu",
}
SECONDS = 5.0  # starting adb's server takes two or three
TITLE = "List of devices attached"
LOOPBACK = ("127.", "localhost:", "[::1]", "emulator-")  # serials of devices that run on this computer

# The states of a phone in adb's listing, each with what it means and what to do. "{serial}" is the phone's, quoted for a shell.
STATES = {
    "device": "",
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
    def find(self, settings: ProfileSettings | None = None) -> list[DeviceInfo]:
        """What `adb devices -l` lists within `SECONDS`, and what each phone says of itself. The call may start adb's server."""
        given = settings.runners if settings else ()
        given_runners(given)  # a wrong path is said whether or not a phone is there
        if shutil.which("adb") is None:
            return [DeviceInfo("android", "android", missing=NO_ADB)]
        try:
            phones = parse_devices(_listing()) or [DeviceInfo("android", "android", missing=NO_PHONE)]
        except DistillError as error:
            return [DeviceInfo("android", "android", missing=str(error))]
        return [phone if phone.missing or phone.name == "android" else _asked(phone, given) for phone in phones]

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
        from export.devices.parts.measure import measure_phone

        found = find_runners(Phone(info.name), info.abi, settings.runners)
        return measure_phone(info, found, artifacts, settings, resume=resume, progress=progress)


def _asked(phone: DeviceInfo, runners: Sequence[str]) -> DeviceInfo:
    """The phone with what it says of itself, and whether it can be timed."""
    handle = Phone(phone.name)
    try:
        said = handle.shell(
            "; ".join(f'echo "$({command} 2>/dev/null)"' for command in PROPERTIES.values()), seconds=SECONDS
        )
        facts = dict(zip(PROPERTIES, (line.strip() for line in said.out.splitlines()), strict=False))
        found = find_runners(handle, facts.get("abi", ""), runners)
    except UsageError:
        raise
    except DistillError as error:
        return replace(phone, missing=NOT_ASKED.format(why=error))
    sdk = facts.get("sdk", "")
    chip = facts.get("soc") or facts.get("hardware") or ""
    model = facts.get("model") or phone.model
    known = replace(
        phone,
        model=f"{model} ({chip})" if chip and chip != model else model,
        os=" ".join(filter(None, ["Android", facts.get("release"), facts.get("build")])),
        abi=facts.get("abi", ""),
        runtimes={kind.kind.backend: f"{name}, {kind.identity}" for name, kind in found.items()},
        emulated=facts.get("emulator") == "1" or phone.name.startswith(LOOPBACK),
    )
    if sdk.isdigit() and int(sdk) < OLDEST_SDK:
        return replace(known, missing=TOO_OLD.format(release=facts.get("release"), sdk=sdk))
    if not found:
        names = ", ".join(f"{runner.name} ({runner.backend})" for runner in RUNNERS)
        return replace(known, missing=NO_RUNNER.format(folder=runners_folder(known.abi or "<abi>"), names=names))
    return replace(known, ready=True)


def given_runners(given: Sequence[str]) -> dict[str, FoundRunner]:
    """Name of a vendor's program -> where it is, of paths that a caller gave.

    Raises UsageError for one that is no file, or whose name tells no program.
    """
    found: dict[str, FoundRunner] = {}
    for path in map(Path, given):
        kind = next((runner for runner in RUNNERS if runner.name in path.name), None)
        if kind is None or not path.expanduser().is_file():
            names = ", ".join(runner.name for runner in RUNNERS)
            why = "is no file" if kind else "does not tell by its name which program it is"
            raise UsageError(f"The runner {str(path)!r} {why}. Its name must hold one of: {names}.")
        found[kind.name] = FoundRunner(kind, path.expanduser().absolute())
    return found


def find_runners(phone: Phone, abi: str, given: Sequence[str]) -> dict[str, FoundRunner]:
    """Name of a vendor's program -> where it is: as given, in the cache, or on the phone.

    Raises what `given_runners` raises.
    """
    found = given_runners(given)
    for runner in RUNNERS:
        path = runners_folder(abi or "unknown") / runner.name
        if runner.name not in found and path.is_file():
            found[runner.name] = FoundRunner(runner, path)
    missing = [runner for runner in RUNNERS if runner.name not in found]
    if missing:
        names = " ".join(runner.name for runner in missing)
        there = phone.shell(
            f'cd {SCRATCH_IN_SHELL} && for f in {names}; do [ -x "$f" ] && echo "$PWD/$f"; done', seconds=SECONDS
        )
        on_phone = {line.rpartition("/")[2]: line for line in there.out.split()}
        found |= {r.name: FoundRunner(r, there=on_phone[r.name]) for r in missing if r.name in on_phone}
    return found


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
