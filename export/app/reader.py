"""An exported folder as its user reads it: captions to tokens, from the folder's own files and record alone.

Left out: photos to pixels (`distill.evaluation.evalset.pixels`, by the words of the record), running the towers.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from distill.core.arrays import Array
from distill.core.clip.model import import_open_clip
from distill.core.errors import DistillError
from export.app.tokenizer import CLEANING


def tokenizer_of(folder: Path, block: dict[str, Any]) -> Callable[[list[str]], Array]:
    """b captions -> int32 [b, L], by the files of an exported folder and the block "tokenizer" of its record.

    Raises DistillError for a folder whose block is not as exports have it now.
    """
    rules = [rule.get("rule") if isinstance(rule, dict) else rule for rule in block.get("cleaning", [])]
    named = [name for name, known in CLEANING.items() if known == rules]
    if not named:
        raise DistillError(
            f"{str(folder)!r} says nothing of its tokenizer that can be read here: it was made by an older version, or by "
            "other hands. Export again."
        )
    import_open_clip()
    from open_clip.tokenizer import SimpleTokenizer, get_clean_fn

    cleaning = named[0].removeprefix("_clean_")
    length = int(block["context_length"])
    if block["kind"] == "clip-bpe":
        pairs = SimpleTokenizer(str(folder / block["files"]["open_clip"]), context_length=length, clean=cleaning)
        return lambda captions: np.asarray(pairs(captions), dtype=np.int32)
    from tokenizers import Tokenizer

    clean, whole = get_clean_fn(cleaning), Tokenizer.from_file(str(folder / block["files"]["tokenizers"]))

    def rows(captions: list[str]) -> Array:
        ids = [row.ids for row in whole.encode_batch([clean(caption) for caption in captions])]
        return np.asarray([_finished(row, block["after"]) for row in ids], dtype=np.int32)

    return rows


def _finished(ids: list[int], steps: list[str]) -> list[int]:
    """A row of ids after the steps that tokenizer.json cannot do, in the words of `export.app.tokenizer`."""
    for step in steps:
        first, *others = map(int, re.findall(r"\d+", step))
        if step.startswith("replace"):
            ids = [others[0] if i == first else i for i in ids]
        elif step.startswith("fill up"):
            ids = [*ids, *[first] * (others[0] - len(ids))]
        elif others:  # put one before and one behind
            ids = [first, *ids, *others]
        else:  # put one behind
            ids = [*ids, first]
    return ids
