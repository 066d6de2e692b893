"""What a choice by a budget shows, and whether the finished files keep it."""

from distill.reporting.pareto import choices


def entry(name, over=(), **changes):
    return {
        "name": name, "student": name, "pixels": 64, "layers": 2, "precision": "w8", "size_mb": 9.0, "prior": 50.0, "over": list(over), "refused": [],
        "latency": {"phone": {"ms": 2.0, "low": 1.0, "high": 3.0, "source": "predicted"}}, **changes,
    }  # fmt: skip


def record(**changes):
    return {
        "said": "4 ms on phone", "budget": {"max_latency_ms": 4.0, "max_size_mb": 10.0, "max_memory_mb": None}, "devices": ["phone"],
        "targets": ["coreml"], "towers": "both", "bound": "high", "rule": "r", "looked_at": 9, "met": 2, "missed": 1, "failed": {},
        "chosen": [entry("a")], "candidates": [entry("a"), entry("b"), entry("c", ["latency"])], **changes,
    }  # fmt: skip


def test_each_candidate_has_its_outcome():
    assert [row[-1] for row in choices.rows(record())] == ["chosen", "lower prior", "over in latency"]
    assert choices.rows(record())[0][4] == "2 (3)"
    refused = record(candidates=[entry("a"), entry("b", refused=["ANE-RANK"])])
    assert [row[-1] for row in choices.rows(refused)] == ["chosen", "lint ANE-RANK"]
    tried = record(
        chosen=[entry("a"), entry("b")], kept="b", judged=[{"name": "a", "value": 10.0, "measure": "m"}, {"name": "b", "value": 20.0, "measure": "m"}]
    )  # fmt: skip
    assert [row[-1] for row in choices.rows(tried)] == ["not kept: 10.0", "kept: 20.0", "over in latency"]
    assert choices.lines(tried)[0] == "Kept: b, the best of 2 that were trained (m)."
    assert choices.title(record()) == "9 candidates, 2 of 3 shapes within 4 ms on phone"


def test_the_finished_files_are_held_against_the_budget():
    exports = [
        {"file": f"coreml-w8/{tower}.mlpackage", "tower": tower, "size_mb": 6.0} for tower in ("image", "text", "classifier")
    ] + [{"file": "onnx-fp32/image.onnx", "tower": "image", "size_mb": 99.0}]  # fmt: skip

    def timed(tower, ms, **changes):
        row = {
            "device": "phone",
            "tower": tower,
            "runtime": "Core ML",
            "precision": "w8",
            "source": "measured",
            "p50_ms": ms,
        }
        return {**row, **changes}

    profiles = [
        timed("image", 1.0), timed("text", 2.5), timed("image", 9.0, precision="fp16"), timed("text", 9.0, device="host"),
        timed("image", 9.0, source="not measured", runtime="LiteRT"),
    ]  # fmt: skip
    facts = {"choice": record(), "exports": exports, "profiles": profiles}
    assert choices.kept_budget(facts) == [
        "The files of coreml-w8 take 12 MB, over the budget of 10.",
        "On phone, Core ML measured 3.5 ms, within the budget of 4.",
    ]
    assert choices.kept_budget({**facts, "profiles": profiles[:1]})[1:] == []  # one tower is not both
    image = record(towers="image", budget={"max_latency_ms": 0.5, "max_size_mb": None})
    assert choices.kept_budget({**facts, "choice": image}) == [
        "On phone, Core ML measured 1 ms, over the budget of 0.5."
    ]
    assert choices.kept_budget({"choice": None}) == choices.kept_budget({}) == []
