"""A timm image model as the thing exported: by timm's name and a weights file, or a folder of timm's own form.

It is written as student/ in the folder that its exports go to, in timm's form with a card beside it, so that what works on other
models' exports works on its too. Left out: what it says and how it is deployed (`export.towers.image_model`).
"""

import json
import shutil
from pathlib import Path
from typing import Any

from distill.core import atomic
from distill.core.clip.checkpoint import load_weights, read_checkpoint
from distill.core.clip.folder import CARD_FILE, WEIGHTS_FILE, read_card
from distill.core.errors import DistillError, OutputExistsError, UsageError, nearest
from distill.core.torch_compat import ensure_torchvision
from distill.run_folder import RunFolder
from export.artifacts.folder import IMAGE_MODEL_FILE
from export.towers.image_model import is_image_model, load_image_model

PREFIX = "timm:"


def is_timm(model: str) -> bool:
    """Whether a model is named as one of timm's, or is a folder of its form."""
    return model.startswith(PREFIX) or is_image_model(Path(model))


def take_in_timm(model: str, run: RunFolder, *, overwrite: bool, origin: str | None = None) -> None:
    """Write a timm model as the student of `run`; nothing is done where it lies there already.

    Args:
        model: "timm:NAME@WEIGHTS", "timm:FOLDER" or a folder.
        overwrite: put it in the place of another model that lies there.
        origin: as of `take_in`.

    Raises:
        UsageError: nothing is called so.
        OutputExistsError: another model lies there.
        DistillError: its weights are missing or do not fit, or it cannot be exported.
    """
    name, at, weights = model.removeprefix(PREFIX).partition("@")
    file = Path(weights).expanduser() if at else Path(name).expanduser() / WEIGHTS_FILE
    if not at and not is_image_model(Path(name).expanduser()):
        raise UsageError(
            f"{model!r} names no timm model: give timm:NAME@WEIGHTS with a file of weights, or timm:FOLDER with {IMAGE_MODEL_FILE} "
            f"and {WEIGHTS_FILE} as timm writes them for hubs."
        )
    if not file.is_file():
        raise DistillError(f"The weights of {model!r} are missing: there is no {str(file)!r}.")
    called = name if at else Path(name).expanduser().resolve().name
    card = {"name": called, "origin": origin or model, "weights_sha256": atomic.sha256_file(file)}
    if (run.student / CARD_FILE).is_file():
        there = read_card(run.student)
        if {key: there.get(key) for key in card} == card:
            return
        if not overwrite:
            raise OutputExistsError(
                f"{str(run)!r} holds the exports of another model ({there.get('name', 'unknown')}). Give another --out, or "
                "--overwrite to put this one in its place."
            )
    with atomic.staged_dir(run.student) as folder:
        if at:
            _write_named(name, file, folder)
        else:
            for part in (IMAGE_MODEL_FILE, WEIGHTS_FILE):
                shutil.copyfile(Path(name).expanduser() / part, folder / part)
        load_image_model(folder)  # refuses what cannot be exported before anything is kept
        config = json.loads((folder / IMAGE_MODEL_FILE).read_text(encoding="utf-8"))
        licence = config.get("pretrained_cfg", {}).get("license") or "unknown: the model's folder names none"
        atomic.write_json(folder / CARD_FILE, {**card, "kind": "softmax", "licence": licence})


def _write_named(name: str, file: Path, folder: Path) -> None:
    """timm's form of one of its architectures with weights from a file; the file says how many classes there are."""
    ensure_torchvision()
    import timm
    from timm.models import save_for_hf

    if not timm.is_model(name.partition(".")[0]):
        raise UsageError(f"timm has no model {name!r}. {nearest(name, timm.list_models())}")
    state = read_checkpoint(file)
    try:
        net: Any = timm.create_model(name, pretrained=False, num_classes=_classes(timm.get_pretrained_cfg(name), state))
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"timm has no model {name!r}: {error}") from None
    load_weights(net, state, path=file, what=f"timm's {name}")
    save_for_hf(net, folder, safe_serialization=True)


def _classes(config: Any, state: dict[str, Any]) -> int:
    """How many rows the classifier in a checkpoint has; 0 where it has none."""
    heads = config.classifier if isinstance(config.classifier, tuple | list) else (config.classifier,)
    rows = [len(state[f"{head}.weight"]) for head in heads if f"{head}.weight" in state]
    return rows[0] if rows else 0
