"""Which models are worth what they cost: fronts against brute force, axes that never mix, and what compare says of them."""

import json
import random

import pytest

from distill.core.errors import UsageError
from distill.reporting.pareto import draw, page
from distill.reporting.pareto.fronts import Axis, fronts, marks, on_front, phone_costs, primary
from distill.reporting.pareto.published import PUBLISHED
from distill.reporting.pareto.references import judged_on_imagenet, latency_of, references
from distill.verbs import compare as verb


def latency(device, tower, source="predicted", precision="fp16", runtime="Core ML", ms=2.0):
    row = {
        "device": device,
        "tower": tower,
        "source": source,
        "precision": precision,
        "runtime": runtime,
        "p50_ms": None,
    }
    if source.startswith("measured (") is False and source != "measured":
        return {**row, "predicted_ms": ms, "low_ms": ms / 2, "high_ms": ms * 2}
    return {**row, "predicted_ms": None, "p50_ms": ms, "low_ms": None, "high_ms": None}


def towers(device, **named):
    return [latency(device, tower, **named) for tower in ("image", "text")]


def model(role, name, top1, size, host=None):
    return {
        "role": role, "model": name, "zero_shot_top1": top1, "t2i_r1": top1 / 2, "i2t_r1": None, "size_mb": size,
        "image_p50_ms": host, "text_p50_ms": host, "parameters": None, "parity": None,
    }  # fmt: skip


def run(out, table, *, data="photos", predicted=(), profiles=(), teachers=None, host="desk", task="scenes", classes=10):
    return {
        "out": out, "table": table, "judged_on": {"name": data}, "predicted": list(predicted), "profiles": list(profiles),
        "predicted_teachers": teachers or {}, "host": host, "rehearsal": False, "versions": {}, "recipe": {"profile": {}},
        "evals": [
            {"model": row["model"], "role": row["role"], "zero_shot": {"task": task, "classes": classes}, "retrieval": None}
            for row in table or [model("student", "s", 0, 0)]
        ],
    }  # fmt: skip


def test_the_front_is_what_brute_force_finds():
    dice = random.Random(0)
    for _ in range(50):
        points = [(dice.randint(1, 6), dice.randint(1, 6)) for _ in range(8)]
        expected = []
        for cost, accuracy in points:
            beaten = [p for p in points if p != (cost, accuracy) and p[0] <= cost and p[1] >= accuracy]
            expected.append(not beaten)
        assert on_front(points) == expected
    assert on_front([(1.00, 5), (1.02, 9)]) == [True, True]
    assert on_front([(1.00, 5), (1.02, 9)], alike=0.05) == [False, True]  # the same time, and better
    assert on_front([(1.00, 5), (1.02, 5)], alike=0.05) == [True, True]


def test_axes_hold_one_device_precision_and_kind():
    rows = [
        *towers("iphone-15"), *towers("iphone-15", precision="w8"), *towers("R58", source="measured", runtime="LiteRT 2"),
        *towers("web", source="measured (browser)", precision="fp32", runtime="ort-web"), *towers("host", source="measured"),
        latency("galaxy-s24", "image"), {**latency("pixel-9", "image"), "source": "not measured"},
    ]  # fmt: skip
    found = phone_costs(rows)
    assert {(axis.name, axis.kind) for axis in found} == {
        ("iphone-15", "predicted"), ("iphone-15 w8", "predicted"), ("R58 (LiteRT 2, measured)", "measured"),
        ("web fp32 (ort-web, measured (browser))", "measured"),
    }  # fmt: skip
    assert found[Axis("iphone-15", "ms", "predicted")] == (4.0, 2.0, 8.0, "predicted")
    mixed = [latency("x", "image", "transferred"), latency("x", "text")]
    assert phone_costs(mixed)[Axis("x", "ms", "predicted")].source == "transferred and predicted"


def test_teachers_students_and_runs_share_axes_and_get_marks():
    a = run(
        "runs/a", [model("teacher", "big", 60, 100, 9), model("student", "small", 50, 10, 1)], predicted=towers("iphone-15"),
        teachers={"big": towers("iphone-15", ms=20)},
    )  # fmt: skip
    b = run(
        "runs/b",
        [model("student", "small", 40, 10, 1), model("plain student", "p", 30, 10, 1)],
        predicted=towers("iphone-15"),
    )
    found = fronts([a, b])
    assert {front.axis.name for front in found} == {"size", "host", "iphone-15"}
    assert primary(found) == "zero_shot_top1"
    assert {front.metric for front in found} == {"zero_shot_top1", "t2i_r1"}  # i2t_r1 is known of none
    assert marks(found, "runs/a", "small") == "size, host, 1 of 1 phones"
    assert marks(found, "runs/a", "big") == "size, host, 1 of 1 phones"
    assert marks(found, "runs/b", "small") == ""
    phone = next(front for front in found if front.axis.name == "iphone-15")
    assert {(point.run, point.role, point.cost) for point in phone.points} == {
        ("runs/a", "teacher", 40), ("runs/a", "student", 4), ("runs/b", "student", 4), ("runs/b", "plain student", 4),
    }  # fmt: skip


def test_other_data_has_a_front_of_its_own_and_unlike_hosts_have_none():
    a, b = (run(f"runs/{name}", [model("student", "s", 50, 10, 1)], data=name) for name in "ab")
    assert [len(front.points) for front in fronts([a, b]) if front.metric == "t2i_r1"] == [1] * 4
    other = {**b, "host": "another"}
    assert {front.axis.name for front in fronts([a, other])} == {"size"}


def test_published_models_are_lines_and_their_accuracies_stand_alone():
    apple = {one["name"]: one for one in references("iphone-12-pro-max")}
    assert apple["MobileCLIP2-S2"]["cost"] == pytest.approx(3.6 + 3.3)  # by Apple
    assert apple["MobileCLIP2-S2"]["source"] == "measured (published)"
    assert apple["TinyCLIP-ViT-40M/32"]["cost"] == pytest.approx(3.0 + 1.9)
    assert len(references("size")) == len(PUBLISHED)
    assert references("iphone-15 w8") == references("R58 (LiteRT 2, measured)") == references("host") == []
    assert latency_of(PUBLISHED[1], "iphone-15") is None  # MCi1, of which no latency is published
    assert not judged_on_imagenet(run("a", [], task="imagenet-100", classes=100))
    assert judged_on_imagenet(run("a", [], task="imagenet-1k", classes=1000))


def test_the_page_has_every_point_and_no_paper_beside_another_metric(tmp_path):
    predicted = [*towers("iphone-15"), *towers("iphone-12-pro-max")]
    a = run("runs/a", [model("student", "s", 50, 10, 1)], predicted=predicted)
    b = run("runs/b", [model("student", "s", 70, 20, 2)], predicted=predicted, task="imagenet", classes=1000)
    found = fronts([a, b])
    row = {"run": "runs/a", **a["table"][0], "front": "size", "intervals": {"zero_shot_top1": [45.0, 55.0]}}
    record = {"table": [row], "warnings": ["Mind."], "differences": [{"says": "b against a: closer"}]}
    page.write_comparison(tmp_path / "c", [a, b], found, record)
    html = (tmp_path / "c" / "compare.html").read_text()
    assert html.count("<svg") == 5  # size, host, two phones, papers
    assert "Mind." in html
    assert "50.0 (45.0 to 55.0)" in html
    assert "b against a: closer" in html
    assert "https://" not in html.replace("https://matplotlib.org", "")
    assert json.loads((tmp_path / "c" / "compare.json").read_text()) == record
    for name in ("pareto-size", "pareto-iphone-15", "pareto-host", "published"):
        assert (tmp_path / "c" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert page._on_imagenet([a, b]) == [{"name": "b: student", "cost": 4.0, "accuracy": 70}]
    texts = [text.get_text() for text in draw.front_figure(found[0], references("size")).axes[0].texts]
    assert {"a: student: 50.0 at 10 MB", "b: student: 70.0 at 20 MB"} <= set(texts)
    assert any("MobileCLIP" in text or "TinyCLIP" in text for text in texts)


def test_compare_writes_where_it_is_told_and_not_over_other_things(tmp_path, monkeypatch):
    from distill.reporting import facts

    known = {name: run(name, [model("student", "s", top1, 10, 1)]) for name, top1 in (("a", 50), ("b", 60))}
    monkeypatch.setattr(facts, "read_run", lambda folder: known[str(folder)])
    result = verb.compare(["a", "b"])
    assert [row["front"] for row in result.table] == ["", "size, host"]
    said = json.loads(json.dumps(result.to_json()))
    assert {front["axis"] for front in said["fronts"]} == {"size", "host"}
    assert said["published"]["size"][0]["paper"].startswith("MobileCLIP")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(UsageError, match="--overwrite"):
        verb.compare(["a", "b"], out=tmp_path / "full")
    assert verb.compare(["a", "b"], out=tmp_path / "new").out == tmp_path / "new"
    assert (tmp_path / "new" / "compare.html").is_file()
