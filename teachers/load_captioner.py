"""From a name to a captioner: `resolve_captioner` finds the facts, `load_captioner` builds the model.

A name is a registered one ("coca-vitl14"), "coca:MODEL/TAG", "coca:MODEL@CHECKPOINT", "hf:NAME_OR_PATH", the user's own
"python:MODULE:FUNCTION" or "command:COMMAND LINE", or the path of a CoCa folder made by `distill train`. Left out: when
captioners are called and what becomes of the captions (reinforced_data).
"""

from pathlib import Path

from distill.core.errors import UsageError, nearest
from teachers.captioner import CAPTIONER_SPECS, CAPTIONERS, Captioner, CaptionerSpec, CaptionSettings
from teachers.spec import absolute_path


def resolve_captioner(name: str) -> CaptionerSpec:
    """The facts of the captioner called `name`, without building it or reading weights; never reaches the network.

    Raises:
        UsageError: nothing is called so; the message names the nearest names.
        DistillError: the path exists but its files are unreadable.
    """
    if name in CAPTIONER_SPECS:
        return CAPTIONER_SPECS.get(name)
    for key, loader in CAPTIONERS.items():
        if loader.spec_of_name is not None and name.startswith(f"{key}:"):
            return loader.spec_of_name(name, name[len(key) + 1 :])
    path = Path(name).expanduser()
    if name and path.is_dir():
        return _folder(name, path)
    missing = f" There is no folder {str(path)!r} either." if "/" in name or "\\" in name else ""
    forms = [form for _, loader in CAPTIONERS.items() for form in loader.forms]
    raise UsageError(
        f"Unknown captioner {name!r}.{missing} {nearest(name, CAPTIONER_SPECS)} Also accepted: {', '.join(forms)}, or the "
        "path of a CoCa folder made by distill train. `distill list captioners` shows all."
    )


def absolute_captioner(name: str) -> str:
    """The same captioner by a name that means it from every working folder: paths absolute, "~" replaced, names as they are."""
    if name in CAPTIONER_SPECS:
        return name
    for key, loader in CAPTIONERS.items():
        if loader.spec_of_name is not None and name.startswith(f"{key}:"):
            return f"{key}:{loader.absolute(name[len(key) + 1 :])}"
    return absolute_path(name)


def load_captioner(
    name: str | CaptionerSpec,
    settings: CaptionSettings | None = None,
    *,
    random_weights: bool = False,
    seed: int = 0,
) -> Captioner:
    """The captioner, frozen, on the CPU.

    Args:
        name: see the module; or a spec from `resolve_captioner`.
        settings: how it decodes; None = the defaults.
        random_weights: a rehearsal: the full-size architecture with random weights, no download of any kind.
        seed: of the random weights.

    Raises:
        UsageError: unknown name, or settings that do not go together.
        DistillError: weights, tokenizer or packages are missing, or the files do not fit.
    """
    spec = resolve_captioner(name) if isinstance(name, str) else name
    checked = (settings or CaptionSettings()).checked()  # before any weights are read
    return CAPTIONERS.get(spec.loader).load(spec, checked, random_weights, seed)


def _folder(name: str, path: Path) -> CaptionerSpec:
    for _, loader in CAPTIONERS.items():
        spec = loader.spec_of_folder(name, path) if loader.spec_of_folder is not None else None
        if spec is not None:
            return spec
    raise UsageError(
        f"The folder {str(path)!r} is no captioner: it holds no model with a caption decoder. Give the student/ folder "
        "of a run whose student is a CoCa (coca-vitl14, say), or hf:PATH for a folder of transformers."
    )
