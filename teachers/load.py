"""From a name to a teacher: `resolve_teacher` finds the spec, `load_teacher` builds the model.

A name is a registered one ("dfn-vitl14"), "open_clip:MODEL/TAG", "open_clip:MODEL@CHECKPOINT", or the path of a folder
(a CLIP in the shared format, aligned heads over frozen towers, or a run that has trained either), with open_clip's "local-dir:"
before it or not. Left out: captioners, and anything trainable.
"""

from pathlib import Path

from distill.core.errors import UsageError, nearest
from teachers.spec import TEACHERS, TeacherSpec, absolute_path
from teachers.teacher import TEACHER_LOADERS, Teacher

LOCAL_DIR = "local-dir:"  # open_clip's own word before a folder
OF_A_RUN = ("student", "teacher")  # where in a run the model lies that it has trained


def resolve_teacher(name: str, *, noun: str = "teacher") -> TeacherSpec:
    """The facts of the teacher called `name`, without building it or reading weights; never reaches the network.

    `noun`: what messages call it.

    Raises:
        UsageError: nothing is called so; the message names the nearest names.
        DistillError: the path exists but its files are unreadable.
    """
    name = name.removeprefix(LOCAL_DIR)
    if name in TEACHERS:
        return TEACHERS.get(name)
    for key, loader in TEACHER_LOADERS.items():
        if loader.spec_of_name is not None and name.startswith(f"{key}:"):
            return loader.spec_of_name(name, name[len(key) + 1 :])
    path = Path(model_in(name)).expanduser()
    if name and path.is_dir():
        return _folder(path, noun)
    if path.is_file():
        raise UsageError(
            f"{name!r} is a single file; which architecture does it belong to? Write open_clip:MODEL@{name}, for "
            f"example open_clip:ViT-B-16@{name}, or student:NAME@{name} with a name of `distill list students`."
        )
    looks_like_path = "/" in name or "\\" in name or path.suffix in (".safetensors", ".pt", ".bin")
    missing = f" There is no file or folder {str(path)!r} either." if looks_like_path else ""
    raise UsageError(
        f"Unknown {noun} {name!r}.{missing} {nearest(name, TEACHERS)} Also accepted: open_clip:MODEL/TAG, "
        "open_clip:MODEL@CHECKPOINT, or the path of a folder that holds a model. `distill list teachers` shows all."
    )


def absolute_teacher(name: str) -> str:
    """The same teacher by a name that means it from every working folder: paths absolute, "~" replaced, names as they are."""
    name = name.removeprefix(LOCAL_DIR)
    if name in TEACHERS:
        return name
    for key, loader in TEACHER_LOADERS.items():
        if loader.spec_of_name is not None and name.startswith(f"{key}:"):
            return f"{key}:{loader.absolute(name[len(key) + 1 :])}"
    return model_in(absolute_path(name))


def model_in(name: str) -> str:
    """The folder of the model that a path means: that in a run which has trained one, else the path itself."""
    path = Path(name).expanduser()
    inside = [path / folder for folder in OF_A_RUN if name and (path / folder).is_dir()]
    if inside and _spec_of(path) is None:
        return next((str(folder) for folder in inside if _spec_of(folder) is not None), name)
    return name


def load_teacher(name: str | TeacherSpec, *, random_weights: bool = False, seed: int = 0) -> Teacher:
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
    return TEACHER_LOADERS.get(spec.loader).load(spec, random_weights, seed)


def _spec_of(path: Path) -> TeacherSpec | None:
    """The facts of the model that lies in a folder itself; None where none does."""
    if path.is_dir():
        for _, loader in TEACHER_LOADERS.items():
            spec = loader.spec_of_folder(path) if loader.spec_of_folder is not None else None
            if spec is not None:
                return spec
    return None


def _folder(path: Path, noun: str) -> TeacherSpec:
    spec = _spec_of(path)
    if spec is not None:
        return spec
    kinds = [loader.holds for _, loader in TEACHER_LOADERS.items() if loader.holds]
    raise UsageError(
        f"The folder {str(path)!r} is no {noun}: it holds neither {' nor '.join(kinds)}. "
        "Give a run that has trained a student or a teacher, or the folder of a model."
    )
