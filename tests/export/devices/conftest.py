"""A phone that answers the real adb: a folder, programs that speak for Android, and a daemon of the tests' own on loopback."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

DAEMON = Path(__file__).with_name("adbd.py")
PROPERTIES = {
    "ro.product.model": "Stand-in 8",
    "ro.soc.model": "SX1",
    "ro.product.cpu.abi": "arm64-v8a",
    "ro.build.version.release": "15",
    "ro.build.version.sdk": "35",
    "ro.build.fingerprint": "stand/in/8:15/AB1/77:user",
}
# What Android's dumpsys prints, of the reports that are read.
DUMPSYS = """#!/bin/sh
case "$1" in
battery) echo "Current Battery Service state:"; echo "  AC powered: false"; echo "  USB powered: true"; echo "  level: 80"
    echo "  scale: 100"; echo "  temperature: $(cat {root}/tenths)";;
thermalservice) echo "IsStatusOverride: false"; echo "Thermal Status: $(cat {root}/throttling)";;
power) echo "POWER MANAGER (dumpsys power)"; echo "  mWakefulness=Awake"; echo "  mWakefulnessChanging=false";;
window) echo "  mCurrentFocus=Window{{a1b2 u0 com.example.camera/com.example.camera.Main}}";;
esac
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class StandIn:
    """One such phone; `serial` is adb's name of it."""

    root: Path
    serial: str
    daemon: "subprocess.Popen[bytes]"

    def program(self, name: str, body: str) -> Path:
        """An executable in front of this computer's, as the phone's shell sees it."""
        path = self.root / ".bin" / name
        path.write_text(body)
        path.chmod(0o755)
        return path

    def unplug(self) -> None:
        self.daemon.kill()
        self.daemon.wait()

    def left(self) -> list[str]:
        return sorted(path.name for path in (self.root / "data/local/tmp").glob("*"))


@pytest.fixture(scope="module")
def adb_server() -> Iterator[None]:
    """An adb server of its own port, so that this computer's own one is left alone; other files' tests do not see it."""
    if shutil.which("adb") is None:
        pytest.skip("adb is not here (Debian: apt install adb)")
    before = os.environ.get("ANDROID_ADB_SERVER_PORT")
    os.environ["ANDROID_ADB_SERVER_PORT"] = str(free_port())
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
    subprocess.run(["adb", "start-server"], **quiet, check=True, timeout=30)
    yield
    subprocess.run(["adb", "kill-server"], **quiet, check=False, timeout=30)
    os.environ.pop("ANDROID_ADB_SERVER_PORT")
    if before is not None:
        os.environ["ANDROID_ADB_SERVER_PORT"] = before


@pytest.fixture
def plug_in(adb_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., StandIn]]:
    """Makes a phone and connects it; a second call makes a second one."""
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))
    made: list[StandIn] = []

    def plug(**properties: str) -> StandIn:
        root, port = tmp_path / f"phone{len(made)}", free_port()
        (root / ".bin").mkdir(parents=True)
        (root / "data/local/tmp").mkdir(parents=True)
        (root / "tenths").write_text("300")
        (root / "throttling").write_text("0")
        phone = StandIn(root, f"127.0.0.1:{port}", _daemon(root, port))
        cases = " ".join(f"{name}) echo '{value}';;" for name, value in {**PROPERTIES, **properties}.items())
        phone.program("getprop", f'#!/bin/sh\ncase "$1" in {cases} esac\n')
        phone.program("dumpsys", DUMPSYS.format(root=root))
        phone.program("settings", "#!/bin/sh\necho 0\n")
        subprocess.run(["adb", "connect", phone.serial], check=True, capture_output=True, timeout=30)
        made.append(phone)
        return phone

    yield plug
    for phone in made:
        subprocess.run(["adb", "disconnect", phone.serial], check=False, capture_output=True, timeout=30)
        phone.daemon.send_signal(signal.SIGKILL)
        phone.daemon.wait()


def _daemon(root: Path, port: int) -> "subprocess.Popen[bytes]":
    daemon = subprocess.Popen([sys.executable, str(DAEMON), str(root), str(port)], stdout=subprocess.PIPE)
    assert daemon.stdout is not None
    assert daemon.stdout.readline() == b"ready\n"
    daemon.stdout.close()
    return daemon
