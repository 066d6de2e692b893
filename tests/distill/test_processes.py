"""Sharing the labelling: what launchers say is read right, and processes that share give the bytes of one alone."""

import pytest

from distill.core.atomic import sha256_file
from distill.core.errors import DistillError, UsageError
from distill.processes import Place, this_place, wait_until
from tests import forks

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
CALL = ["reinforce", "--data", "rendered:train=90,eval=2",
        "--set", "reinforce.shard_size=16", "--set", "reinforce.batch_size=16", "--set", "reinforce.verify=0", "--json"]  # fmt: skip


@pytest.fixture
def launcher(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    return lambda **given: [monkeypatch.setenv(name, value) for name, value in given.items()]


def test_the_environment_of_launchers(launcher):
    assert this_place() == Place(0, 1, 0)
    launcher(SLURM_PROCID="5", SLURM_NTASKS="8", SLURM_LOCALID="1")
    assert this_place() == Place(5, 8, 1)
    launcher(RANK="3", WORLD_SIZE="4", LOCAL_RANK="0")  # torchrun inside a Slurm step
    assert this_place() == Place(3, 4, 0)
    launcher(RANK="4")
    with pytest.raises(UsageError, match="RANK=4 is not below WORLD_SIZE=4"):
        this_place()
    launcher(RANK="first")
    with pytest.raises(UsageError, match="must be numbers"):
        this_place()


def test_waiting_in_vain_says_for_what():
    with pytest.raises(DistillError, match="for the moon"):
        wait_until(lambda: False, "the moon", patience_s=0.3)


def shards(folder):
    return {file.name: sha256_file(file) for file in sorted((folder / "reinforced").iterdir())}


@pytest.mark.process
def test_three_processes_make_the_set_of_one(tmp_path):
    """The processes begin together and are not joined by anything but their numbers and the folder."""
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    plain = dict.fromkeys(NAMES)
    log = tmp_path / "alone.log"
    forks.finish(forks.start(*CALL, "--out", alone, log=log, environment=plain), log)
    logs = [tmp_path / f"{rank}.log" for rank in range(3)]
    processes = [
        forks.start(
            *CALL, "--out", shared, log=logs[rank],
            environment={**plain, "RANK": str(rank), "WORLD_SIZE": "3", "LOCAL_RANK": str(rank)},
        )
        for rank in range(3)
    ]  # fmt: skip
    said = [forks.finish(process, log) for process, log in zip(processes, logs, strict=True)]
    assert sum('"samples": 90' in text for text in said) >= 1  # whoever ended last wrote the manifest
    assert shards(shared) == shards(alone)


def test_several_processes_do_not_overwrite(tmp_path, launcher):
    from distill.recipe import Recipe
    from distill.verbs.reinforce import reinforce

    launcher(RANK="1", WORLD_SIZE="2", LOCAL_RANK="1")
    with pytest.raises(UsageError, match="--overwrite and several processes"):
        reinforce(Recipe(), out=tmp_path / "o", overwrite=True)
    assert not (tmp_path / "o").exists()
