"""TensorBoard, Weights & Biases and MLflow, by accelerate's trackers: the rows of metrics.jsonl go there too."""

import hashlib
import importlib
import importlib.util
import re
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.core.atomic import read_json, write_json
from distill.core.errors import UsageError

PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "mlflow": ("mlflow",)}
PROJECT = "distill"
NUMBERS_FILE = "trackers.json"
_NOT_IN_MLFLOW = re.compile(r"[^\w.\- :/]", re.ASCII)  # in names of metrics, which hold those of teachers


def refuse_absent(names: Sequence[str]) -> None:
    """Raise UsageError where the package of a tracker (train.trackers) is not installed."""
    for name in names:
        if not any(importlib.util.find_spec(package) for package in PACKAGES[name]):
            raise UsageError(
                f"train.trackers: {name} is not installed. Install it (pip install {PACKAGES[name][0]}), or leave it out."
            )


class Trackers:
    """The trackers of one training. One that is resumed goes on in the same run of each, where every step has one row.

    Args:
        names: of `PACKAGES`.
        folder: of the training; TensorBoard's files lie in its tensorboard/, and its name is the run's.
        settings: what a tracker shows beside the curves.
        first_step: how many steps are taken already.
    """

    def __init__(self, names: Sequence[str], folder: Path, settings: Mapping[str, Any], first_step: int = 0) -> None:
        refuse_absent(names)
        self._started: list[tuple[Any, int]] = []  # a tracker, and the last step of which it has a row for good
        shown = {key: value for key, value in settings.items() if isinstance(value, bool | int | float | str)}
        for name in names:
            tracker, known = _STARTED_BY[name](folder.absolute(), first_step)
            if not known:  # MLflow refuses settings that have changed
                tracker.store_init_configuration(shown)
            self._started.append((tracker, known))

    def log(self, row: Mapping[str, float], step: int) -> None:
        """One row of metrics.jsonl, of the step `step`."""
        values = {key: value for key, value in row.items() if key != "step"}
        for tracker, known in self._started:
            named = {_NOT_IN_MLFLOW.sub("_", key): value for key, value in values.items()}
            if step > known:
                tracker.log(named if tracker.name == "mlflow" else values, step=step)

    def finish(self) -> None:
        """Nothing more comes."""
        for tracker, _ in self._started:
            tracker.finish()


def _tensorboard(folder: Path, first_step: int) -> tuple[Any, int]:
    """Started; rows of steps that are taken again hide those of before."""
    from accelerate.tracking import TensorBoardTracker

    tracker = TensorBoardTracker("tensorboard", logging_dir=folder, purge_step=first_step + 1 if first_step else None)
    tracker.start()
    return tracker, 0


def _wandb(folder: Path, first_step: int) -> tuple[Any, int]:
    """Started; W&B itself takes no row of a step that it has."""
    from accelerate.tracking import WandBTracker

    number = _kept(folder).get("wandb")
    if number is None:  # runs that began before numbers were kept had one of their folder
        number = hashlib.sha256(str(folder).encode()).hexdigest()[:16] if first_step else uuid.uuid4().hex[:16]
        _keep(folder, "wandb", number)
    tracker = WandBTracker(PROJECT, name=_title(folder), dir=str(folder), id=number, resume="allow")
    tracker.start()
    return tracker, 0


def _mlflow(folder: Path, _: int) -> tuple[Any, int]:
    """Started; MLflow numbers runs itself, and would keep two rows of a step."""
    from accelerate.tracking import MLflowTracker

    mlflow: Any = importlib.import_module("mlflow")
    number, known = _kept(folder).get("mlflow"), 0
    if number is not None:
        try:
            known = max((row.step for row in mlflow.MlflowClient().get_metric_history(number, "loss")), default=0)
        except mlflow.exceptions.MlflowException:  # of another server, or deleted since
            number = None
    tracker = MLflowTracker(experiment_name=PROJECT, run_name=_title(folder), run_id=number)
    tracker.start()
    _keep(folder, "mlflow", tracker.tracker.info.run_id)
    return tracker, known


_STARTED_BY = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}


def _title(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"


def _kept(folder: Path) -> dict[str, str]:
    """Tracker -> what it calls the run of this folder."""
    file = folder / NUMBERS_FILE
    return dict(read_json(file)) if file.exists() else {}


def _keep(folder: Path, name: str, number: str) -> None:
    write_json(folder / NUMBERS_FILE, {**_kept(folder), name: number})
