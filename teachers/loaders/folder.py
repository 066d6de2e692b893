"""The path of a CLIP folder: a teacher or student trained here, one copied from the Hub, or one inside this package."""

from importlib.resources import as_file, files
from pathlib import Path

from distill.core.clip.folder import CONFIG_FILE, is_clip_folder
from distill.core.errors import DistillError
from teachers.open_clip.transformers_form import KINDS, model_type
from teachers.spec import TeacherSpec
from teachers.teacher import TEACHER_LOADERS, Teacher, TeacherLoader

_PACKAGE = "package:"  # a source "package:FOLDER" lies in the installed package `teachers`


def _spec(path: Path) -> TeacherSpec | None:
    if not is_clip_folder(path) and model_type(path) not in KINDS:
        return None
    from teachers.open_clip.folder import folder_spec

    return folder_spec(path)


def place_of(spec: TeacherSpec) -> Path:
    """The folder that a spec of this kind names, in the installed package or anywhere; whether it is there is not looked at."""
    if spec.source.startswith(_PACKAGE):
        return Path(str(files("teachers").joinpath(spec.source[len(_PACKAGE) :])))
    return Path(spec.source)


def _load(spec: TeacherSpec, random_weights: bool, seed: int) -> Teacher:
    from teachers.open_clip.folder import load_folder

    if not spec.source.startswith(_PACKAGE):
        return load_folder(Path(spec.source), spec, random_weights=random_weights, seed=seed)
    folder = spec.source[len(_PACKAGE) :]
    inside = files("teachers").joinpath(folder)
    if not inside.is_dir():
        raise DistillError(
            f"The weights of teacher {spec.name!r} are not in this installation (teachers/{folder}). Install the package "
            "anew, or name another teacher: --teacher PATH or a name of `distill list teachers`."
        )
    with as_file(inside) as path:
        return load_folder(path, spec, random_weights=random_weights, seed=seed)


_HOLDS = f"{CONFIG_FILE} (a CLIP) nor a CLIP or SigLIP of the transformers package"
TEACHER_LOADERS.register("folder")(TeacherLoader(_load, spec_of_folder=_spec, holds=_HOLDS))
