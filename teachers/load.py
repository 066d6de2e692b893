"""From a name to a teacher: `resolve_teacher` finds the spec, `load_teacher` builds the model.

A name is a registered one ("dfn-vitl14"), "open_clip:MODEL/TAG", "open_clip:MODEL@CHECKPOINT", or the path of a folder
(a CLIP in the shared format, or aligned heads over frozen towers). Left out: captioners, and anything trainable.
"""

from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from distill.core.errors import DistillError, UsageError, nearest
from teachers.spec import TEACHERS, TeacherSpec

if TYPE_CHECKING:
    from teachers.teacher import Teacher

OPEN_CLIP = "open_clip:"
_PACKAGE = "package:"


def resolve_teacher(name: str) -> TeacherSpec:
    """The facts of the teacher called `name`, without building it or reading weights; never reaches the network.

    Raises:
        UsageError: nothing is called so; the message names the nearest names.
        DistillError: the path exists but its files are unreadable.
    """
    if name in TEACHERS:
        return TEACHERS.get(name)
    if name.startswith(OPEN_CLIP):
        from teachers.open_clip.teacher import spec_of

        return _with_known_facts(spec_of(name, name[len(OPEN_CLIP) :]))
    path = Path(name).expanduser()
    if name and path.is_dir():
        return _folder(path)
    if path.is_file():
        raise UsageError(
            f"{name!r} is a single file; which architecture does it belong to? Write open_clip:MODEL@{name}, for "
            f"example open_clip:ViT-B-16@{name}."
        )
    looks_like_path = "/" in name or "\\" in name or path.suffix in (".safetensors", ".pt", ".bin")
    missing = f" There is no file or folder {str(path)!r} either." if looks_like_path else ""
    raise UsageError(
        f"Unknown teacher {name!r}.{missing} {nearest(name, TEACHERS)} Also accepted: open_clip:MODEL/TAG, "
        "open_clip:MODEL@CHECKPOINT, or the path of a folder that holds a model. `distill list teachers` shows all."
    )


def load_teacher(name: str | TeacherSpec, *, random_weights: bool = False, seed: int = 0) -> "Teacher":
    """The teacher, frozen, on the CPU.

    Args:
        name: see the module; or a spec from `resolve_teacher`.
        random_weights: a rehearsal: the full-size architecture with random weights, no download of any kind.
        seed: of the random weights.

    Raises:
        UsageError: unknown name.
        DistillError: weights, tokenizer or packages are missing, or the files do not fit.
    """
    spec = resolve_teacher(name) if isinstance(name, str) else name
    if spec.loader not in LOADERS:
        raise UsageError(
            f"Teacher {spec.name!r} asks for an unknown loader {spec.loader!r}. {nearest(spec.loader, LOADERS)}"
        )
    return LOADERS[spec.loader](spec, random_weights, seed)


def _folder(path: Path) -> TeacherSpec:
    from teachers.open_clip.folder import CONFIG_FILE, folder_spec, is_clip_folder
    from teachers.towers.teacher import HEADS_FILE, is_towers_folder, towers_spec

    if is_clip_folder(path):
        return folder_spec(path)
    if is_towers_folder(path):
        return towers_spec(path)
    raise UsageError(
        f"The folder {str(path)!r} is no teacher: it holds neither {CONFIG_FILE} (a CLIP) nor {HEADS_FILE} (aligned "
        "heads). Give the student/ or teacher/ folder of a finished run."
    )


def _with_known_facts(spec: TeacherSpec) -> TeacherSpec:
    """Licence and accuracy from the zoo where it knows the same weights; the name stays what was asked for."""
    from dataclasses import replace

    for _, known in TEACHERS.items():
        if known.loader == "open_clip" and known.source == spec.source:
            return replace(known, name=spec.name)
    return spec


def _load_open_clip(spec: TeacherSpec, random_weights: bool, seed: int) -> "Teacher":
    from teachers.open_clip.teacher import load_open_clip

    return load_open_clip(spec, random_weights=random_weights, seed=seed)


def _load_folder(spec: TeacherSpec, random_weights: bool, seed: int) -> "Teacher":
    from teachers.open_clip.folder import FolderTeacher

    if not spec.source.startswith(_PACKAGE):
        return FolderTeacher(Path(spec.source), spec, random_weights=random_weights, seed=seed)
    inside = files("teachers").joinpath(spec.source[len(_PACKAGE) :])
    if not inside.is_dir():
        raise DistillError(
            f"The weights of teacher {spec.name!r} are not in this installation "
            f"(teachers/{spec.source[len(_PACKAGE) :]}). Install the package anew, "
            "or name another teacher: --teacher PATH or a name of `distill list teachers`."
        )
    with as_file(inside) as path:
        return FolderTeacher(path, spec, random_weights=random_weights, seed=seed)


def _load_towers(spec: TeacherSpec, random_weights: bool, seed: int) -> "Teacher":
    from teachers.towers.teacher import load_towers_teacher

    return load_towers_teacher(spec, random_weights=random_weights, seed=seed)


LOADERS: dict[str, Callable[[TeacherSpec, bool, int], "Teacher"]] = {
    "open_clip": _load_open_clip,
    "folder": _load_folder,
    "towers": _load_towers,
}
