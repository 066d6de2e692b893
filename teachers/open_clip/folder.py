"""A CLIP folder (see `distill.core.clip.folder`) as a frozen teacher: a teacher or a student trained here.

Repositories copied from the Hub are read too: of open_clip's weights, and of CLIPs and SigLIPs of the transformers package. They
have no card of ours: the licence is the one that their README states.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, cast

from distill.core.atomic import sha256_file, sha256_json
from distill.core.clip.checkpoint import load_weights, read_checkpoint
from distill.core.clip.folder import (
    CARD_FILE,
    CONFIG_FILE,
    HUB_BIN,
    HUB_SAFETENSORS,
    WEIGHTS_FILE,
    built_here,
    is_clip_folder,
    merges_of,
    read_card,
    read_config,
    read_state,
    vocabulary_id,
)
from distill.core.clip.model import import_open_clip
from distill.core.errors import DistillError
from teachers.open_clip.teacher import LoadedClip, OpenClipTeacher, Preprocess
from teachers.open_clip.transformers_form import (
    licence_of,
    model_type,
    open_clip_config,
    open_clip_state,
    weights_of,
)
from teachers.spec import TeacherSpec


def load_folder(
    path: Path, spec: TeacherSpec | None = None, *, random_weights: bool = False, seed: int = 0
) -> OpenClipTeacher:
    """The CLIP in a folder as a frozen teacher.

    Args:
        path: the folder.
        spec: registry facts whose name, scale and licence win over the card's; None = all from the folder.
        random_weights: build the architecture but do not read the weights (a rehearsal).
        seed: of the random weights.

    Raises:
        DistillError: a file is missing, unreadable or does not fit the configuration.
    """
    from teachers.open_clip.model import build_unfilled, fill_random

    config, own = _config(path), folder_spec(path)
    model_cfg = config["model_cfg"]
    if spec is not None:
        own = replace(spec, width=own.width, image_size=own.image_size, kind=own.kind)
    tokenizer, tokenizer_name = _tokenizer(path, model_cfg, random_weights)
    model = build_unfilled(built_here(path, model_cfg), seed=seed)
    if random_weights:
        sha256 = "random"
        fill_random(model, seed)
    else:
        sha256 = _load_weights(model, path)
    preprocess = _preprocess(config, own.image_size)
    vocabulary = str(model_cfg["text_cfg"].get("hf_tokenizer_name") or vocabulary_id(merges_of(path)))
    resize_mode = config.get("preprocess_cfg", {}).get("resize_mode") or "shortest"
    clip = LoadedClip(
        model, model_cfg, preprocess, tokenizer, tokenizer_name, vocabulary, sha256, resize_mode, merges_of(path)
    )
    return OpenClipTeacher(own, clip)


def folder_spec(path: Path, name: str | None = None) -> TeacherSpec:
    """The facts in a folder's configuration and card; reads no weights. `name` defaults to the card's."""
    config = _config(path)
    card = read_card(path)
    stated = licence_of(path) or "unknown: the folder has no card"
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
        licence=str(card.get("licence", stated)),
        commercial=bool(card.get("commercial", False)),
    )


def _config(path: Path) -> dict[str, Any]:
    """The configuration in a folder, in open_clip's words whoever saved it."""
    return read_config(path) if is_clip_folder(path) else open_clip_config(path)


def _preprocess(config: dict[str, Any], size: int) -> Preprocess:
    """Of the preprocess_cfg; open_clip's defaults where a key is absent. The size is the image tower's."""
    from open_clip.transform import PreprocessCfg

    values = {**asdict(PreprocessCfg()), **config.get("preprocess_cfg", {})}
    return Preprocess(size, tuple(values["mean"]), tuple(values["std"]), values["interpolation"])


def _tokenizer(path: Path, model_cfg: dict[str, Any], stand_in: bool) -> tuple[Any, str]:
    import_open_clip()
    from open_clip.tokenizer import SimpleTokenizer

    from distill.core.clip.tokenizer import tokenizer_of

    merges = merges_of(path)
    if merges is None:
        return tokenizer_of(model_cfg, stand_in=stand_in, what=f"the tokenizer of {path}", folder=path)
    length = int(model_cfg["text_cfg"].get("context_length", 77))
    try:
        tokenizer = SimpleTokenizer(bpe_path=str(merges), context_length=length)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DistillError(f"{merges} is not a gzipped merges file ({error}). Restore it.") from None
    return tokenizer, f"{merges.name} ({sha256_file(merges)[:12]})"


def _load_weights(model: Any, path: Path) -> str:
    """Strictly, fp16 on disk upcast to the model's fp32; returns the file's SHA-256."""
    from teachers.open_clip.model import load_checkpoint

    file = path / WEIGHTS_FILE
    if not is_clip_folder(path):
        return _load_transformers(model, path)
    what = f"the model of {path / CONFIG_FILE}"
    for published in (path / HUB_SAFETENSORS, path / HUB_BIN):  # a folder copied from the Hub as it is
        if published.is_file() and not file.is_file():
            return load_checkpoint(model, published, what=what)
    load_weights(model, read_state(path), path=file, what=what)
    return sha256_file(file)


def _load_transformers(model: Any, path: Path) -> str:
    """Weights that the transformers package saved; returns the SHA-256 of the file, of several over their hashes."""
    state: dict[str, Any] = {}
    files = weights_of(path)
    for file in files:
        state |= read_checkpoint(file)
    kind, custom_text = model_type(path), type(model).__name__ != "CLIP"
    load_weights(model, open_clip_state(state, kind, custom_text), path=files[0], what=f"the {kind} of {path}")
    hashes = [sha256_file(file) for file in files]
    return hashes[0] if len(hashes) == 1 else sha256_json(hashes)
