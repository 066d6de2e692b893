"""The report's first sentences, against figures made by hand."""

import shlex

from distill.evaluation.verdict import verdict
from distill.reporting.summary import summary
from distill.reporting.table import show


def _facts(student: float, plain: float, **changes):
    def judged(role, top1):
        figures = {"task": "t", "top1": top1, "top1_ci95": [top1 - 2, top1 + 2], "images": 1000, "classes": 10}
        return {"role": role, "zero_shot": figures, "retrieval": None, "data": "d", "seen_in_training": 0}

    def row(role, top1, size):
        return {
            "role": role, "model": role[0] * 30, "zero_shot_top1": top1, "t2i_r1": None, "i2t_r1": None, "size_mb": size,
            "image_p50_ms": 123.45, "text_p50_ms": 67.89, "parity": 0.999999,
        }  # fmt: skip

    evals = [judged("teacher", 80.0), judged("student", student), judged("plain", plain)]
    return {
        "table": [row("teacher", 80.0, 100.0), row("student", student, 25.0), row("plain student", plain, 25.0)],
        "evals": evals,
        "verdict": verdict(evals, {"teacher": 100.0, "student": 25.0}),
        "longer": "distill run --recipe out/recipe.toml --steps 120 --out out-120-steps",
        "inherited": {"towers": ["text"]},
        "exports": [],
        "licence": "data: MIT; no teacher forbids commercial use",
        **changes,
    }


def test_what_is_kept_and_gained():
    said, judged, kept, brought, files = summary(_facts(60.0, 50.0))
    assert said.startswith("Verdict: usable. It is better than the plain student")
    assert "by 10.0 points [7.2, 12.8] of zero-shot top-1" in said  # two intervals of 2 points, in quadrature
    assert judged == "Judged on 1,000 images: 60.0 % zero-shot top-1 [58.0, 62.0], 95 % interval; chance is 10 %."
    assert (
        kept
        == f"Of the teacher {'t' * 30} the student keeps 75 % of its zero-shot top-1 (60.0 of 80.0), at 25 % of its size."
    )
    assert "baseline.four_arms=true" in brought
    assert files.startswith("No exported files are good")


def test_a_gain_within_the_interval_is_none_and_the_command_that_mends_it_is_said():
    for gained in (52.0, 48.0):
        said = summary(_facts(gained, 50.0))[0]
        assert said.startswith("Verdict: not distinguishable from the plain student")
        assert said.endswith("Train longer: distill run --recipe out/recipe.toml --steps 120 --out out-120-steps")
    assert "worse than the plain student" in summary(_facts(40.0, 50.0))[0]
    assert "no better than chance" in summary(_facts(11.0, 5.0))[0]
    assert "keeps only 40 % of its teacher's figure" in summary(_facts(32.0, 20.0))[0]


def test_a_few_images_call_nothing_usable_and_a_teacher_at_chance_teaches_nothing():
    facts = _facts(60.0, 50.0)
    for item in facts["evals"]:
        item["zero_shot"]["images"] = 14
    facts["verdict"] = verdict(facts["evals"], {})
    assert "usable. It is" not in summary(facts)[0]
    assert "14 images are too few to call it usable. Judge it on more: --set eval.data=PLACE." in summary(facts)[0]
    for top1 in (11.0, 60.0):  # of the student; the teacher is at 11, its interval reaches the 10 of chance
        facts = _facts(top1, 5.0)
        facts["evals"][0]["zero_shot"] |= {"top1": 11.0, "top1_ci95": [9.0, 13.0]}
        facts["table"][0]["zero_shot_top1"] = 11.0
        facts["verdict"] = verdict(facts["evals"], {})
        said = " ".join(summary(facts))
        assert "is itself no better than chance here (11.0 % zero-shot top-1)" in said
        assert "the student keeps" not in said
        assert ("rain longer" in said) is False


def test_what_each_part_brought_is_said_where_it_was_trained():
    facts = _facts(60.0, 50.0)
    found = {"low": -3.0, "high": -1.0, "points": -2.0, "paired": True}
    facts["verdict"]["gains"] |= {"distillation": {**found, "points": 4.0, "low": 1.0, "high": 7.0}, "training": found}
    (line,) = (line for line in summary(facts) if "training brought" in line)
    assert "training brought -2.0 points [-3.0, -1.0] of zero-shot top-1: it did harm." in line
    assert "distillation brought 4.0 points [1.0, 7.0]" in line
    assert "inheritance brought" not in line


def test_training_photos_in_the_evaluation_are_said():
    facts = _facts(60.0, 50.0)
    facts["verdict"]["seen"] = 12
    assert any(line.startswith("12 of the evaluation's images were trained on too") for line in summary(facts))


def test_the_closing_table_fits_80_columns_and_says_what_the_report_says(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    facts = _facts(60.0, 50.0, mark="", out="runs/" + "x" * 20, host="a host", predicted=[], phones=[])
    show(facts)
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    words = " ".join(said.split())
    for sentence in summary(facts):
        assert sentence in words
    assert "chance is 10" in words
    facts = _facts(50.0, 50.0, mark="", out="runs/x", host="a host", predicted=[], phones=[])
    facts["longer"] = f"distill run --recipe runs/x/recipe.toml --data {'y' * 30} --steps 120 --out {'z' * 30}"
    show(facts)
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    typed = said.partition("Train longer:\n")[2].replace("\\\n", "").split("\n")[0]
    assert shlex.split(typed) == shlex.split(facts["longer"])  # as a shell takes it


def test_files_and_terms():
    rows = [
        {"file": f"{folder}/{tower}.x", "tower": tower, "size_mb": size}
        for folder, size in (("coreml-fp16", 3.0), ("onnx-w8a8", 1.5))
        for tower in ("image", "text", "classifier")
    ]
    said = summary(_facts(60.0, 50.0, exports=rows, licence="teacher x: no commercial use"))
    assert said[4] == "2 exports passed parity; the smallest is onnx-w8a8, 3.0 MB for both towers."
    assert said[5] == "It must not be used commercially: teacher x: no commercial use."
    assert "not clear" in summary(_facts(60.0, 50.0, licence="data: unknown"))[5]


def test_a_run_without_baseline_or_teacher():
    facts = _facts(60.0, 50.0)
    facts["table"], facts["evals"] = facts["table"][1:2], facts["evals"][1:2]
    facts["verdict"] = verdict(facts["evals"], {})
    said = summary(facts)
    assert said[0].startswith("Verdict: better than chance (60.0 % zero-shot top-1 against 10 %); no plain student")
    assert len(said) == 3
