"""Death at any moment, any number of times, in one process or in several: the same bytes, no sample lost or doubled."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from reinforced_data.labelling.reinforce import reinforce
from reinforced_data.store.reader import ReinforcedData
from tests.reinforced_data.labelling.kill_server import SETTINGS, everything
from tests.reinforced_data.labelling.test_reinforce import BASE, hashes
from tests.reinforced_data.stubs import samples

SCRIPT = Path(__file__).with_name("kill_server.py")
KILLS = 16  # for each number of processes; benchmarks/kills_reinforce.py does many more


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted") / "set"
    reinforce(folder=out, **everything(), settings=SETTINGS, seed=BASE["seed"])
    return out


@pytest.mark.process
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_kills_at_any_time_then_resume_give_the_same_bytes(uninterrupted, tmp_path, processes):
    """os._exit(9) before and after renames, syncs, writes and model calls, over and over, on one output folder."""
    run = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "o"), str(KILLS), str(processes)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[3],
        check=False,
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report["killed"] >= KILLS
    assert report["results"]
    assert all(result == hashes(uninterrupted) for result in report["results"])
    data = ReinforcedData(uninterrupted)
    assert [data.key(index) for index in range(len(data))] == [sample.key for sample in samples(23)]
