"""`Phone`: one Android phone over `adb`, with a folder of its own there that goes away whatever happens.

Left out: finding phones (export.devices.android) and what is run on them (measure.py). Every call has a time limit, and every
failure says what to do. The folder is removed by us at the end; by the phone itself when we do not come back (a cable that was
pulled, a process that was killed): a shell there waits for the time that each call writes into the folder, then removes it.
"""

import contextlib
import secrets
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from distill.core.errors import DistillError

# Android sets ANDROID_DATA to /data for every shell. `adb push` takes no variables; on a phone both are the same place.
SCRATCH, SCRATCH_IN_SHELL = "/data/local/tmp", "${ANDROID_DATA:-/data}/local/tmp"
PREFIX = "distill-"
SPARE_BYTES = 20_000_000  # a phone that is full to the last byte misbehaves
GRACE_S = 60  # after a call's time limit, before the phone takes the folder away
PUSH_BYTES_PER_S = 2_000_000  # a slow cable or Wi-Fi; decides only when a push is given up
SILENT = -1  # in place of an exit status: adb did not answer in time


class LostPhoneError(DistillError):
    """The phone is no longer attached."""


@dataclass(frozen=True)
class Answer:
    """What a shell on the phone said: its exit status, standard output and standard error."""

    status: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """The last words, for messages: of standard error where it has any."""
        return " ".join((self.err.strip() or self.out.strip()).split())[-400:] or "it printed nothing"


class Phone:
    """An attached phone. All methods raise LostPhoneError when it is gone, DistillError when adb does not answer in time.

    Attributes:
        serial: adb's name of it.
        folder: the name of our folder in `SCRATCH`, while `working` lasts.
    """

    def __init__(self, serial: str) -> None:
        self.serial = serial
        self.folder = f"{PREFIX}{secrets.token_hex(6)}"

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Make our folder, watched by the phone; take away what earlier calls that were cut off left; clean up at the end.

        Raises DistillError where the phone does not let us make it.
        """
        made = self.shell(
            f"cd {SCRATCH_IN_SHELL} && rm -rf {PREFIX}* && mkdir {self.folder} && cd {self.folder} && {self._keep_for(GRACE_S)}"
        )
        if made.status:
            raise DistillError(
                f"The phone {self.serial!r} does not let adb write to {SCRATCH}: {made.said}. Free some room there, or restart the "
                "phone; on a managed phone ask for shell access."
            )
        self.shell(f"({self._watch()}) </dev/null >/dev/null 2>&1 &")
        try:
            yield
        finally:
            with contextlib.suppress(DistillError):  # gone: it cleans up itself, see `_watch`
                self.shell(f"rm -rf {SCRATCH_IN_SHELL}/{self.folder}")

    def _watch(self) -> str:
        """A shell loop that outlives us: past the time in `until` it ends what still runs there and removes the folder."""
        return (
            f"cd {SCRATCH_IN_SHELL}; while [ -d {self.folder} ] && "
            f'[ "$(date +%s)" -lt "$(cat {self.folder}/until)" ]; do sleep 2; done; '
            f"kill -9 $(cat {self.folder}/pid); rm -rf {self.folder}"
        )

    @staticmethod
    def _keep_for(seconds: float) -> str:
        """Write a time from now, by the phone's clock, into `until`, in one stroke: the watch must never read an empty file."""
        return f"echo $(( $(date +%s) + {round(seconds)} )) > until.new && mv until.new until"

    def run(self, command: str, *, seconds: float) -> Answer:
        """Run a command line in our folder, which the phone keeps at least so long."""
        return self.shell(
            f"cd {SCRATCH_IN_SHELL}/{self.folder} && {self._keep_for(seconds + GRACE_S)} && {command}",
            seconds=seconds,
        )

    def shell(self, command: str, *, seconds: float = 30) -> Answer:
        """Run a command line on the phone. Its exit status comes in the output: old phones' adb tells none."""
        mark = f"distill-status-{secrets.token_hex(4)}"
        status, out, err = self._adb(["shell", f"{command}\ns=$?; echo; echo {mark} $s"], seconds)
        body, found, code = out.rpartition(mark)
        if not found:
            raise self._failure(f"running {command.split(';')[0][:60]!r}", status, f"{err} {out}")
        return Answer(int(code.split()[0]), body.removesuffix("\n"), err)

    def push(self, source: Path, name: str) -> None:
        """Copy a file into our folder. Raises DistillError where the phone has too little room for it."""
        size = source.stat().st_size
        free = self.free_bytes()
        if free is not None and free < size + SPARE_BYTES:
            raise DistillError(
                f"The phone {self.serial!r} has {free / 1e6:.0f} MB free in {SCRATCH}; {source.name} needs {size / 1e6:.0f} MB and "
                f"{SPARE_BYTES / 1e6:.0f} to spare. Free some room on it."
            )
        seconds = 60 + size / PUSH_BYTES_PER_S
        self.run("true", seconds=seconds)
        status, out, err = self._adb(["push", str(source), f"{SCRATCH}/{self.folder}/{name}"], seconds)
        there = None if status else self.run(f"wc -c < {shlex.quote(name)}", seconds=30)
        if there is None or there.out.strip() != str(size):
            left = self.free_bytes()
            if left is not None and left < size:
                raise DistillError(
                    f"The phone {self.serial!r} ran out of room while {source.name} ({size / 1e6:.0f} MB) was copied to {SCRATCH}. "
                    "Free some room on it."
                )
            raise self._failure(f"copying {source.name} to it", status, f"{err} {out}")

    def pull(self, name: str, target: Path) -> None:
        """Copy a file of our folder to `target`. Raises DistillError where it is not there."""
        status, out, err = self._adb(["pull", f"{SCRATCH}/{self.folder}/{name}", str(target)], 120)
        if status or not target.exists():
            raise self._failure(f"copying {name} from it", status, f"{err} {out}")

    def free_bytes(self) -> int | None:
        """Free bytes in `SCRATCH`; None where the phone does not say."""
        lines = self.shell(f"df -k {SCRATCH_IN_SHELL}").out.strip().splitlines()
        try:
            return int(lines[-1].split()[3]) * 1024
        except (IndexError, ValueError):
            return None

    def lives(self) -> bool:
        """Whether adb still reaches it."""
        with contextlib.suppress(DistillError):
            status, out, _ = self._adb(["get-state"], 10)
            return status == 0 and out.strip() == "device"
        return False

    def _failure(self, doing: str, status: int, said: str) -> DistillError:
        words = " ".join(said.split())[-300:] or "it printed nothing"
        if self.lives():
            return DistillError(f"adb failed (status {status}) while {doing} on the phone {self.serial!r}: {words}")
        return LostPhoneError(
            f"The phone {self.serial!r} is gone (adb: {words}). Plug it in again and look at `adb devices -l`. It removes our "
            "files by itself within minutes."
        )

    def _adb(self, arguments: list[str], seconds: float) -> tuple[int, str, str]:
        """Status, output and errors of `adb -s SERIAL arguments...`; through files, see export.devices.android."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            try:
                process = subprocess.Popen(
                    ["adb", "-s", self.serial, *arguments], stdout=out, stderr=err, stdin=subprocess.DEVNULL
                )
            except OSError as error:
                raise DistillError(f"adb does not start ({error}). Install Android's platform tools.") from None
            try:
                status = process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                return SILENT, "", f"no answer in {seconds:.0f} seconds"
            out.seek(0)
            err.seek(0)
            printed, said = (
                stream.read().decode("utf-8", "backslashreplace").replace("\r\n", "\n") for stream in (out, err)
            )
        return status, printed, said
