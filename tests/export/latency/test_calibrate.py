"""What is learned from anchors, where it is kept, and that it answers before what is published."""

import pytest
import torch

from distill.core.errors import UsageError
from distill.stages.latency.phones import calibrated_here, predicted, split_devices
from distill.verbs.profile import profile
from export.device import DeviceInfo
from export.latency.anchors import ANCHORS, Calibration, anchor_operations, calibrations, keep, learn_anchors
from export.latency.calibrate import calibrate
from export.latency.fit.roofline import faster, latency, prior
from export.latency.graph.features import pack, published_features
from export.settings import ProfileSettings


@pytest.fixture(scope="module")
def truth():
    """A computer that is 7 times as slow as the prior's, and whose products with weights are slower still."""
    theta = faster(prior("CPU", "fp32"), 1 / 7)
    theta[4] -= 0.5
    return theta


@pytest.fixture(scope="module")
def learned(truth):
    rows = []
    for anchor in ANCHORS:
        for tower in ("image", "text"):
            ms = float(latency(truth, pack([anchor_operations(anchor, tower)]), "fp32")[0])
            rows.append((anchor, tower, ms))
    return learn_anchors(rows, "fp32")


@pytest.fixture
def kept(learned, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path))
    one = Calibration("host", "a computer", "onnx-fp32", "ONNX Runtime", threads=2, made=1.0, **learned)
    keep(one)
    return one


def test_models_that_were_no_anchors_come_out(truth, kept):
    known = published_features()
    names = (
        "timm:resnet50@224",
        "timm:fastvit_mci2@256",
        "clip:ViT-B-16:image@224",
        "text:12x512:49408:last@77",
        "timm:mobileone_s1@224",
    )
    wanted = latency(truth, pack([known[name] for name in names]), "fp32")
    before = latency(prior("CPU", "fp32"), pack([known[name] for name in names]), "fp32")
    for name, ms, unlearned in zip(names, wanted.tolist(), before.tolist(), strict=True):
        said, low, high = kept.predict(known[name])
        assert abs(torch.tensor(said / ms).log()) < 0.25
        assert low < ms < high or abs(said / ms - 1) < 0.15
        assert ms / unlearned > 5
    assert len(kept.anchors) == 8
    assert 0.05 < kept.spread < 0.5


def test_a_kept_calibration_is_read_back_and_a_damaged_one_left_out(kept, tmp_path):
    (tmp_path / "latency" / "broken.json").write_text("{", encoding="utf-8")
    assert calibrations() == [kept]


def test_a_calibrated_device_answers_for_what_is_not_exported(kept):
    assert calibrated_here(["host"])
    assert not calibrated_here(["host", "iphone-15"])
    result = profile("mci0", device=["host", "iphone-15"])
    assert [(row["device"], row["source"]) for row in result.profiles][::2] == [
        ("host", "measured anchors"),
        ("iphone-15", "predicted"),
    ]
    assert "onnx-fp32" in result.profiles[0]["note"]


def test_a_phone_that_was_calibrated_under_its_name_beats_what_is_published(learned, tmp_path, monkeypatch):
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path))
    published = predicted("mci0", ["iphone-12"])
    keep(Calibration("iphone-12", "mine", "onnx-fp32", "ONNX Runtime", threads=1, made=1.0, **learned))
    keep(Calibration("my phone", "mine", "onnx-fp32", "ONNX Runtime", threads=1, made=1.0, **learned))
    assert [row.source for row in published] == ["measured (published)"] * 2
    assert [row.source for row in predicted("mci0", ["iphone-12"])] == ["measured anchors"] * 2
    assert split_devices(ProfileSettings(devices=("my phone",))) == ([], ["my phone"])


def test_what_is_not_here_is_not_calibrated():
    with pytest.raises(UsageError, match="distill devices"):
        calibrate("pixel-99", ProfileSettings())
    with pytest.raises(UsageError, match="cannot be timed"):
        calibrate("host", ProfileSettings(), target="coreml")


def test_a_phone_is_calibrated_with_files_that_this_computer_cannot_time(monkeypatch):
    """Vulkan's files do not run here, which says nothing of a phone: its anchors are exported."""

    class ExportedError(Exception):
        pass

    def exported(anchor, folder):
        raise ExportedError(folder)

    phone = DeviceInfo("R58M", "android", "Pixel 9", "Android 15", ready=True)
    monkeypatch.setattr("export.latency.calibrate.list_devices", lambda settings: [phone])
    monkeypatch.setattr("export.latency.calibrate._exported", exported)
    with pytest.raises(ExportedError, match="executorch-vulkan-fp16"):
        calibrate("R58M", ProfileSettings(), target="executorch-vulkan")
