"""Device kinds: what each says when nothing, something or something broken is attached."""

import os
import stat
import sys
import time
from pathlib import Path

import pytest

from export.device import DEVICES, DeviceInfo
from export.devices.android import NO_ADB, NO_PHONE, parse_devices

# As adb 29 to 36 print them: states over USB, an emulator, two phones of one name over Wi-Fi, and the server's own words.
LISTING = """* daemon not running; starting now at tcp:5037
* daemon started successfully
List of devices attached
8A2X0PQR1              device usb:1-1 product:shiba model:Pixel_8 device:shiba transport_id:1
emulator-5554          offline transport_id:2
R58M12ABCDE            unauthorized usb:1-2 transport_id:3
adb-8A2X (2)._adb-tls-connect._tcp device product:shiba model:Pixel_8 device:shiba transport_id:4
my device 5            recovery usb:1-4 product:omni_x model:X device:x transport_id:5
0123456789ABCDEF       sideload usb:1-5 transport_id:6
0123456789ABCDE0       bootloader usb:1-6
0123456789ABCDE1       host usb:1-7 transport_id:8
0123456789ABCDE2       rescue usb:1-8 transport_id:9
0123456789ABCDE3       authorizing usb:1-9 transport_id:10
192.168.1.5:5555       connecting transport_id:11
0123456789ABCDE4       detached usb:2-1 transport_id:12
0123456789ABCDE5       unknown usb:2-2 transport_id:13

"""
UDEV = "no permissions (missing udev rules? user is in the plugdev group); see [http://developer.android.com/tools/device.html]"


def test_adb_states() -> None:
    found = {phone.name: phone for phone in parse_devices(LISTING)}
    assert len(found) == 13
    assert found["8A2X0PQR1"] == DeviceInfo("8A2X0PQR1", "android", "Pixel 8", "Android")
    assert found["adb-8A2X (2)._adb-tls-connect._tcp"].missing == ""
    advice = {
        "emulator-5554": "adb reconnect offline",
        "R58M12ABCDE": "accept the USB debugging dialog",
        "my device 5": "`adb -s 'my device 5' reboot`",
        "0123456789ABCDEF": "update",
        "0123456789ABCDE0": "`fastboot -s 0123456789ABCDE0 reboot`",
        "0123456789ABCDE1": "another computer",
        "0123456789ABCDE2": "rescue system",
        "0123456789ABCDE3": "unlock it",
        "192.168.1.5:5555": "in a few seconds",
        "0123456789ABCDE4": "`adb -s 0123456789ABCDE4 attach`",
        "0123456789ABCDE5": "plug it in again",
    }
    for name, words in advice.items():
        assert words in found[name].missing, name
    assert len({phone.missing for phone in found.values()}) == len(found) - 1  # each state has words of its own
    assert not any(phone.ready for phone in found.values())
    assert found["my device 5"].model == "X"


@pytest.mark.parametrize("facts", ["", " usb:1-2 transport_id:3"])
@pytest.mark.parametrize(
    "state",
    [
        UDEV,
        "no permissions",
        "no permissions (user in plugdev group; are your udev rules wrong?); see [http://d.a.com/x]",
    ],
)
@pytest.mark.parametrize(
    ("serial", "name"), [("R58M12", "R58M12"), ("????????????", "android"), ("(no serial number)", "android")]
)
def test_adb_without_permission(serial: str, name: str, state: str, facts: str) -> None:
    (phone,) = parse_devices(f"List of devices attached\n{serial:22} {state}{facts}\n")
    assert phone.name == name
    assert repr(state) in phone.missing  # adb's own words, whole
    assert "udev rules" in phone.missing


def test_adb_listings_that_are_short_or_strange() -> None:
    assert parse_devices("List of devices attached\n\n") == []
    assert parse_devices("* daemon started successfully *\r\nList of devices attached \r\n\r\n") == []
    (tabbed,) = parse_devices("List of devices attached\n8A2X0PQR1\tdevice\n")  # without -l
    assert (tabbed.name, tabbed.missing) == ("8A2X0PQR1", "")
    (strange,) = parse_devices("List of devices attached\n8A2X0PQR1 hibernating usb:1-1\n")
    assert strange.name == "8A2X0PQR1"
    assert "hibernating" in strange.missing


def _fake_adb(folder: Path, body: str) -> None:
    path = folder / "adb"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for adb is a shell script")
def test_adb_absent_empty_and_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    android = DEVICES.get("android")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [info.missing for info in android.find()] == [NO_ADB]
    _fake_adb(tmp_path, "echo 'List of devices attached'")
    assert [info.missing for info in android.find()] == [NO_PHONE]
    _fake_adb(tmp_path, "echo 'List of devices attached'; echo 'ABC device model:Pixel_9'")
    assert [(info.name, info.model, info.ready) for info in android.find()] == [("ABC", "Pixel 9", False)]
    _fake_adb(tmp_path, r"printf 'List of devices attached\nA\377C device\n'")
    (odd,) = android.find()
    assert odd.name == r"A\xffC"
    odd.name.encode()  # can be printed
    _fake_adb(tmp_path, "echo 'adb: cannot bind: Address already in use' >&2; exit 1")
    assert "status 1: adb: cannot bind: Address already in use" in android.find()[0].missing
    _fake_adb(tmp_path, "exit 0")
    assert "it printed nothing" in android.find()[0].missing
    (tmp_path / "adb").write_bytes(b"\x7fELF, of another machine")
    assert "adb does not start" in android.find()[0].missing


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for adb is a shell script")
def test_adb_that_hangs_and_a_server_that_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without the real adb, if one is here
    os.symlink("/bin/sleep", tmp_path / "sleep")
    _fake_adb(
        tmp_path, "sleep 3 & echo '* daemon started successfully'; echo 'List of devices attached'; echo 'ABC device'"
    )
    start = time.monotonic()
    (phone,) = DEVICES.get("android").find()
    assert phone.name == "ABC"
    assert phone.missing.startswith("it does not answer: ")  # this adb knows but one answer
    assert time.monotonic() - start < 2  # the server holds the client's output open
    monkeypatch.setattr("export.devices.android.SECONDS", 0.1)
    _fake_adb(tmp_path, "exec sleep 3")
    assert "no answer in 0.1 seconds. Run `adb kill-server`" in DEVICES.get("android").find()[0].missing


@pytest.mark.parametrize("name", DEVICES)
def test_every_kind_answers(name: str) -> None:
    found = DEVICES.get(name).find()
    assert found
    for info in found:
        assert info.kind == name
        assert info.ready == (not info.missing)
