"""Device kinds: what each says when nothing, something or something broken is attached."""

import os
import stat
import sys
from pathlib import Path

import pytest

from export.device import DEVICES, DeviceInfo
from export.devices.android import NO_ADB, NO_PHONE, NOT_BUILT, parse_devices

LISTING = """* daemon started successfully
List of devices attached
8A2X0PQR1              device usb:1-1 product:shiba model:Pixel_8 device:shiba transport_id:1
emulator-5554          offline transport_id:2
R58M12ABCDE            unauthorized usb:1-2 transport_id:3

"""


def test_adb_listing() -> None:
    waiting = "unlock it and accept the USB debugging dialog"
    assert parse_devices(LISTING) == [
        DeviceInfo("8A2X0PQR1", "android", "Pixel 8", "Android", missing=NOT_BUILT),
        DeviceInfo("emulator-5554", "android", "", "Android", missing=f"adb reports it as 'offline': {waiting}"),
        DeviceInfo("R58M12ABCDE", "android", "", "Android", missing=f"adb reports it as 'unauthorized': {waiting}"),
    ]
    assert parse_devices("List of devices attached\n\n") == []


def _fake_adb(folder: Path, body: str) -> None:
    path = folder / "adb"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for adb is a shell script")
def test_adb_absent_empty_and_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    android = DEVICES.get("android")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [info.missing for info in android.find()] == [NO_ADB]
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin{os.pathsep}/usr/bin")
    _fake_adb(tmp_path, "echo 'List of devices attached'")
    assert [info.missing for info in android.find()] == [NO_PHONE]
    _fake_adb(tmp_path, "echo 'List of devices attached'; echo 'ABC device model:Pixel_9'")
    assert [(info.name, info.model, info.ready) for info in android.find()] == [("ABC", "Pixel 9", False)]
    _fake_adb(tmp_path, "exit 1")
    assert "failed" in android.find()[0].missing


@pytest.mark.parametrize("name", DEVICES)
def test_every_kind_answers(name: str) -> None:
    found = DEVICES.get(name).find()
    assert found
    for info in found:
        assert info.kind == name
        assert info.ready == (not info.missing)
