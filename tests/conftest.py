"""Shared by all tests: their tiers, quiet threads, what no test may leave to the next, and where the shared photos lie."""

import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests import process_state

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


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Whatever ran before, a test draws the same random numbers."""
    process_state.begin_random_numbers()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> Generator[None, object, object]:
    """So does a fixture that several tests share, whichever of them asks for it first; and that one's own numbers do not change."""
    if fixturedef.scope == "function":
        return (yield)
    process_state.begin_random_numbers()
    try:
        return (yield)
    finally:
        process_state.begin_random_numbers()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache folder of this process: no test finds listings or measurements of the user, of another process or of an earlier run.
    What was installed there is found all the same."""
    from distill.core.packages.environment import CACHE_VARIABLE, cache_folder

    users, own = cache_folder(), tmp_path_factory.mktemp("cache")
    for installed in ("environments", "web"):
        if (users / installed).is_dir():
            (own / installed).symlink_to(users / installed, target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(own))
        yield


@pytest.fixture(autouse=True)
def process_is_as_it_was(own_cache: None, request: pytest.FixtureRequest) -> Iterator[None]:
    """Names the unit test that leaves a variable, a setting of torch, a registered name, ... to those after it."""
    if request.node.get_closest_marker("unit") is None:
        yield
        return
    before, modules = process_state.state(), process_state.modules()
    yield
    left = process_state.changes(before, modules)
    assert not left, "this test leaves the process otherwise than it found it: " + "; ".join(left)


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
