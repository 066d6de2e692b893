"""The report's first sentences, against figures made by hand."""

from distill.reporting.summary import summary


def _facts(student: float, plain: float, **changes):
    def judged(role, top1):
        return {"role": role, "zero_shot": {"top1": top1, "top1_ci95": [top1 - 2, top1 + 2]}, "retrieval": None}

    def row(role, top1, size):
        return {"role": role, "model": role[0], "zero_shot_top1": top1, "t2i_r1": None, "i2t_r1": None, "size_mb": size}

    return {
        "table": [row("teacher", 80.0, 100.0), row("student", student, 25.0), row("plain student", plain, 25.0)],
        "evals": [judged("teacher", 80.0), judged("student", student), judged("plain", plain)],
        "exports": [],
        "licence": "data: MIT; no teacher forbids commercial use",
        **changes,
    }


def test_what_is_kept_and_gained():
    kept, gained, files = summary(_facts(60.0, 50.0))
    assert kept == "Of the teacher t the student keeps 75 % of its zero-shot top-1 (60.0 of 80.0), at 25 % of its size."
    assert gained.startswith(
        "It is better than the same student trained without a teacher: 60.0 [58.0, 62.0] against 50.0"
    )
    assert files.startswith("No exported files are good")


def test_a_gain_within_the_interval_is_none():
    assert summary(_facts(52.0, 50.0))[1].startswith("It cannot be told from the same student")
    assert summary(_facts(54.0, 50.0))[1].startswith("It cannot be told")  # the intervals touch
    assert summary(_facts(40.0, 50.0))[1].startswith("It is worse")


def test_files_and_terms():
    rows = [
        {"file": f"{folder}/{tower}.x", "tower": tower, "size_mb": size}
        for folder, size in (("coreml-fp16", 3.0), ("onnx-w8a8", 1.5))
        for tower in ("image", "text", "classifier")
    ]
    said = summary(_facts(60.0, 50.0, exports=rows, licence="teacher x: no commercial use"))
    assert said[2] == "2 exports passed parity; the smallest is onnx-w8a8, 3.0 MB for both towers."
    assert said[3] == "It must not be used commercially: teacher x: no commercial use."
    assert "not clear" in summary(_facts(60.0, 50.0, licence="data: unknown"))[3]


def test_a_run_without_baseline_or_teacher():
    facts = _facts(60.0, 50.0)
    facts["table"], facts["evals"] = facts["table"][1:2], facts["evals"][1:2]
    assert len(summary(facts)) == 1
