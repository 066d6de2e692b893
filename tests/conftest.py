"""Shared by all tests: their tiers, quiet threads, and where the shared photos lie."""

import gc
import os
from pathlib import Path

import pytest
from hypothesis import settings

# No test is timed: machines are shared.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Threads that spin at a barrier starve each other when anything else runs on two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


TIERS = ("whole", "process", "unit")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The whole suite runs in a process per core and one more, since tests wait for the processes that they start; what is named on
    the command line runs in this one, where a debugger reaches."""
    part = config.args_source is pytest.Config.ArgsSource.ARGS or config.option.keyword
    return 0 if part else (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test is of one tier; of `unit`, unless it says otherwise. Files with long tests come first, so that no process is left
    alone with one of them at the end (`--no-loadscope-reorder` keeps this order)."""
    tiers: dict[Path, int] = {}
    for item in items:
        said = [tier for tier in TIERS if item.get_closest_marker(tier)]
        assert len(said) < 2, f"{item.nodeid} is of {len(said)} tiers"
        if not said:
            item.add_marker("unit")
        tier = TIERS.index(said[0] if said else "unit")
        tiers[item.path] = min(tier, tiers.get(item.path, tier))
    items.sort(key=lambda item: tiers[item.path])


def pytest_collection_finish() -> None:
    """The collector need not look again and again at the million objects that imports have made."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def flickr8k() -> Path:
    if not (DATA / "flickr8k").is_dir():
        pytest.skip("the shared Flickr8k photos are not here (../shared/data/flickr8k)")
    return DATA / "flickr8k"


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory) -> Path:
    """A full teacher folder with random weights, small enough for a test run."""
    from students.spec import STUDENTS
    from students.student import build_student

    path = tmp_path_factory.mktemp("teacher") / "tiny"
    build_student(STUDENTS.get("rendered-teacher"), 0).save(path, {"licence": "Apache-2.0", "commercial": True})
    return path
