"""A CLIP folder in the toolkit's shared format as a frozen teacher: a teacher or a student trained here.

The folder holds open_clip_config.json, model.safetensors (fp16 on disk is read as fp32), card.json and perhaps
bpe_merges.txt.gz; open_clip itself reads the same folder as "local-dir:PATH". A repository of open_clip weights copied
from the Hub is read too (no card: its licence is reported as unknown). Left out: writing such folders
(`students.student` does).
"""

import json
from pathlib import Path
from typing import Any, Literal, cast

from distill.core.atomic import sha256_file
from distill.core.errors import DistillError
from teachers.open_clip.teacher import BIN_NAME, SAFE_NAME, OpenClipTeacher, Preprocess
from teachers.spec import TeacherSpec

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "card.json"
MERGES_FILE = "bpe_merges.txt.gz"


class FolderTeacher(OpenClipTeacher):
    """The model in `path`.

    Args:
        path: the folder.
        spec: registry facts whose name, scale and licence win over the card's; None = all from the folder.
        random_weights: build the architecture but do not read the weights (a rehearsal).
        seed: of the random weights.

    Raises:
        DistillError: a file is missing, unreadable or does not fit the configuration.
    """

    def __init__(
        self, path: Path, spec: TeacherSpec | None = None, *, random_weights: bool = False, seed: int = 0
    ) -> None:
        from dataclasses import replace

        from teachers.open_clip.model import build_clip, fill_random

        self.path = path
        config, own = read_config(path), folder_spec(path)
        if spec is not None:
            own = replace(spec, width=own.width, image_size=own.image_size, kind=own.kind)
        tokenizer, tokenizer_name = _tokenizer(path, config["model_cfg"], random_weights)
        model = build_clip(config["model_cfg"], seed=seed)
        if random_weights:
            sha256 = "random"
            fill_random(model, seed)
        else:
            sha256 = _load_weights(model, path)
        super().__init__(own, model, _preprocess(config, own.image_size), tokenizer, tokenizer_name, sha256)


def is_clip_folder(path: Path) -> bool:
    """Whether `path` looks like the shared CLIP format."""
    return (path / CONFIG_FILE).is_file()


def folder_spec(path: Path, name: str | None = None) -> TeacherSpec:
    """The facts in a folder's configuration and card; reads no weights. `name` defaults to the card's."""
    config = read_config(path)
    card = _read_json(path / CARD_FILE) if (path / CARD_FILE).is_file() else {}
    model_cfg = config["model_cfg"]
    kind = card.get("kind") or ("sigmoid" if model_cfg.get("init_logit_bias") is not None else "softmax")
    if kind not in ("softmax", "sigmoid"):
        raise DistillError(f"{path / CARD_FILE}: kind is {kind!r}; it must be 'softmax' or 'sigmoid'.")
    try:
        width, size = int(model_cfg["embed_dim"]), model_cfg["vision_cfg"].get("image_size", 224)
    except (KeyError, TypeError, AttributeError):
        raise DistillError(f"{path / CONFIG_FILE}: model_cfg lacks embed_dim or vision_cfg.") from None
    return TeacherSpec(
        name=str(name or card.get("name") or path.resolve().name),
        loader="folder",
        source=str(path),
        width=width,
        image_size=int(size[0] if isinstance(size, list) else size),
        logit_scale=None,
        kind=cast(Literal["softmax", "sigmoid"], kind),
        licence=str(card.get("licence", "unknown: the folder has no card")),
        commercial=bool(card.get("commercial", False)),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DistillError(f"There is no {path}. A CLIP folder holds {CONFIG_FILE} and {WEIGHTS_FILE}.") from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise DistillError(f"{path} cannot be read as JSON ({error}). Restore it or train the model again.") from None
    if not isinstance(value, dict):
        raise DistillError(f"{path} must hold one JSON object.")
    return value


def read_config(path: Path) -> dict[str, Any]:
    """open_clip_config.json of the folder `path`. Raises DistillError when it is unreadable or holds no model_cfg."""
    config = _read_json(path / CONFIG_FILE)
    if not isinstance(config.get("model_cfg"), dict):
        raise DistillError(f"{path / CONFIG_FILE} has no model_cfg; it must be an open_clip configuration.")
    return config


def _preprocess(config: dict[str, Any], size: int) -> Preprocess:
    """Of the preprocess_cfg; open_clip's defaults where a key is absent. The size is the image tower's."""
    from dataclasses import asdict

    from open_clip.transform import PreprocessCfg

    values = {**asdict(PreprocessCfg()), **config.get("preprocess_cfg", {})}
    return Preprocess(size, tuple(values["mean"]), tuple(values["std"]), values["interpolation"])


def _tokenizer(path: Path, model_cfg: dict[str, Any], stand_in: bool) -> tuple[Any, str]:
    from teachers.open_clip.teacher import import_open_clip

    import_open_clip()
    from open_clip.tokenizer import SimpleTokenizer

    from teachers.open_clip.model import tokenizer_of

    if not (path / MERGES_FILE).is_file():
        return tokenizer_of(model_cfg, stand_in=stand_in, what=f"the tokenizer of {path}", folder=path)
    length = int(model_cfg["text_cfg"].get("context_length", 77))
    try:
        tokenizer = SimpleTokenizer(bpe_path=str(path / MERGES_FILE), context_length=length)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DistillError(f"{path / MERGES_FILE} is not a gzipped merges file ({error}). Restore it.") from None
    return tokenizer, f"{MERGES_FILE} ({sha256_file(path / MERGES_FILE)[:12]})"


def _load_weights(model: Any, path: Path) -> str:
    """Strictly, fp16 on disk upcast to the model's fp32; returns the file's SHA-256."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from teachers.open_clip.model import load_checkpoint

    file = path / WEIGHTS_FILE
    for published in (path / SAFE_NAME, path / BIN_NAME):  # a folder copied from the Hub as it is
        if published.is_file() and not file.is_file():
            return load_checkpoint(model, published, what=f"the model of {path / CONFIG_FILE}")
    try:
        state = load_file(file)
        model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()}, strict=True)
    except FileNotFoundError:
        raise DistillError(f"There is no {file}. A CLIP folder holds {CONFIG_FILE} and {WEIGHTS_FILE}.") from None
    except (OSError, SafetensorError, RuntimeError) as error:
        detail = " ".join(str(error).split())[:300]
        raise DistillError(f"{file} does not fit {CONFIG_FILE} beside it, or is damaged: {detail}.") from None
    return sha256_file(file)
