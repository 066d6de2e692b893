"""Devices, fits, transfers and the order of trust, on synthetic rows whose truth is known."""

import csv
import io
import math

import pytest
import torch

from distill.core.errors import UsageError
from export.latency.devices import CHIPS, REPORTED, find_chip
from export.latency.fit.families import family_of
from export.latency.fit.learn import Kind, learn
from export.latency.fit.roofline import NAMES, as_values, faster, fit, latency, of_values, prior, widths
from export.latency.graph.features import pack, published_features
from export.latency.predictor import FITTED, Predictor, identity_of, published_predictor
from export.latency.rows import Group, Row, fitting_rows, precision_of, published_rows, runtime_of
from export.latency.transfer import table_of, transfer
from export.predict_rows import main, predict_rows

KNOWN = published_features()
KEYS = [key for key in KNOWN if key.startswith("timm:")][:30]


def row(key, ms, chip="a14", runtime="Core ML", precision="fp16", model="", size="224", **other):
    given = {
        "device": chip,
        "unit": CHIPS[chip].unit,
        "version": "",
        "name": "",
        "source": "made up",
        "note": "",
    } | other
    return Row(chip=chip, runtime=runtime, precision=precision, model=model or key, size=size, ms=ms, key=key, **given)


@pytest.mark.parametrize(
    ("said", "chip"),
    [
        ("iPhone 12 Pro Max", "a14"), ("iphone-15", "a16"), ("iPhone 15 Pro", "a17-pro"), ("A16 Bionic", "a16"),
        ("Samsung Galaxy S24", "snapdragon-8-gen-3"), ("Samsung S23", "snapdragon-8-gen-2"), ("SM8650", "snapdragon-8-gen-3"),
        ("QCS8550 (Proxy)", "snapdragon-8-gen-2"), ("Dragonwing RB3 Gen 2 Vision Kit", "qcs6490"), ("Mac M1", "m1"),
        ("Snapdragon 8 Elite Gen 5 QRD", "snapdragon-8-elite-gen-5"), ("Snapdragon 8 Elite QRD", "snapdragon-8-elite"),
        ("Google Pixel 10", "tensor-g5"), ("iPhone SE 3", "a15"), ("Snapdragon 7+ Gen 2", "snapdragon-7-plus-gen-2"),
    ],
)  # fmt: skip
def test_devices_as_people_and_tables_write_them(said, chip):
    assert find_chip(said).name == chip


def test_every_device_finds_its_own_chip_and_an_unknown_one_names_the_near():
    for chip in CHIPS.values():
        assert {find_chip(name).name for name in (chip.name, *chip.phones)} == {chip.name}
    with pytest.raises(UsageError, match="galaxy-s26"):
        find_chip("galaxy-s99")
    assert len({find_chip(phone).name for phone in REPORTED}) == 6


def test_a_fit_finds_what_made_the_latencies():
    """Latencies from known parameters that are far from the priors: predictions for unseen models come out."""
    truth = faster(prior("ANE", "fp16"), 3.0)
    models = pack([KNOWN[key] for key in KEYS])
    log_ms = latency(truth, models, "fp16").log()
    seen, zero = torch.arange(20), torch.zeros(20, dtype=torch.long)
    theta, _ = fit(models, seen, zero, log_ms[:20], "fp16", prior("ANE", "fp16"), widths(2.0), iterations=100)
    error = (latency(theta, models, "fp16").log() - log_ms)[20:].abs()
    assert float(error.max()) < 0.2
    assert float((latency(prior("ANE", "fp16"), models, "fp16").log() - log_ms)[20:].abs().min()) > 0.9
    assert torch.allclose(of_values(as_values(theta)), theta, atol=1e-4)
    assert len(theta) == len(NAMES)


def test_more_work_and_wider_numbers_take_longer():
    models = pack([KNOWN[key] for key in KEYS])
    theta = prior("HTP", "fp16")
    assert bool((latency(theta, models, "fp32") > latency(theta, models, "fp16")).all())
    assert bool((latency(theta, models, "fp16") > latency(theta, models, "w8a8")).all())
    assert torch.allclose(latency(faster(theta, 2.0), models, "fp16") * 2, latency(theta, models, "fp16"))


def test_a_family_that_is_left_out_changes_nothing_that_is_learned():
    rows = [one for one in fitting_rows(published_rows()) if one.group == Group("a14", "coreml", "fp16")]
    seen = [one for one in rows if family_of(one.key) != "fastvit"]
    wrong = [row(one.key, one.ms * 9) for one in rows if family_of(one.key) == "fastvit"]
    assert len(wrong) > 5
    group, models = Group("a14", "coreml", "fp16"), pack([KNOWN["timm:fastvit_mci2@256"]])
    clean = learn(seen, KNOWN, "ANE", "fp16")
    spoilt = learn([one for one in seen + wrong if family_of(one.key) != "fastvit"], KNOWN, "ANE", "fp16")
    both = learn(seen + wrong, KNOWN, "ANE", "fp16")
    said = [float(kind.predict(kind.own[group], models)[0]) for kind in (clean, spoilt, both)]
    assert said[0] == said[1]
    assert said[2] > 2 * said[0]


def test_relatives_are_families():
    assert (
        family_of("timm:fastvit_mci2@256")
        == family_of("timm:fastvit_sa12@256")
        == family_of("clip:MobileCLIP-S1:image@256")
    )
    assert (
        family_of("clip:ViT-B-32:text@77")
        == family_of("text:6x384:49408:last@77")
        == family_of("hf:bert-mlm@384")
        == "text"
    )
    assert family_of("timm:vit_base_mci_224@224") == family_of("clip:ViT-L-14:image@224") == "vit"
    assert family_of("timm:mobilevit_s@256") != family_of("timm:mobilevitv2_050@256")


def test_a_relative_times_the_anchors_ratio():
    rows = [row(key, 1.0 + index, "a14") for index, key in enumerate(KEYS[:6])]
    rows += [row(key, (1.0 + index) * 0.5, "a16") for index, key in enumerate(KEYS[:5])]
    table = table_of(rows)
    moved = transfer(table, Group("a16", "coreml", "fp16"), KEYS[5])
    assert moved is not None
    assert moved.ms == pytest.approx(3.0)
    assert moved.anchors == 5
    assert transfer(table, Group("a16", "coreml", "fp16"), KEYS[5], without=KEYS[:3]) is None  # two anchors are none
    odd = [row(key, (1.0 + index) * 4 ** (index - 2), "a16") for index, key in enumerate(KEYS[:5])]
    assert transfer(table_of(rows[:6] + odd), Group("a16", "coreml", "fp16"), KEYS[5]) is None  # ratios that disagree


def test_the_most_trusted_answer_comes_first():
    rows = [row(key, 1.0 + index, "a14") for index, key in enumerate(KEYS[:6])]
    rows += [row(key, (1.0 + index) * 0.5, "a16") for index, key in enumerate(KEYS[:5])]
    kind = learn(rows, KNOWN, "ANE", "fp16")
    predictor = Predictor(rows, {("ANE", "fp16"): kind}, {"ANE/fp16": [0.8, 1.25]})
    sources = {}
    for device, key in (
        ("iphone-14-pro", KEYS[0]),
        ("iphone-14-pro", KEYS[5]),
        ("iphone-14-pro", KEYS[9]),
        ("iphone-17", KEYS[9]),
    ):
        said = predictor.predict(device, key, KNOWN[key])
        assert said.low < said.ms < said.high
        sources[device, key] = said
    assert [said.source for said in sources.values()] == ["measured", "transferred", "predicted", "uncalibrated"]
    measured, moved, predicted, scaled = sources.values()
    assert measured.ms == 0.5
    assert moved.ms == pytest.approx(3.0)
    assert predicted.high / predicted.ms == pytest.approx(1.25)
    assert scaled.high / scaled.ms == pytest.approx(1.25**2)
    with pytest.raises(UsageError, match="failing"):
        failed = [row(KEYS[0], None, "a16", note="FAILED")]
        Predictor(failed, {("ANE", "fp16"): kind}, {}).predict("a16", KEYS[0], KNOWN[KEYS[0]])


def test_a_finding_makes_a_lower_bound():
    rows = [row(key, 1.0 + index, "a14") for index, key in enumerate(KEYS[:6])]
    predictor = Predictor(rows, {("ANE", "fp16"): learn(rows, KNOWN, "ANE", "fp16")}, {"ANE/fp16": [0.8, 1.25]})
    said = predictor.predict("a14", "", KNOWN["timm:efficientvit_b1@224"])
    assert said.at_least
    assert said.high / said.ms == pytest.approx(5.4 / 1.5)
    assert said.note.count("x1.5") == 1
    assert "linear attention" in said.note


def test_words_of_tables():
    assert [runtime_of(said) for said in ("QNN (DLC)", "TFLite+QNN delegate", "ONNX Runtime QNN EP", "Core ML (Xcode 14)")] == [
        "qnn", "tflite", "ort", "coreml",
    ]  # fmt: skip
    assert [precision_of(said) for said in ("fp16", "INT8", "w8a16_mixed_int16", "pal4", "float32", "")] == [
        "fp16", "w8a8", "w8a16", "pal4", "fp32", "fp16",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="w8a16"):
        precision_of("w3a5")


def test_stored_fits_are_read_back(tmp_path):
    kind = published_predictor().kinds["ANE", "fp16"]
    again = Kind.from_json(kind.to_json())
    models, group = pack([KNOWN["text:12x512:49408:last@77"]]), Group("a14", "coreml", "fp16")
    assert float(again.predict(again.own[group], models)[0]) == pytest.approx(
        float(kind.predict(kind.own[group], models)[0]), rel=1e-3
    )
    assert FITTED.stat().st_size < 400_000


@pytest.mark.parametrize(
    ("model", "size", "ms"),
    [
        ("MobileCLIP-S1 image", "256", 2.5),
        ("MobileCLIP-S1 text", "77", 3.3),
        ("EfficientFormer-L3", "224", 3.0),
        ("FastViT-SA24", "256", 2.547),
    ],
)
def test_published_models_that_no_fit_has_seen(model, size, ms):
    """Apple's and Snap's own figures for the iPhone 12, which are not among the rows."""
    from export.latency.graph.build import operations
    from export.latency.graph.names import resolve

    said = published_predictor().predict("iphone-12", "", operations(resolve(model, size)))
    assert said.low < ms < said.high
    assert abs(math.log(said.ms / ms)) < 0.25


def test_a_table_is_predicted_line_by_line(tmp_path):
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text(
        "Device,extra,Run-time,precision,Model,Input size\n"
        "iPhone 12 Pro Max,a,Core ML,fp16,MobileCLIP-S2 image,256\n"
        "iPhone 12 Pro Max,b,Core ML,fp16,text 6x384@77,\n"
        "Samsung Galaxy S24,c,QNN (DLC),fp16,efficientnet_v2_s,384\n"
        "Nokia 3310,d,QNN,fp16,resnet50,224\n"
        "iPhone 12,e,Core ML,fp16,no_such_net,224\n"
        "iPhone 12,f,Core ML,fp5,resnet50,224\n"
        "\n",
        encoding="utf-8",
    )
    assert predict_rows(source, target) == (6, 3)
    lines = list(csv.DictReader(io.StringIO(target.read_text(encoding="utf-8"))))
    assert [line["extra"] for line in lines] == list("abcdef")
    assert float(lines[0]["predicted"]) == 3.6
    assert lines[0]["source"].startswith("measured: published")
    assert float(lines[1]["low"]) < float(lines[1]["predicted"]) < float(lines[1]["high"])
    assert float(lines[2]["predicted"]) == pytest.approx(1.9, abs=0.1)
    for line, word in zip(lines[3:], ("Nokia 3310", "no_such_net", "fp5"), strict=True):
        assert (line["predicted"], line["low"]) == ("", "")
        assert line["source"].startswith("not predicted")
        assert word in line["source"]


def test_a_table_without_a_device_column_is_refused(tmp_path, capsys):
    (tmp_path / "in.csv").write_text("model,size\nresnet50,224\n", encoding="utf-8")
    assert main([str(tmp_path / "in.csv"), str(tmp_path / "out.csv")]) == 2
    assert "no column device" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def test_a_row_measured_at_another_size_than_it_says_is_found_by_what_it_says():
    assert identity_of("efficientnet_v2_s", "384", "Samsung Galaxy S24") == "timm:tf_efficientnetv2_s@224"
    assert identity_of("no such", "384") == ""
