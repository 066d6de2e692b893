"""The path of a folder of aligned heads over frozen unimodal towers, as `distill train` writes it."""

from pathlib import Path
from typing import TYPE_CHECKING

from teachers.spec import TeacherSpec
from teachers.teacher import TEACHER_LOADERS, Teacher, TeacherLoader
from teachers.towers.folder import HEADS_FILE, is_towers_folder, towers_spec

if TYPE_CHECKING:
    from teachers.towers.teacher import FrozenTowers


def _spec(path: Path) -> TeacherSpec | None:
    return towers_spec(path) if is_towers_folder(path) else None


def _load(spec: TeacherSpec, random_weights: bool, seed: int) -> Teacher:
    from teachers.towers.teacher import load_towers_teacher

    return load_towers_teacher(spec, random_weights=random_weights, seed=seed)


def _towers() -> "FrozenTowers":
    from teachers.towers.teacher import FrozenTowers

    return FrozenTowers()


TEACHER_LOADERS.register("towers")(
    TeacherLoader(_load, spec_of_folder=_spec, towers=_towers, holds=f"{HEADS_FILE} (aligned heads)")
)
