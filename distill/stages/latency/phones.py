"""Both towers of a model on phones that are not here, by prediction: which model is meant, and which devices are.

Left out: the prediction (`export.latency`), and phones that are attached (`export.latency.measure`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.core.clip.folder import is_clip_folder, read_config
from distill.core.errors import UsageError
from distill.run_folder import RunFolder
from distill.stages.exporting.any_model import model_name, run_of

if TYPE_CHECKING:
    from export.artifacts.record import LatencyProfile
    from export.latency.towers import Towers
    from export.settings import ProfileSettings


OPEN_CLIP = "open_clip:"


def split_devices(settings: "ProfileSettings") -> tuple[list[str], list[str]]:
    """Of the devices asked for, those that latencies are measured on, and those that they are predicted for.

    Raises UsageError for a name that is neither attached nor a known phone or chip.
    """
    from export.device import DEVICES, list_devices
    from export.latency.anchors import calibrations
    from export.latency.devices import find_chip

    if not settings.devices:
        return [], []
    attached = {info.name for info in list_devices(settings)} | set(DEVICES)
    here = [name for name in settings.devices if name in attached]
    phones = [name for name in settings.devices if name not in attached]
    if phones:
        known = {one.name for one in calibrations()}
        for name in phones:
            if name not in known:
                find_chip(name)
    return here, phones


def calibrated_here(devices: Sequence[str]) -> bool:
    """Whether each of the devices was calibrated, so that a model that is not exported can be predicted for it."""
    from export.latency.anchors import calibrations

    return bool(devices) and set(devices) <= {one.name for one in calibrations()}


def predicted(model: str, devices: Sequence[str]) -> "list[LatencyProfile]":
    """A row per device, tower and precision of a model: of its exported files' precisions, where it is a run or an export.

    Args:
        model: whatever `distill export` takes, an exported folder whose student lies in its run, or an architecture's name.

    Raises:
        UsageError: no such model, or an exported folder without its student.
    """
    from export.latency.anchors import calibrations
    from export.latency.predictor import published_predictor
    from export.latency.towers import predict_towers

    towers, precisions = _meant(model_name(model))
    calibrated = {one.name: one for one in reversed(calibrations())}  # the newest of a name
    return predict_towers(towers, devices, published_predictor(), precisions, calibrated)


def _meant(model: str) -> "tuple[Towers, list[str]]":
    from export.artifacts.folder import ARTIFACT_FILE, read_artifacts
    from export.latency.towers import tower_of_key, towers_of_config

    path = Path(model)
    if (path / ARTIFACT_FILE).is_file():
        student = RunFolder(path.absolute().parent.parent).student
        if not is_clip_folder(student):
            raise UsageError(
                f"{model!r} is a copied export without its student, whose operations are counted: expected in {str(student)!r}. "
                "Give the run, or the name of its architecture."
            )
        return towers_of_config(_config(student)), [artifact.precision for artifact in read_artifacts(path)]
    if run := run_of(model):
        exported = [artifact.precision for place in run.exported() for artifact in read_artifacts(place)]
        return towers_of_config(_config(run.student)), exported
    if is_clip_folder(path):
        return towers_of_config(_config(path)), []
    if (named := named_config(model)) is not None:
        return towers_of_config(named), []
    from export.latency.graph.names import resolve

    try:
        return tower_of_key(resolve(model)), []
    except UsageError as error:
        raise UsageError(f"There is no model {model!r}: no run, no folder, no registered name. {error}") from None


def _config(folder: Path) -> dict[str, Any]:
    return dict(read_config(folder)["model_cfg"])


def named_config(model: str) -> dict[str, Any] | None:
    """open_clip's configuration of a registered student or teacher, or of "open_clip:..."; None for anything else."""
    from export.latency.graph.names import clip_config
    from students.spec import STUDENTS
    from teachers.load import resolve_teacher
    from teachers.loaders.folder import place_of

    if model.startswith(OPEN_CLIP):  # its weights do not matter, and need not be named
        architecture = model.removeprefix(OPEN_CLIP).partition("/")[0].partition("@")[0]
        try:
            return clip_config("clip", architecture)
        except (RuntimeError, TypeError, KeyError):
            return None
    if model in STUDENTS:
        return STUDENTS.get(model).model_cfg
    try:
        spec = resolve_teacher(model, noun="model")
    except UsageError:
        return None
    if is_clip_folder(folder := place_of(spec)):
        return _config(folder)
    architecture = spec.source.partition("/")[0].partition("@")[0]
    try:
        config = clip_config("clip", architecture)
    except (RuntimeError, TypeError, KeyError):
        return None
    config["vision_cfg"] = {**config["vision_cfg"], "image_size": spec.image_size}
    return config
