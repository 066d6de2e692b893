"""Which arms a run has measured, and what is said where it has not."""

import pytest

from distill.reporting import arms
from distill.stages.training.start import not_inherited

BOTH = {"towers": ["image", "text"], "skipped": {}, "strategy": "magnitude"}
NOTHING = {
    "towers": [],
    "skipped": {"image": "no plain transformer", "text": "another activation"},
    "strategy": "uniform",
}


def row(role, value):
    return {"role": role, "zero_shot_top1": value, "t2i_r1": value / 2, "i2t_r1": None}


TABLE = [row("teacher", 99.5), row("student", 93.3), row("plain student", 15.8)]
MORE = [row("random start", 34.7), row("no teacher", 78.8)]


def measured(table, inherited, taught=True, baseline_inherits=False):
    return {one["arm"]: one["zero_shot_top1"] for one in arms.arms(table, inherited, taught, baseline_inherits)}


@pytest.mark.parametrize(
    ("table", "inherited", "taught", "baseline_inherits", "expected"),
    [  # plain, distilled alone, inherited alone, both
        (TABLE, BOTH, True, False, [15.8, None, None, 93.3]),
        (TABLE + MORE, BOTH, True, False, [15.8, 34.7, 78.8, 93.3]),
        (TABLE, BOTH, True, True, [None, None, 15.8, 93.3]),
        (TABLE, NOTHING, True, True, [15.8, 93.3, None, None]),
        (TABLE[:2], BOTH, True, False, [None, None, None, 93.3]),
        (TABLE[:2], NOTHING, False, False, [93.3, None, None, None]),
        (TABLE[:2], BOTH, False, False, [None, None, 93.3, None]),
    ],
)
def test_every_model_stands_in_the_arm_that_it_is(table, inherited, taught, baseline_inherits, expected):
    assert list(measured(table, inherited, taught, baseline_inherits).values()) == expected


def test_what_was_not_measured_is_said_and_never_a_number():
    facts = {"arms": arms.arms(TABLE, BOTH, True, False), "inherited": BOTH}
    assert arms.rows(facts) == [
        ("plain", "15.8", "7.9", "-"),
        ("distilled, random start", *["not measured"] * 3),
        ("inherited, no teacher", *["not measured"] * 3),
        ("inherited and distilled", "93.3", "46.6", "-"),
    ]
    assert "baseline.four_arms" in arms.note(facts)
    facts["arms"] = arms.arms(TABLE + MORE, BOTH, True, False)
    assert "four_arms" not in arms.note(facts)
    nothing = arms.note({"arms": arms.arms(TABLE, NOTHING, True, False), "inherited": NOTHING})
    assert "no plain transformer" in nothing
    assert "another activation" in nothing


def test_what_does_not_inherit_says_so_with_the_reason():
    assert not_inherited(BOTH) == ""
    assert "nothing is inherited" in not_inherited(NOTHING)
    assert "another activation" in not_inherited(NOTHING)
    assert "student.inherit is none" in not_inherited({"strategy": "none", "towers": [], "skipped": {}})
    text_only = {"towers": ["text"], "skipped": {"image": "no plain transformer"}}
    assert not_inherited(text_only) == "text inherited; at random start image: no plain transformer."
