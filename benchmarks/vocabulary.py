"""The table of docs/students.md: vocabularies cut to captions. python benchmarks/vocabulary.py FLICKR8K.parquet [CAPTIONS]

Reads the captions of a Parquet file (a column "captions" of lists) and cuts CLIP's byte pairs and MiniLM's word pieces to them.
"""

import platform
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from students.spec import STUDENTS
from students.student import hugging_face_tokenizer
from students.vocabularies.byte_pairs import cut_byte_pairs
from students.vocabularies.cut import Cut
from students.vocabularies.cut_pieces import cut_word_pieces

SIZES = (None, 8000, 4000, 2500)


def row(name: str, tokens: int, width: int, fertility: float, unchanged: float) -> str:
    """One line of the table."""
    return f"| {name} | {tokens * width / 1e6:.2f} (width {width}) | {fertility:.3f} | {unchanged:.1%} |"


def main() -> None:
    """Entry point."""
    column = pq.read_table(sys.argv[1], columns=["captions"]).column("captions")
    captions = [caption for each in column.to_pylist() for caption in each]
    captions = captions[: int(sys.argv[2]) if len(sys.argv) > 2 else None]
    print(f"{len(captions)} captions; {platform.processor() or platform.machine()}, {datetime.now(UTC):%Y-%m-%d}")
    tokenizer: Any = hugging_face_tokenizer(STUDENTS.get("timm:resnet18+hf:bert-3x384"))
    print("| tokens | parameters, M | tokens a word | captions that read as before |\n|---|---:|---:|---:|")
    for kind, width in (("byte pairs", 512), ("word pieces", 384)):
        for size in SIZES:
            with tempfile.TemporaryDirectory() as folder:
                cut: Cut
                if kind == "byte pairs":
                    cut = cut_byte_pairs(captions, size, Path(folder))
                else:
                    cut = cut_word_pieces(tokenizer.tokenizer, captions, size, Path(folder))
            if size is None:
                print(row(f"{kind}, all {cut.tokens_before:,}", cut.tokens_before, width, cut.fertility_before, 1.0))
            name = f"{cut.tokens_after:,}{'' if size else ' (auto)'}"
            print(row(name, cut.tokens_after, width, cut.fertility_after, cut.captions_unchanged))


if __name__ == "__main__":
    main()
