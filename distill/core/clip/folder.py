"""The folder of a CLIP, as open_clip reads it ("local-dir:PATH") and as this toolkit writes it: file names and readers.

It holds a configuration and weights, and where this toolkit wrote it a card (name, licence, provenance) and, for a cut
vocabulary, the merges of its tokenizer. Importable without torch. Left out: building the model, and writing the folder
(`students.student` does).
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.core.clip.checkpoint import read_checkpoint
from distill.core.clip.hf_text import is_described
from distill.core.errors import DistillError

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "card.json"
MERGES_FILE = "bpe_merges.txt.gz"
TOKENIZER_FILE = "tokenizer.json"  # of a Hugging Face tokenizer, where the configuration names one
TEXT_CONFIG = "text_tower"  # a folder with the config.json of a Hugging Face text tower, as transformers reads it
# The weights of an open_clip repository on the Hugging Face Hub; either holds the same tensors.
HUB_SAFETENSORS, HUB_BIN = "open_clip_model.safetensors", "open_clip_pytorch_model.bin"


def twins(file: str) -> tuple[str, ...]:
    """Other names of the same weights in a repository: the safetensors beside a .bin or .pt; the hub's pair both ways."""
    pair = {HUB_SAFETENSORS: (HUB_BIN,), HUB_BIN: (HUB_SAFETENSORS,)}
    stem, dot, suffix = file.rpartition(".")
    return pair.get(file, (f"{stem}{dot}safetensors",) if suffix != "safetensors" else ())


def is_clip_folder(path: Path) -> bool:
    """Whether the folder `path` says that it holds a CLIP."""
    return (path / CONFIG_FILE).is_file()


def read_config(path: Path) -> dict[str, Any]:
    """The configuration in the folder `path`: "model_cfg" and perhaps "preprocess_cfg".

    A Hugging Face text tower that is described in the folder itself is called by its kind ("bert"), wherever the folder lies.

    Raises DistillError when it is missing or unreadable, or holds no model_cfg.
    """
    config = _read_object(path / CONFIG_FILE)
    if not isinstance(config.get("model_cfg"), dict):
        raise DistillError(f"{path / CONFIG_FILE} has no model_cfg; it must be an open_clip configuration.")
    text, tower = config["model_cfg"].get("text_cfg"), path / TEXT_CONFIG / "config.json"
    if isinstance(text, dict) and text.get("hf_model_name") and "layers" in text and tower.is_file():
        text["hf_model_name"] = str(_read_object(tower).get("model_type", ""))
    return config


def built_here(path: Path, model_cfg: dict[str, Any]) -> dict[str, Any]:
    """The configuration with a Hugging Face text tower's own read from the folder `path`, where that holds it."""
    if not (path / TEXT_CONFIG / "config.json").is_file():
        return model_cfg
    return {**model_cfg, "text_cfg": {**model_cfg["text_cfg"], "hf_model_name": str(path / TEXT_CONFIG)}}


def loadable_at(path: Path, model_cfg: dict[str, Any]) -> dict[str, Any]:
    """The configuration as it is written into the folder `path`, for open_clip to load from there.

    open_clip has no word for "described beside me": a described text tower is called by the full path of its own folder, so
    that a folder which was moved loads here alone, until it is saved again.
    """
    if not is_described(model_cfg["text_cfg"]):
        return model_cfg
    return {**model_cfg, "text_cfg": {**model_cfg["text_cfg"], "hf_model_name": str(path.resolve() / TEXT_CONFIG)}}


def call_text_tower(path: Path, place: str) -> None:
    """Rewrite the configuration in the folder `path` for where it is going, so that open_clip loads it there.

    Args:
        path: a CLIP folder; one whose text tower is not described in it is left as it is.
        place: a folder, or a repository of the Hub ("ORG/NAME"), where transformers looks for a config.json at the top.
    """
    config = read_config(path)
    if not is_described(config["model_cfg"]["text_cfg"]):
        return
    tower = Path(place) / TEXT_CONFIG
    if not Path(place).is_absolute():
        shutil.copyfile(path / TEXT_CONFIG / "config.json", path / "config.json")
        tower = Path(place)
    config["model_cfg"]["text_cfg"]["hf_model_name"] = tower.as_posix()
    (path / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def read_card(path: Path) -> dict[str, Any]:
    """The card in the folder `path`: name, licence, provenance; empty where there is none, as in a copy from the Hub.

    Raises DistillError when it is unreadable.
    """
    return _read_object(path / CARD_FILE) if (path / CARD_FILE).is_file() else {}


def read_state(path: Path) -> "dict[str, Tensor]":
    """The tensors of the weights file in the folder `path`; those stored as fp16 come back as fp32.

    Raises DistillError when it is missing or damaged.
    """
    file = path / WEIGHTS_FILE
    if not file.is_file():
        raise DistillError(f"There is no {file}. A CLIP folder holds {CONFIG_FILE} and {WEIGHTS_FILE}.")
    return {name: v.float() if v.is_floating_point() else v for name, v in read_checkpoint(file).items()}


def merges_of(path: Path) -> Path | None:
    """The merges file in the folder `path`; None where the model has CLIP's own vocabulary."""
    merges = path / MERGES_FILE
    return merges if merges.is_file() else None


def vocabulary_id(merges: Path | None) -> str:
    """A name for the vocabulary of a merges file (None = CLIP's own): equal names, equal tokens."""
    return "clip-bpe" if merges is None else hashlib.sha256(merges.read_bytes()).hexdigest()


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DistillError(f"There is no {path}. A CLIP folder holds {CONFIG_FILE} and {WEIGHTS_FILE}.") from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise DistillError(f"{path} cannot be read as JSON ({error}). Restore it or train the model again.") from None
    if not isinstance(value, dict):
        raise DistillError(f"{path} must hold one JSON object.")
    return value
