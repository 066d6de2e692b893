"""A reinforced set and a student trained on it, by command lines: what tests of resuming and of endings go on with."""

import pytest

from tests.command_line import distill

TRAIN = ["--set", "train.steps=4", "--set", "train.batch_size=8", "--set", "train.checkpoint_every=2"]


@pytest.fixture(scope="session")
def runs(tmp_path_factory, tiny_teacher):
    """A folder with two runs: set/ of distill reinforce, and student/ of distill train on it, named by its run."""
    place = tmp_path_factory.mktemp("resume")
    made = distill(
        "reinforce", "--teacher", tiny_teacher, "--data", "rendered:train=24,eval=8", "--verify", 0, "--out", "set", cwd=place
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    trained = distill("train", "--data", "set", "--out", "student", "--set", "student.inherit=none", *TRAIN, cwd=place)
    assert trained.returncode == 0, trained.stderr
    return place
