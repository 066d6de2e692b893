"""Texts of no image in a run: the teachers read them once, other teachers' are refused, and training finds them beside the set."""

from pathlib import Path
from typing import Any

import pytest

from distill.console import Console
from distill.core.errors import UsageError
from distill.recipe import Recipe, load_recipe
from distill.run_folder import RunFolder
from distill.stages.training_data import check_texts, stored_texts, texts_stage
from reinforced_data.store.reader import ReinforcedData
from tests.reinforced_data.stubs import ListSource, StubTeacher, make_set, samples


class Teachers:
    """A `TeacherSet` of one stub, which counts what it reads."""

    def __init__(self, seed: int = 0) -> None:
        self.stub = StubTeacher("alpha", seed=seed)

    def on(self, device: str) -> list[Any]:
        return [self.stub]

    def rest(self) -> None:
        pass


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    make_set(ListSource(samples(8)), [StubTeacher("alpha")], run.reinforced)
    return run


def recipe_of(tmp_path: Path, *classes: str) -> Recipe:
    (tmp_path / "classes.txt").write_text("\n".join(classes), encoding="utf-8")
    return load_recipe(None, [f'reinforce.texts=["classes:{tmp_path / "classes.txt"}"]'])


def test_they_are_read_once_and_anew_when_they_change(tmp_path: Path, run: RunFolder) -> None:
    recipe, teachers, data = recipe_of(tmp_path, "zebra", "okapi"), Teachers(), ReinforcedData(run.reinforced)
    assert stored_texts(recipe, data, run) is None
    for _ in range(2):
        texts_stage(recipe, teachers, run.reinforced, run, Console())  # type: ignore[arg-type]
    assert len(teachers.stub.texts) == 10  # two names in five prompts
    found = stored_texts(Recipe(), data)
    assert found is not None
    assert sorted(found.texts) == sorted(teachers.stub.texts)
    texts_stage(recipe_of(tmp_path, "zebra"), teachers, run.reinforced, run, Console())  # type: ignore[arg-type]
    assert len(teachers.stub.texts) == 15


def test_a_file_of_other_texts_is_passed_over(tmp_path: Path, run: RunFolder) -> None:
    """Those that the recipe names lie beside the set; the run's own are of an earlier recipe."""
    teachers, other, data = Teachers(), RunFolder(tmp_path / "other"), ReinforcedData(run.reinforced)
    other.path.mkdir()
    texts_stage(recipe_of(tmp_path, "okapi"), teachers, run.reinforced, other, Console())  # type: ignore[arg-type]
    recipe = recipe_of(tmp_path, "zebra")
    texts_stage(recipe, teachers, run.reinforced, run, Console())  # type: ignore[arg-type]
    texts_stage(recipe, teachers, run.reinforced, other, Console())  # type: ignore[arg-type]
    found = stored_texts(recipe, data, other)
    assert found is not None
    assert (found.file, found.texts[0]) == (run.texts, "zebra")
    assert load_recipe(None, ["reinforce.texts=imagenet"]).reinforce.texts == ("imagenet",)


def test_another_run_on_the_set_finds_them(tmp_path: Path, run: RunFolder) -> None:
    recipe, teachers, other = recipe_of(tmp_path, "zebra"), Teachers(), RunFolder(tmp_path / "other")
    texts_stage(recipe, teachers, run.reinforced, run, Console())  # type: ignore[arg-type]
    texts_stage(recipe, teachers, run.reinforced, other, Console())  # type: ignore[arg-type]
    assert len(teachers.stub.texts) == 5
    found = stored_texts(recipe, ReinforcedData(run.reinforced), other)
    assert found is not None
    assert found.file == run.texts


def test_other_weights_are_refused(tmp_path: Path, run: RunFolder) -> None:
    recipe = recipe_of(tmp_path, "zebra")
    with pytest.raises(UsageError, match=r"read by the teachers of the set .*alpha"):
        texts_stage(recipe, Teachers(seed=1), run.reinforced, run, Console())  # type: ignore[arg-type]
    make_set(ListSource(samples(8)), [StubTeacher("alpha", seed=1)], tmp_path / "two" / "reinforced")
    theirs = RunFolder(tmp_path / "two")
    texts_stage(recipe, Teachers(seed=1), theirs.reinforced, theirs, Console())  # type: ignore[arg-type]
    theirs.texts.rename(run.texts)
    with pytest.raises(UsageError, match=r"texts\.arrow.*read by other teachers"):
        stored_texts(recipe, ReinforcedData(run.reinforced), run)


def test_a_file_that_is_not_there_is_said_first(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"reinforce\.texts: there is no file"):
        check_texts(load_recipe(None, [f'reinforce.texts=["{tmp_path / "nothing.txt"}"]']))
