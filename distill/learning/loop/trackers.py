"""TensorBoard, Weights & Biases and MLflow, by accelerate's trackers: the rows of metrics.jsonl go there too."""

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.core.errors import UsageError

PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "mlflow": ("mlflow",)}
PROJECT = "distill"


def refuse_absent(names: Sequence[str]) -> None:
    """Raise UsageError where the package of a tracker (train.trackers) is not installed."""
    for name in names:
        if not any(importlib.util.find_spec(package) for package in PACKAGES[name]):
            raise UsageError(
                f"train.trackers: {name} is not installed. Install it (pip install {PACKAGES[name][0]}), or leave it out."
            )


class Trackers:
    """The trackers of one training.

    Args:
        names: of `PACKAGES`.
        folder: of the training; TensorBoard's files lie in its tensorboard/, and its name is the run's.
        settings: what a tracker shows beside the curves.
    """

    def __init__(self, names: Sequence[str], folder: Path, settings: Mapping[str, Any]) -> None:
        refuse_absent(names)
        self._started: list[Any] = []
        shown = {key: value for key, value in settings.items() if isinstance(value, bool | int | float | str)}
        for name in names:
            tracker = _tracker(name, folder.absolute())
            tracker.start()
            tracker.store_init_configuration(shown)
            self._started.append(tracker)

    def log(self, row: Mapping[str, float], step: int) -> None:
        """One row of metrics.jsonl, of the step `step`."""
        for tracker in self._started:
            tracker.log({key: value for key, value in row.items() if key != "step"}, step=step)

    def finish(self) -> None:
        """Nothing more comes."""
        for tracker in self._started:
            tracker.finish()


def _tracker(name: str, folder: Path) -> Any:
    from accelerate.tracking import MLflowTracker, TensorBoardTracker, WandBTracker

    title = f"{folder.parent.name}/{folder.name}"
    if name == "tensorboard":
        return TensorBoardTracker("tensorboard", logging_dir=folder)
    if name == "wandb":  # a training that is resumed is the same run there
        same = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
        return WandBTracker(PROJECT, name=title, dir=str(folder), id=same, resume="allow")
    return MLflowTracker(experiment_name=PROJECT, run_name=title)
