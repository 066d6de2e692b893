"""Any CLIP as the thing exported: a run's student, or a model from elsewhere, taken into a folder of its own first.

A model from elsewhere (an open_clip folder or name, a checkpoint, a registered teacher) is written as student/ in the folder
that its exports go to, in the form that a trained student has. Everything that works on a run's exports (parity, profile,
reports of what lies there) then works on it too. Left out: exporting (`distill.stages.exporting.stage`).
"""

import copy
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.core.clip.folder import is_clip_folder, read_card
from distill.core.errors import OutputExistsError, UsageError
from distill.run_folder import RunFolder
from distill.stages.exporting.timm_model import PREFIX, is_timm, take_in_timm
from export.towers.image_model import is_image_model
from students.spec import StudentSpec
from teachers.load import LOCAL_DIR, absolute_teacher
from teachers.spec import absolute_path

if TYPE_CHECKING:
    from teachers.open_clip.teacher import OpenClipTeacher
    from teachers.teacher import Teacher


def model_name(model: str) -> str:
    """The name of a model without open_clip's prefix for folders, and with ~ replaced."""
    name = model.removeprefix(LOCAL_DIR)
    return str(Path(name).expanduser()) if name.startswith("~") else name


def run_of(model: str) -> RunFolder | None:
    """The run whose student is meant by its folder, or by the student/ inside it; None for every other model."""
    path = Path(model)

    if holds_model(path) and path.name == RunFolder(path.parent).student.name:
        return RunFolder(path.parent)
    return RunFolder(path) if holds_model(RunFolder(path).student) else None


def holds_model(folder: Path) -> bool:
    """Whether a folder holds a model that can be exported."""
    return is_clip_folder(folder) or is_image_model(folder)


def card_origin(folder: Path) -> str | None:
    """What the model in a folder was taken in from; None where there is no model, or one that was trained there."""
    return read_card(folder).get("origin") if holds_model(folder) else None


def absolute_model(name: str) -> str:
    """The same model by a name that means it from every working folder."""
    if not name.startswith(PREFIX):
        return absolute_teacher(name)
    called, at, weights = name.removeprefix(PREFIX).partition("@")
    return f"{PREFIX}{called}@{absolute_path(weights)}" if at else f"{PREFIX}{absolute_path(called)}"


def load_any(name: str) -> "Teacher":
    """Any CLIP, frozen: a run's student or heads, a folder, or whatever a teacher's name may be.

    Raises:
        UsageError: nothing is called so. DistillError: it holds no trained student, or its weights are missing.
    """
    from distill.stages.train import model_folder
    from teachers.load import load_teacher, resolve_teacher

    try:
        spec = resolve_teacher(name, noun="model")
    except UsageError:
        if Path(name).is_dir():
            model_folder(Path(name))  # which says what a run lacks
        raise
    return load_teacher(spec)


def default_out(model: str) -> Path:
    """exports/<name>, the name made of what tells a model: folder, architecture and weights, or registered name."""
    name, at, checkpoint = model.partition("@")
    name = name.removeprefix(PREFIX)
    told = Path(name).name if Path(name).exists() else name.partition(":")[2] or name
    told += f"-{Path(checkpoint).stem}" if at else ""
    return Path("exports") / (re.sub(r"[^\w.+-]+", "-", told).strip("-.") or "model")


def take_in(model: str, run: RunFolder, *, overwrite: bool, origin: str | None = None) -> None:
    """Write a model from elsewhere as the student of `run`; nothing is done where it lies there already.

    Args:
        model: as of `teachers.load`, or of `take_in_timm`.
        overwrite: put it in the place of another model that lies there.
        origin: what the card says that it is, where the model was named otherwise before.

    Raises:
        UsageError: nothing is called so, or it is not one open_clip model.
        OutputExistsError: another model lies there.
        DistillError: its weights or tokenizer are missing or do not fit.
    """
    if is_timm(model):
        take_in_timm(model, run, overwrite=overwrite, origin=origin)
        return
    import torch

    from students.student import Student
    from teachers.load import load_teacher, resolve_teacher

    teacher = load_teacher(resolve_teacher(model, noun="model"))
    card = _card(origin or model, teacher)
    if is_clip_folder(run.student):
        if read_card(run.student) == card:
            return
        if not overwrite:
            raise OutputExistsError(
                f"{str(run)!r} holds the exports of another model ({read_card(run.student).get('name', 'unknown')}). Give "
                "another --out, or --overwrite to put this one in its place."
            )
    clip = _open_clip(model, teacher)
    student = Student(_spec(clip), clip.model, clip.merges, clip.tokenizer)
    with torch.no_grad():
        student.log_logit_scale.fill_(
            math.log(clip.logit_scale)
        )  # a registered teacher's may win over its checkpoint's
    student.save(run.student, card)


def _card(model: str, teacher: Any) -> dict[str, Any]:
    spec = teacher.spec
    return {
        "name": spec.name,
        "kind": spec.kind,
        "licence": spec.licence,
        "commercial": spec.commercial,
        "origin": model,
        "weights_sha256": teacher.weights_sha256,
    }


def _open_clip(model: str, teacher: Any) -> "OpenClipTeacher":
    from teachers.open_clip.teacher import OpenClipTeacher

    if not isinstance(teacher, OpenClipTeacher):
        raise UsageError(
            f"{model!r} is a {type(teacher).__name__}, not one image-text model, and cannot be exported. Train a student from "
            f"it (distill run --teacher {model}), and export that."
        )
    return teacher


def _spec(clip: "OpenClipTeacher") -> StudentSpec:
    model_cfg = copy.deepcopy(clip.model_cfg)
    model_cfg["vision_cfg"]["image_size"] = (
        clip.preprocess.size
    )  # open_clip also writes [side, side], or nothing for 224
    return StudentSpec(
        name=clip.spec.name,
        model_cfg=model_cfg,
        mean=clip.preprocess.mean,
        std=clip.preprocess.std,
        interpolation=clip.interpolation,
        resize_mode=clip.resize_mode,
    )
