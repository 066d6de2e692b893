"""A checkpoint file and the name of its architecture, as a student.

The file is safetensors or of torch.save (tensors alone), in the layout of open_clip, Apple's MobileCLIP, OpenAI, or TinyCLIP
(`distill.core.clip.layouts`); of a timm model, it is an image tower to inherit from. What does not fit is named. Written back
by `Student.save`, it is a folder that open_clip loads.
"""

from pathlib import Path
from typing import Any

from distill.core.atomic import sha256_file
from distill.core.clip.checkpoint import load_weights, misfit, read_checkpoint
from distill.core.clip.layouts import open_clip_names
from distill.core.clip.model import build_clip, import_open_clip
from distill.core.clip.weights import ClipWeights
from distill.core.errors import DistillError
from students.checkpoints.irregular import irregular_clip, regular
from students.spec import STUDENTS, StudentSpec
from students.student import Student, build_student
from students.zoo.composed import compose
from students.zoo.tinyclip import AUTO, OPENAI_MEAN, OPENAI_STD

TRUNK = "visual.trunk."


def read_student(name: str, file: Path) -> Student:
    """The student called `name` with the weights in a file, in eval mode.

    TinyCLIP's auto models have no name of their own: "tinyclip-auto-..." takes its shape from the file. A student of it can be
    inherited from and can label; one whose shape open_clip has no words for cannot be saved.

    Raises:
        UsageError: no such student.
        DistillError: the file is unreadable, or is of another model; the message names the cause.
    """
    if name.startswith(AUTO):
        return _auto(name, file)
    student = build_student(STUDENTS.get(name), 0)
    import_open_clip()
    state = open_clip_names(student.clip, read_checkpoint(file))
    load_weights(student.clip, state, path=file, what=f"the student {name}")
    return student.eval()


def _auto(name: str, file: Path) -> Student:
    padded = regular(read_checkpoint(file), file)
    if padded.open_clips:
        clip = build_clip(padded.model_cfg, seed=0)
        load_weights(clip, padded.state, path=file, what=name)
    else:
        clip = irregular_clip(padded)
    spec = StudentSpec(name, padded.model_cfg, OPENAI_MEAN, OPENAI_STD, note="read from a file")
    return Student(spec, clip, None).eval()


def read_image_tower(tower: str, file: Path) -> ClipWeights:
    """A timm model's weights as a source whose image tower alone can be inherited; its classifier is left out.

    Args:
        tower: timm's name of the architecture.
        file: its state dict, in timm's names, whatever its number of classes.

    Raises:
        UsageError: timm has no such model.
        DistillError: the file is unreadable, or is of another model; the message names the cause.
    """
    spec = compose(f"timm:{tower}+text:1x64")
    clip = build_clip(spec.model_cfg, seed=0, device="meta")
    trunk: Any = clip.get_submodule("visual.trunk")
    head = {f"{trunk.pretrained_cfg.get('classifier')}.{leaf}" for leaf in ("weight", "bias")}
    wanted = {key: tuple(value.shape) for key, value in trunk.state_dict().items() if key not in head}
    state = _own_names(read_checkpoint(file), wanted)
    surplus = [
        key
        for key in state
        if key not in wanted and key not in head and not key.startswith(("head", "classifier", "fc."))
    ]
    found = {key: tuple(state[key].shape) for key in state if key in wanted or key in surplus}
    if why := misfit(found, wanted):
        raise DistillError(f"{file} cannot be loaded as timm's {tower}: {why}")
    tensors = {f"{TRUNK}{key}": state[key].float() if state[key].is_floating_point() else state[key] for key in wanted}
    return ClipWeights(f"timm:{tower}", spec.model_cfg, tensors, sha256_file(file), licence="", commercial=False)


def _own_names(state: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Names without what all of them begin with where that is no part of the tower ("model.", "trunk.", "visual.trunk.")."""
    firsts = {name.split(".")[0] for name in wanted}
    while (
        len({name.partition(".")[0] for name in state}) == 1 and not {name.partition(".")[0] for name in state} & firsts
    ):
        state = {name.partition(".")[2]: value for name, value in state.items()}
    return state
