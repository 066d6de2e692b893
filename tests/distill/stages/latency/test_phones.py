"""Which model and which devices `distill profile` means, and that predictions need no weights."""

import json

import pytest

from distill.core.errors import UsageError
from distill.stages.latency.phones import predicted, split_devices
from distill.verbs.listing import list_names
from distill.verbs.profile import profile
from export.latency.devices import REPORTED
from export.settings import ProfileSettings
from students.spec import STUDENTS


def test_a_published_architecture_has_its_published_latencies_whatever_it_is_called(tmp_path):
    """MobileCLIP2-S0 on the iPhone 12 Pro Max: 1.5 and 3.3 ms, by Apple."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": STUDENTS.get("mci0").model_cfg}), encoding="utf-8"
    )
    for model in (str(folder), "open_clip:MobileCLIP2-S0/dfndr2b"):
        rows = predicted(model, ["iphone-12-pro-max"])
        assert [(row.tower, row.predicted_ms, row.source) for row in rows] == [
            ("image", 1.5, "measured (published)"),
            ("text", 3.3, "measured (published)"),
        ]
        assert all(row.p50_ms is None for row in rows)


def test_any_architecture_and_current_phones():
    rows = predicted("RepViT-M1.1", REPORTED)
    assert [row.device for row in rows] == list(REPORTED)
    assert all(row.low_ms < row.predicted_ms < row.high_ms for row in rows)
    assert {row.source for row in rows} <= {"transferred", "predicted", "uncalibrated"}
    assert [row.tower for row in predicted("12x512@77", ["iphone-15"])] == ["text"]
    with pytest.raises(UsageError, match="no run, no folder"):
        predicted("repvit_m9_9", ["iphone-15"])


def test_devices_that_are_here_are_measured_and_phones_by_name_predicted():
    assert split_devices(ProfileSettings(devices=("host", "iphone-15", "SM8650"))) == (
        ["host"],
        ["iphone-15", "SM8650"],
    )
    assert split_devices(ProfileSettings()) == ([], [])
    with pytest.raises(UsageError, match="iphone-15"):
        split_devices(ProfileSettings(devices=("iphone-115",)))


def test_the_verb_answers_without_anything_exported(capsys):
    from distill.cli.shown import show_profile

    result = profile("mci0", device=["iphone-15", "pixel-9"])
    assert [row["source"] for row in result.profiles] == ["predicted"] * 2 + ["uncalibrated"] * 2
    show_profile(result)
    said = capsys.readouterr().out
    row = result.profiles[0]
    assert f"{row['predicted_ms']:.3g} ({row['low_ms']:.3g} to {row['high_ms']:.3g})" in said
    assert f"iphone-15: {row['note']}" in said
    assert "uncalibrated" in said
    assert "p50" not in said


def test_devices_are_listed_with_how_far_they_are_calibrated():
    rows = {row["name"]: row["latency"] for row in list_names("devices").rows}
    assert rows["iphone-12"].startswith("predicted from ")
    assert rows["pixel-9"].startswith("uncalibrated")
    assert rows["host"] == "measured"


def test_a_named_device_that_cannot_be_timed_ends_the_call_before_anything_is_timed(tmp_path, monkeypatch):
    from distill.core.errors import DistillError
    from distill.verbs import profile as verb
    from export import device
    from export.device import DeviceInfo

    found = [
        DeviceInfo("host", "host", ready=True),
        DeviceInfo("R58", "android", missing="unauthorized: accept the dialog."),
    ]
    monkeypatch.setattr(device, "list_devices", lambda settings=None: found)
    monkeypatch.setattr(verb, "_found", lambda path: ([], path))
    with pytest.raises(
        DistillError, match=r"'R58' cannot be timed: unauthorized: accept the dialog\. Nothing was timed"
    ):
        profile(tmp_path, device=["host", "R58"])
    assert profile(tmp_path, device="host").profiles == []
