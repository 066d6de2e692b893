"""Choosing by a budget: what is searched, what keeps the budget, who wins, and what is said where nothing does."""

import itertools

import numpy as np
import pytest

from distill.core import atomic
from distill.core.clip.model import build_clip, count_parameters
from distill.core.errors import UsageError
from distill.core.existing import Existing
from distill.recipe import load_recipe
from distill.reporting.pareto import choices
from distill.reporting.pareto.published import PUBLISHED, architecture
from distill.reporting.terminal import plain_lines
from distill.run_folder import RunFolder
from distill.stages.latency import candidates, choose
from distill.stages.latency.prior import line, prior
from distill.verbs.choose import choose as verb
from distill.verbs.run import default_out
from students.spec import STUDENTS

PHONE = "iphone-12-pro-max"


class Silent:
    """A console that keeps what it is told."""

    def __init__(self):
        self.said = []

    def say(self, line):
        self.said.append(line)

    def stage(self, name):
        import contextlib

        return contextlib.nullcontext(lambda done, total, note="": None)


def recipe(*settings, **given):
    return load_recipe(None, ["data=./photos", "choose.students=['tinyclip-vit8m16']", *settings], given)


def chosen(*settings, **given):
    return choose.choose(recipe(*settings, **given))


def test_budgets_are_read_with_units_and_without():
    for text, ms in (("5ms", 5), ("0.005 s", 5), ("5", 5), (5, 5), ("800us", 0.8)):
        assert load_recipe(None, {"choose.max_latency": text}).choose.max_latency == pytest.approx(ms)
    assert load_recipe(None, ["choose.max_size=0.04GB"]).choose.max_size == pytest.approx(40)
    for wrong in ("5MB", "soon", "-3", "0"):
        with pytest.raises(UsageError, match=r"choose\.max_latency"):
            load_recipe(None, {"choose.max_latency": wrong})


def test_every_family_size_depth_and_precision_is_looked_at():
    found = chosen("choose.max_size=1000")
    shapes = {(one.pixels, one.layers) for one in (*found.met, *found.missed)}
    assert shapes == set(itertools.product((224, 192, 160, 144), (3, 2)))  # multiples of the patch, 16
    assert found.precisions == ("fp32",)  # what the first of the default targets has: XNNPACK
    assert chosen("choose.max_size=1000", "choose.target=coreml").precisions == ("fp16", "w8", "p6")
    assert chosen("choose.max_size=1000", "export.targets=['coreml-p4']").precisions == ("p4",)
    only = chosen(
        "choose.max_size=1000", "choose.image_sizes=[160]", "choose.text_layers=[1]", "choose.precisions=['fp32']"
    )
    assert [(one.pixels, one.layers) for one in only.met] == [(160, 1)]
    named = load_recipe(None, ["choose.max_size=1000", "data=x", "student.name=mci0", "student.image_size=192"])
    assert {(one.student, one.pixels) for one in choose.choose(named).met} == {("mci0", 192)}


def test_the_data_decides_which_vocabulary_is_searched():
    own = load_recipe(None, ["choose.max_size=1000"])
    assert set(candidates.families(own)) == {"nano", "rendered-teacher"}
    photos = candidates.families(load_recipe(None, ["choose.max_size=1000", "data=./photos"]))
    assert {"mci0", "mci2", "tinyclip-vit8m16"} <= set(photos)
    assert not {"nano", "coca-nano", "coca-vitb32"} & set(photos)
    with pytest.raises(UsageError, match="mci2"):
        candidates.families(load_recipe(None, ["choose.students=['mci22']"]))


def test_size_is_that_of_open_clips_own_model():
    for name in ("tinyclip-vit8m16", "nano"):
        spec = STUDENTS.get(name)
        whole = count_parameters(build_clip(candidates.with_vocabulary(spec), seed=0, device="meta"))
        found = choose.choose(
            load_recipe(None, [f"choose.students=['{name}']", "choose.max_size=1000", "choose.precisions=['fp32']"])
        )
        own = next(one for one in found.met if one.image_size is None and one.text_layers is None)
        assert own.size_mb == pytest.approx(sum(whole.values()) * 4 / 1e6, rel=0.005)
        assert own.memory_mb > own.size_mb


def test_memory_is_what_is_alive_at_once():
    """A chain by hand: the input stays with the caller, and a layer's input lives beside its output."""
    import torch
    from torch import nn

    from export.latency.graph.memory import most_alive

    pixels, plain = torch.empty(1, 3, 16, 16, device="meta"), nn.Conv2d(3, 8, 1, device="meta")
    assert most_alive(plain, pixels) == 4 * 256 * (3 + 8)
    chain = nn.Sequential(plain, nn.Conv2d(8, 32, 1, device="meta"), nn.Conv2d(32, 1, 1, device="meta"))
    assert most_alive(chain, pixels) == 4 * 256 * (3 + 8 + 32)

    class Residual(nn.Module):
        def forward(self, x):
            return chain[1](chain[0](x)).sum(1, keepdim=True) + x.view(1, 3, 16, 16)[:, :1]

    assert most_alive(Residual(), pixels) == 4 * 256 * (3 + 8 + 32)  # views share, and what is read no more is gone


def test_the_upper_end_of_the_interval_keeps_the_budget():
    base = chosen("choose.max_latency=1000", "choose.devices=['iphone-12-pro-max']", "choose.precisions=['fp16']")
    first = base.met[0]
    figure = first.latency[PHONE]
    assert figure.low < figure.ms < figure.high
    between = (figure.ms + figure.high) / 2
    tight = [f"choose.max_latency={between}", f"choose.devices=['{PHONE}']", "choose.precisions=['fp16']"]
    assert first.name not in [one.name for one in chosen(*tight).met]
    assert first.name in [one.name for one in chosen(*tight, "choose.bound=middle").met]


def test_of_those_within_the_budget_the_best_prior_wins_and_precisions_give_way():
    found = chosen("choose.max_size=24", "choose.target=coreml")  # 23.4 M parameters: at 8 bits
    assert (found.chosen[0].precision, found.chosen[0].pixels, found.chosen[0].layers) == ("w8", 224, 3)
    assert [one.prior for one in found.met] == sorted((one.prior for one in found.met), reverse=True)
    roomy = chosen("choose.max_size=60", "choose.target=coreml", "choose.train=3")
    assert [one.precision for one in roomy.chosen] == ["fp16"] * 3


def test_several_devices_must_all_keep_it_and_each_limit_counts():
    budget = ["choose.max_latency=4", "choose.precisions=['fp16']"]
    one = chosen(*budget, f"choose.devices=['{PHONE}']")
    both = chosen(*budget, f"choose.devices=['{PHONE}', 'galaxy-s23']")
    assert {shape.name for shape in both.met} <= {shape.name for shape in one.met}
    assert set(both.met[0].latency) == {PHONE, "galaxy-s23"}
    with pytest.raises(UsageError, match="over in size"):
        chosen(*budget, f"choose.devices=['{PHONE}']", "choose.max_size=1")


def test_what_cannot_be_kept_or_known_is_said_with_the_nearest(monkeypatch):
    monkeypatch.setattr("export.latency.anchors.calibrations", list)  # whatever this computer has
    with pytest.raises(
        UsageError, match=r"The nearest is tinyclip-vit8m16 at \d+ px.*over in latency.*choose.bound=middle"
    ):
        chosen("choose.max_latency=0.01", f"choose.devices=['{PHONE}']")
    with pytest.raises(UsageError, match=r"On which device"):
        chosen("choose.max_latency=5")
    with pytest.raises(UsageError, match=r"nearest device with published latencies is iphone-15-pro"):
        chosen("choose.max_latency=5", "choose.devices=['iphone-16-pro']")
    with pytest.raises(UsageError, match=r"distill calibrate --device host"):
        chosen("choose.max_latency=5", "choose.devices=['host']")
    with pytest.raises(UsageError, match="galaxy-s24"):
        chosen("choose.max_latency=5", "choose.devices=['galaxy-s240']")
    with pytest.raises(UsageError, match="needs a budget"):
        verb()
    with pytest.raises(UsageError, match="no precision 'p4'"):
        chosen("choose.max_size=40", "choose.target=onnx", "choose.precisions=['p4']")


def test_a_calibrated_device_answers_by_its_own_costs(monkeypatch):
    from export.latency import anchors
    from export.latency.anchors import Calibration
    from export.latency.fit.roofline import as_values
    from export.latency.predictor import published_predictor

    costs = as_values(published_predictor().kinds["CPU", "fp32"].common)
    own = Calibration("host", "", "onnx-fp32", "onnxruntime", "CPU", "fp32", 1, costs, 0.1, (), 0.0)
    monkeypatch.setattr(anchors, "calibrations", lambda: [own])
    found = chosen("choose.max_latency=10000", "choose.devices=['host']")
    assert (found.targets, found.precisions) == (("onnx",), ("fp32",))
    spec = STUDENTS.get("tinyclip-vit8m16")
    both = [own.predict(candidates.cost_of(spec, tower).operations)[0] for tower in ("image", "text")]
    whole = next(one for one in found.met if (one.pixels, one.layers) == (224, 3))
    assert whole.latency["host"].ms == pytest.approx(sum(both), rel=0.01)
    assert whole.latency["host"].source == "measured anchors"


def test_the_prior_is_the_published_order_of_models_that_were_trained_alike():
    through = line()
    for recipe_name in ("MobileCLIP", "MobileCLIP2"):
        rows = [row for row in PUBLISHED if row.recipe == recipe_name and row.text != "mct:4x512"]
        line_of = [through.image * np.log2(row.image_gmacs) + through.text * np.log2(row.text_mparams) for row in rows]
        ranks = [np.argsort(np.argsort(values)) for values in (line_of, [row.imagenet for row in rows])]
        assert np.corrcoef(*ranks)[0, 1] > 0.7
    assert (round(through.image, 1), round(through.text, 1)) == (1.3, 2.3)  # what docs/choose.md says
    s2 = STUDENTS.get("mci2").model_cfg
    assert prior(s2, 7.83, 38.1, "fp16") == pytest.approx(77.2, abs=0.5)  # MobileCLIP2-S2 as published
    assert prior(s2, 7.83 / 2, 38.1, "fp16") == pytest.approx(prior(s2, 7.83, 38.1, "fp16") - through.image)
    assert prior(s2, 7.83, 38.1, "w8") < prior(s2, 7.83, 38.1, "fp16")
    assert architecture(s2) == ("timm:fastvit_mci2@256", "12x512")
    assert architecture(STUDENTS.get("tinyclip-vit8m16").model_cfg) == ("vit:10x256/16@224", "3x256")


def test_the_table_fits_eighty_columns_and_says_why():
    found = chosen(
        "choose.students=['mci0']", "choose.max_latency=4.9", f"choose.devices=['{PHONE}']", "choose.image_sizes=[256]"
    )
    record = found.to_json()
    table = plain_lines(choices.COLUMNS, choices.rows(record))
    assert max(map(len, table)) <= 80
    assert table[1].endswith("chosen")
    assert any("over in latency" in row for row in table)
    assert any("lower prior" in row for row in table)
    assert record["chosen"][0]["latency"][PHONE]["source"] == "measured (published) and predicted"  # image and text
    assert found.looked_at == (len(found.met) + len(found.missed)) * len(found.precisions)


def test_the_recipe_gets_the_student_and_a_resume_does_not_choose_again(tmp_path, monkeypatch):
    job = recipe("choose.max_size=24", "choose.target=coreml")
    run, console = RunFolder(tmp_path), Silent()
    settled, filled, choice = choose.settle_choice(job, run, Existing.REFUSE, console)
    assert (settled.student.name, settled.student.image_size) == ("tinyclip-vit8m16", None)
    assert settled.export.targets == ("executorch-xnnpack", "coreml-w8", "onnx")
    assert set(filled) == {"student.name", "student.image_size", "student.text_layers", "export.targets"}
    assert any("within 24 MB of files" in line for line in console.said)
    atomic.write_json(run.choice, choice.to_json())
    kept = settled.model_dump(mode="json")
    kept["student"]["image_size"] = 192  # of the two that were trained the other one was kept
    atomic.write_json(run.resolved, {"recipe": kept, "filled": filled})
    monkeypatch.setattr(choose, "choose", None)
    again, _, none = choose.settle_choice(job, run, Existing.RESUME, console)
    assert (again.student.name, again.student.image_size, none) == ("tinyclip-vit8m16", 192, None)
    other = load_recipe(job, ["export.targets=['onnx']"])
    assert choose.settle_choice(other, run, Existing.RESUME, console)[0].export.targets == ("onnx",)
    with pytest.raises(UsageError, match="frozen towers"):
        choose.settle_choice(load_recipe(job, ["towers=sail-lite0-minilm"]), run, Existing.REFUSE, console)


def test_a_family_that_its_targets_refuse_is_not_chosen(monkeypatch):
    from types import SimpleNamespace

    asked = []

    def errors(job):
        asked.append((job.student.name, job.export.targets))
        return [SimpleNamespace(rule="ANE-RANK")] if job.student.name == "mci0" else []

    monkeypatch.setattr(choose, "errors_of", errors)
    both = [
        "choose.students=['tinyclip-vit8m16', 'mci0']",
        "choose.image_sizes=[224]",
        "choose.max_size=1000",
        "choose.target=coreml",
    ]
    plain = choose.choose(load_recipe(None, ["data=x", *both]))
    assert plain.chosen[0].student == "mci0"
    left = choose.without_errors(plain)
    assert left.chosen[0].student == "tinyclip-vit8m16"
    assert asked == [
        ("mci0", ("executorch-xnnpack", "coreml", "onnx")),
        ("tinyclip-vit8m16", ("executorch-xnnpack", "coreml", "onnx")),
    ]
    assert {row[-1] for row in choices.rows(left.to_json()) if row[0] == "mci0"} == {"lint ANE-RANK"}
    assert len(left.met) + len(left.missed) == len(plain.met) + len(plain.missed)
    alone = choose.choose(load_recipe(None, ["data=x", *both[1:], "choose.students=['mci0']"]))
    with pytest.raises(UsageError, match="mci0: ANE-RANK"):
        choose.without_errors(alone)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (["export.targets=['onnx', 'coreml']"], ["onnx", "coreml-w8"]),  # named without a precision
        (["export.targets=['coreml-p4', 'onnx']"], None),  # with its own
        (["export.targets=['onnx']"], None),  # another one is wanted
        (["export.precisions=['fp16']"], None),
        ([], ["executorch-xnnpack", "coreml-w8", "onnx"]),
    ],
)
def test_the_student_is_exported_as_it_was_counted(said, wanted):
    job = recipe("choose.max_size=1000", "choose.target=coreml", *said)
    choice = choose.Choice(job, (), ("coreml",), ("w8",), [], [], {}, 0)
    one = candidates.Candidate("tinyclip-vit8m16", None, None, "w8", 224, 3, {}, 1.0, 1.0, 1.0, 1.0, 1.0)
    assert choose.export_values(job, choice, one) == ({} if wanted is None else {"export.targets": wanted})


def test_the_run_folder_is_named_by_the_budget():
    job = load_recipe(None, [], {"choose.max_latency": "5ms", "choose.max_size": "40MB", "profile.devices": [PHONE]})
    assert default_out(job).name == "5ms-40MB-iphone-12-pro-max-from-rendered"


def test_training_alone_chooses_by_a_recipe_too_but_only_one(tmp_path, monkeypatch):
    from distill.verbs import train

    seen = {}

    def stop(job, filled, run, existing, console, choice):
        seen.update(student=job.student, filled=filled, chosen=choice.chosen[0].name)
        raise UsageError("stop")

    monkeypatch.setattr(train, "_train", stop)
    settings = [
        "choose.max_size=1.2",
        "choose.students=['nano']",
        "choose.target=coreml",
        "data=rendered:train=24,eval=8",
    ]
    with pytest.raises(UsageError, match="stop"):
        train.train(settings=settings, out=tmp_path / "run")
    assert seen["student"].name == "nano"
    assert seen["chosen"].startswith("nano at 64 px")
    assert "chosen among" in seen["filled"]["student.name"]
    with pytest.raises(UsageError, match="distill run does"):
        train.train(settings=[*settings, "choose.train=2"], out=tmp_path / "run")
