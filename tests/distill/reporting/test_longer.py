"""The command that trains longer: it trains the same student again, also where a budget chose it."""

import shlex

from distill.core.existing import Existing
from distill.recipe import load_recipe
from distill.reporting.facts import TIMES_LONGER, longer
from distill.run_folder import RunFolder
from distill.stages.opening import open_run

BUDGET = {"choose.max_latency": "5ms", "choose.max_size": 40, "choose.devices": ["iphone-15"], "choose.train": 3}
CHOSEN = {"student.name": "mci0", "student.text_layers": 6, "train.steps": 40}


def as_called(command):
    """The recipe of a `distill run` command, and its --out."""
    words = shlex.split(command)[2:]
    given = {words[place]: words[place + 1] for place in range(0, len(words), 2) if words[place] != "--set"}
    settings = [words[place + 1] for place in range(0, len(words), 2) if words[place] == "--set"]
    return load_recipe(given["--recipe"], settings, {"train.steps": int(given["--steps"])}), given["--out"]


def test_a_student_that_a_budget_chose_is_not_chosen_again(tmp_path):
    run = RunFolder(tmp_path / "mine")
    job = load_recipe(None, {**BUDGET, **CHOSEN})
    open_run(run, job, Existing.REFUSE, dict.fromkeys(CHOSEN, "chosen among 200"))
    assert job.choose.asked
    again, out = as_called(longer(run, run.read_resolved()["recipe"]))
    assert not again.choose.asked
    assert again.student == job.student
    assert again.train.steps == TIMES_LONGER * 40
    assert out == f"{run}-120-steps"


def test_without_a_budget_nothing_is_said_of_one(tmp_path):
    run = RunFolder(tmp_path / "mine")
    open_run(run, load_recipe(None, {"train.steps": 40}), Existing.REFUSE)
    assert "choose" not in longer(run, run.read_resolved()["recipe"])


def test_a_limit_of_none_takes_a_recipes_limit_away():
    job = load_recipe(load_recipe(None, BUDGET), ["choose.max_latency=none"])
    assert (job.choose.max_latency, job.choose.max_size) == (None, 40)
