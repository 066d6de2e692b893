"""An exported folder as its user reads it: captions to tokens, from the folder's own files and record alone.

Left out: photos to pixels (`distill.evaluation.evalset.pixels`, by the words of the record), running the towers.
"""

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

    Raises DistillError for a folder from before exports had such a block.
    """
    if not block:
        raise DistillError(
            f"{str(folder)!r} says nothing of its tokenizer: it was made by an older version. Export again."
        )
    import_open_clip()
    from open_clip.tokenizer import SimpleTokenizer, get_clean_fn

    cleaning = next(name for name, steps in CLEANING.items() if steps == block["cleaning"]).removeprefix("_clean_")
    length = int(block["context_length"])
    if block["kind"] == "clip-bpe":
        pairs = SimpleTokenizer(str(folder / block["files"]["open_clip"]), context_length=length, clean=cleaning)
        return lambda captions: np.asarray(pairs(captions), dtype=np.int32)
    from tokenizers import Tokenizer

    clean, whole = get_clean_fn(cleaning), Tokenizer.from_file(str(folder / block["files"]["tokenizers"]))
    return lambda captions: np.asarray(
        [row.ids for row in whole.encode_batch([clean(caption) for caption in captions])], dtype=np.int32
    )
