"""reinforce.workers: as told, or by where the models run, the cores, and the processes that share them."""

from types import SimpleNamespace

import pytest

from distill.console import Console
from distill.core.errors import UsageError
from distill.recipe import load_recipe
from distill.stages import label

ON_CPU = [SimpleNamespace(device="cpu")]
ON_GPU = [*ON_CPU, SimpleNamespace(device="cuda:0")]


def workers(models, *sets):
    return label._workers(load_recipe(None, list(sets)), models, Console())


def test_a_number_is_that_number(capsys):
    assert workers(ON_GPU, "reinforce.workers=3") == 3
    with pytest.raises(UsageError, match=r"reinforce\.workers"):
        workers(ON_GPU, "reinforce.workers=many")


@pytest.mark.parametrize(
    ("models", "here", "sets", "expected"),
    [
        (ON_CPU, 1, (), 0),
        (ON_GPU, 1, (), 15),
        (ON_GPU, 4, (), 3),
        (
            ON_GPU,
            4,
            ("cluster.executor=local", "cluster.workers=2"),
            7,
        ),  # tasks of an executor, no launcher's processes
        (ON_GPU, 4, ("cluster.executor=slurm", "cluster.workers=2"), 15),  # each has its own cores
    ],
)
def test_auto_is_from_the_device_and_the_cores_and_is_said_beside_a_gpu(
    models, here, sets, expected, monkeypatch, capsys
):
    monkeypatch.setattr(label, "usable_cores", lambda: 16)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(here))
    assert workers(models, *sets) == expected
    assert (f"reinforce.workers = {expected} (16 cores" in capsys.readouterr().err) == (models is ON_GPU)
