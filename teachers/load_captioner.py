"""From a name to a captioner: `resolve_captioner` finds the facts, `load_captioner` builds the model.

A name is a registered one ("coca-vitl14"), "coca:MODEL/TAG", "coca:MODEL@CHECKPOINT", "hf:NAME_OR_PATH", the user's own
"python:MODULE:FUNCTION" or "command:COMMAND LINE", or the path of a CoCa folder made by `distill train`. Left out: when
captioners are called and what becomes of the captions (reinforced_data).
"""

from pathlib import Path
from typing import TYPE_CHECKING

from distill.core.errors import UsageError, nearest
from teachers.captioner import CAPTIONER_SPECS, CAPTIONERS, CaptionerSpec, Decode

if TYPE_CHECKING:
    from teachers.captioner import Captioner

FORMS = (
    "coca:MODEL/TAG, coca:MODEL@CHECKPOINT, hf:NAME_OR_PATH, python:MODULE:FUNCTION, command:COMMAND, or the path of a "
    "CoCa folder made by distill train"
)


def resolve_captioner(name: str) -> CaptionerSpec:
    """The facts of the captioner called `name`, without building it or reading weights; never reaches the network.

    Raises:
        UsageError: nothing is called so; the message names the nearest names.
        DistillError: the path exists but its files are unreadable.
    """
    if name in CAPTIONER_SPECS:
        return CAPTIONER_SPECS.get(name)
    kind, colon, source = name.partition(":")
    if colon and kind in ("coca", "hf", "python", "command"):
        return _by_prefix(name, kind, source)
    path = Path(name).expanduser()
    if name and path.is_dir():
        from teachers.captioners.coca import folder_captioner_spec, is_coca_folder

        if is_coca_folder(path):
            return folder_captioner_spec(name, path)
        raise UsageError(
            f"The folder {str(path)!r} is no captioner: it holds no model with a caption decoder. Give the student/ folder "
            "of a run whose student is a CoCa (coca-vitl14, say), or hf:PATH for a folder of transformers."
        )
    missing = f" There is no folder {str(path)!r} either." if "/" in name or "\\" in name else ""
    raise UsageError(
        f"Unknown captioner {name!r}.{missing} {nearest(name, CAPTIONER_SPECS)} Also accepted: {FORMS}. "
        "`distill list captioners` shows all."
    )


def load_captioner(
    name: str | CaptionerSpec, decode: Decode | None = None, *, random_weights: bool = False, seed: int = 0
) -> "Captioner":
    """The captioner, frozen, on the CPU.

    Args:
        name: see the module; or a spec from `resolve_captioner`.
        decode: None = the defaults of `Decode`.
        random_weights: a rehearsal: the full-size architecture with random weights, no download of any kind.
        seed: of the random weights.

    Raises:
        UsageError: unknown name, or decode values that make no sense.
        DistillError: weights, tokenizer or packages are missing, or the files do not fit.
    """
    from teachers.captioners.parts.decoding import checked_decode

    spec = resolve_captioner(name) if isinstance(name, str) else name
    checked = checked_decode(decode or Decode())  # before any weights are read
    built: Captioner = CAPTIONERS.get(spec.loader)(spec, checked, random_weights, seed)
    return built


def _by_prefix(name: str, kind: str, source: str) -> CaptionerSpec:
    if kind == "coca":
        from teachers.captioners.coca import coca_spec

        return coca_spec(name, source)
    if kind == "hf":
        from teachers.captioners.hf import hf_spec

        return hf_spec(name, source)
    from teachers.captioners.own import command_spec, python_spec

    return python_spec(name, source) if kind == "python" else command_spec(name, source)
