"""train.workers: as told, or by the cores that this process may use and the processes that share them."""

from types import SimpleNamespace

import pytest

from distill.core.errors import UsageError
from distill.recipe import load_recipe
from distill.stages.training import arm
from distill.stages.training.arm import loader_workers

PHOTOS = SimpleNamespace(side=lambda: 500, image_size=224)


def asked(value):
    return load_recipe(None, [f"train.workers={value}", "train.device=cpu"])


def test_a_number_is_that_number():
    assert loader_workers(asked(3), None) == (3, "as told")


@pytest.mark.parametrize(
    ("cores", "local", "expected"), [(1, None, 0), (2, None, 1), (6, None, 5), (64, None, 8), (16, "4", 3)]
)
def test_auto_is_from_the_cores(cores, local, expected, monkeypatch):
    monkeypatch.setattr(arm, "usable_cores", lambda: cores)
    monkeypatch.setattr(arm, "free_shared_bytes", lambda: 8e9)
    if local:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    workers, why = loader_workers(asked("auto"), PHOTOS)
    assert workers == expected
    assert f"{cores} cores" in why


def test_in_a_container_with_little_shared_memory_a_thread_does_it(monkeypatch):
    monkeypatch.setattr(arm, "usable_cores", lambda: 16)
    monkeypatch.setattr(arm, "free_shared_bytes", lambda: 64e6)  # what Docker gives
    workers, why = loader_workers(asked("auto"), PHOTOS)
    assert workers == 0  # three batches of 256 x 3 x 224 x 224 bytes are 116 MB
    assert "64 MB of shared memory" in why


def test_other_words_are_refused():
    with pytest.raises(UsageError, match="workers"):
        asked("many")
    with pytest.raises(UsageError, match="workers"):
        asked(-1)
