"""open_clip's names and tables: from "MODEL/TAG" or "MODEL@CHECKPOINT" to configuration, preprocessing and facts.

No network, no weights. Left out: building and loading (`teachers.open_clip.teacher`).
"""

from pathlib import Path
from typing import Any

from distill.core.clip.folder import HUB_SAFETENSORS
from distill.core.clip.model import import_open_clip
from distill.core.errors import UsageError, nearest
from teachers.spec import TeacherSpec

CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


def spec_of(name: str, source: str) -> TeacherSpec:
    """The spec of "MODEL/TAG" or "MODEL@PATH" made from open_clip's own tables; needs no network.

    Raises:
        UsageError: open_clip knows no such model or tag (with the nearest), or PATH is not a checkpoint.
    """
    model, tag, path = split_source(source)
    config = model_config(model)
    hub = file = ""
    licence = "unknown: read the terms of the weights"
    if path is None:
        hub, file = hub_file(model, tag)
        licence = f"unknown: read https://huggingface.co/{hub}" if hub else licence
    elif not (path.is_file() and path.suffix in CHECKPOINT_SUFFIXES):
        wanted = ", ".join(CHECKPOINT_SUFFIXES)
        raise UsageError(
            f"There is no checkpoint {str(path)!r} ({wanted}). In open_clip:MODEL@PATH, PATH is such a file."
        )
    return TeacherSpec(
        name=name,
        loader="open_clip",
        source=source,
        width=int(config["embed_dim"]),
        image_size=square(config["vision_cfg"].get("image_size", 224)),
        logit_scale=None,
        kind="sigmoid" if config.get("init_logit_bias") is not None else "softmax",
        licence=licence,
        commercial=False,
        hub=hub,
        file=file,
    )


def split_source(source: str) -> tuple[str, str, Path | None]:
    """ "MODEL/TAG" -> (MODEL, TAG, None); "MODEL@PATH" -> (MODEL, "", PATH)."""
    if "@" in source:
        model, _, path = source.partition("@")
        return model, "", Path(path).expanduser()
    model, slash, tag = source.rpartition("/")
    if not slash:
        raise UsageError(
            f"open_clip:{source}: write open_clip:MODEL/TAG, or open_clip:MODEL@CHECKPOINT for a local file."
        )
    return model, tag, None


def model_config(model: str) -> dict[str, Any]:
    """open_clip's configuration of MODEL. Raises UsageError with the nearest known model."""
    open_clip = import_open_clip()
    config = open_clip.get_model_config(model) if model in open_clip.list_models() else None
    if config is None:
        raise UsageError(f"open_clip knows no model {model!r}. {nearest(model, open_clip.list_models())}")
    return dict(config)


def pretrained_config(model: str, tag: str) -> dict[str, Any]:
    """open_clip's table entry of MODEL/TAG. Raises UsageError with the nearest known tag."""
    import_open_clip()
    from open_clip import pretrained

    entry = pretrained.get_pretrained_cfg(model, tag)
    if not entry:
        tags = pretrained.list_pretrained_tags_by_model(model)
        raise UsageError(f"open_clip has no weights {tag!r} of {model!r}. {nearest(tag, tags)}")
    return dict(entry)


def hub_file(model: str, tag: str) -> tuple[str, str]:
    """(repository, file) on the Hugging Face Hub; ("", "") for the few old weights that open_clip has by URL only."""
    entry = pretrained_config(model, tag).get("hf_hub", "")
    repo, _, file = entry.rpartition("/")
    return (repo, file or HUB_SAFETENSORS) if repo else ("", "")


def common_entry(model: str) -> dict[str, Any]:
    """Preprocessing for a bare checkpoint of `model`: what all its published weights share, or open_clip's default."""
    import_open_clip()
    from open_clip import pretrained
    from open_clip.transform import PreprocessCfg

    keys = ("mean", "std", "interpolation", "resize_mode")
    default = {key: getattr(PreprocessCfg(), key) for key in keys}
    tags = pretrained.list_pretrained_tags_by_model(model)
    found = [{key: pretrained.get_pretrained_cfg(model, tag).get(key, default[key]) for key in keys} for tag in tags]
    return found[0] if found and all(one == found[0] for one in found) else default


def square(size: Any) -> int:
    """The side in pixels of open_clip's image_size, which is a number or [height, width] of a square."""
    return int(size[0] if isinstance(size, (tuple, list)) else size)
