"""The folder of aligned heads over frozen towers, as `teachers.towers.heads` writes it: file names, and the facts in it.

Importable without torch. Left out: the heads themselves.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from distill.core import atomic
from distill.core.errors import DistillError
from teachers.spec import TEACHERS, TeacherSpec

HEADS_FILE = "heads.safetensors"
INFO_FILE = "teacher.json"
FORMAT = 1


def is_towers_folder(path: Path) -> bool:
    """Whether `path` holds aligned heads."""
    return (path / HEADS_FILE).is_file()


def read_heads_info(path: Path) -> dict[str, Any]:
    """teacher.json of the folder `path`. Raises DistillError when it is missing, damaged or of another version."""
    try:
        manifest = atomic.read_json(path / INFO_FILE)
        complete = manifest["format"] == FORMAT and {"heads", "info", "heads_sha256"} <= manifest.keys()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DistillError(
            f"{path / INFO_FILE} cannot be read ({error!r}). The folder must be one that `distill train --recipe "
            "sail-lite0-minilm` wrote."
        ) from None
    if not complete:
        raise DistillError(f"{path / INFO_FILE} is of another version ({manifest.get('format')!r}). Train it again.")
    return dict(manifest)


def towers_spec(path: Path) -> TeacherSpec:
    """The facts in the folder `path`; loads no weights. Raises what `read_heads_info` raises."""
    manifest = read_heads_info(path)
    info = manifest["info"]
    known = TEACHERS.get("sail-lite0-minilm")
    return replace(
        known,
        name=str(info.get("name", known.name)),
        source=str(path),
        width=int(manifest["heads"].get("width", known.width)),
        licence=str(info.get("licence", known.licence)),
        commercial=bool(info.get("commercial", False)),  # the heads carry the terms of the pairs they learnt from
    )
