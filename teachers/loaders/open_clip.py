"""`open_clip:MODEL/TAG` and `open_clip:MODEL@CHECKPOINT`: any model of open_clip, and most of the zoo."""

from dataclasses import replace

from teachers.spec import TEACHERS, TeacherSpec, absolute_checkpoint
from teachers.teacher import TEACHER_LOADERS, Teacher, TeacherLoader


def _spec(name: str, source: str) -> TeacherSpec:
    """open_clip's facts; licence and accuracy from the zoo where it knows the same weights. The name is as asked for."""
    from teachers.open_clip.names import spec_of

    spec = spec_of(name, source)
    for _, known in TEACHERS.items():
        if known.loader == spec.loader and known.source == spec.source:
            return replace(known, name=spec.name)
    return spec


def _load(spec: TeacherSpec, random_weights: bool, seed: int) -> Teacher:
    from teachers.open_clip.teacher import load_open_clip

    return load_open_clip(spec, random_weights=random_weights, seed=seed)


TEACHER_LOADERS.register("open_clip")(TeacherLoader(_load, spec_of_name=_spec, absolute=absolute_checkpoint))
