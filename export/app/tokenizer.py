"""The tokenizer of an exported text tower as files that a phone can read, and what they leave unsaid, in words.

CLIP's byte-pair tokenizer is written as vocab.json and merges.txt (two files that Swift, Kotlin and JavaScript readers of
CLIP's tokenizer take), as tokenizer.json (the `tokenizers` library's own form, which Rust, Swift and JavaScript read), and as
the gzip file that open_clip reads. Tokenizers of Hugging Face are written as tokenizer.json. Left out: tokenizing.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from distill.core.clip.folder import MERGES_FILE
from distill.core.errors import DistillError

VOCABULARY, MERGES, TOKENIZERS = "vocab.json", "merges.txt", "tokenizer.json"
END_OF_WORD = "</w>"
# What splits a cleaned text into words, for engines with Unicode classes.
PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

MEND = (
    "mend wrongly decoded text and bring it to Unicode form NFC, as Python's ftfy.fix_text does (plain text: NFC alone)"
)
ENTITIES = "replace HTML entities (&amp; becomes &), twice"
SPACES = "make every run of white space one space, none at either end"
LOWER = "make it lower case"
UNDERSCORES = "replace underscores by spaces, drop ASCII punctuation"
# By the name of open_clip's cleaning function.
CLEANING = {
    "_clean_lower": [MEND, ENTITIES, SPACES, LOWER],
    "_clean_whitespace": [MEND, ENTITIES, SPACES],
    "_clean_canonicalize": [MEND, ENTITIES, UNDERSCORES, LOWER, SPACES],
}


def write_tokenizer(tokenizer: Any, context_length: int, merges: Path | None, folder: Path) -> dict[str, Any]:
    """Write the tokenizer's files into `folder`.

    Args:
        tokenizer: one of open_clip's.
        context_length: L, the ids of a row.
        merges: the gzip file that the tokenizer was read from; None = CLIP's own, which open_clip brings.

    Returns:
        The block "tokenizer" of an artifact.

    Raises:
        DistillError: a tokenizer that is neither CLIP's byte-pair one nor one of Hugging Face with a fast form.
    """
    cleaning = CLEANING.get(getattr(tokenizer.clean_fn, "__name__", "")) if hasattr(tokenizer, "clean_fn") else None
    if hasattr(tokenizer, "bpe_ranks"):
        block = _write_byte_pairs(tokenizer, context_length, merges, folder)
    elif hasattr(getattr(tokenizer, "tokenizer", None), "backend_tokenizer"):
        block = _write_hugging_face(tokenizer, context_length, folder)
        cleaning = cleaning or CLEANING["_clean_canonicalize"]  # of open_clip's SigLipTokenizer, which has no choice
    else:
        raise DistillError(
            f"The tokenizer {type(tokenizer).__name__} of this model has no form that an app can read. Choose a model with "
            "CLIP's tokenizer or a fast one of Hugging Face."
        )
    if cleaning is None:
        raise DistillError(f"How {type(tokenizer).__name__} cleans a text is not known. Please report this model.")
    return {
        **block,
        "context_length": context_length,
        "lower_case": LOWER in cleaning,
        "cleaning": cleaning,
        "truncation": (
            f"a row longer than {context_length} keeps its first {context_length - 1} ids, and ends with the end id"
        ),
        "padding": f"on the right, with the padding id, to {context_length} ids",
        "dtype": "int32",
    }


def _write_byte_pairs(tokenizer: Any, context_length: int, merges: Path | None, folder: Path) -> dict[str, Any]:
    from open_clip.tokenizer import default_bpe

    source = Path(default_bpe() if merges is None else merges)
    shutil.copyfile(source, folder / MERGES_FILE)
    encoder = {str(piece): int(index) for piece, index in tokenizer.encoder.items()}
    # Some first lines name the file that they come from; readers look for "#version".
    pairs = [" ".join(pair) for pair in sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.get) if len(pair) == 2]
    _write_json(folder / VOCABULARY, encoder)
    (folder / MERGES).write_text("\n".join(["#version: 0.2", *pairs]) + "\n", encoding="utf-8")
    names = {index: piece for piece, index in encoder.items()}
    start, end = int(tokenizer.sot_token_id), int(tokenizer.eot_token_id)
    special = [names[index] for index in sorted(tokenizer.all_special_ids)]
    _write_json(folder / TOKENIZERS, _tokenizers_form(encoder, pairs, names, special, (start, end), context_length))
    return {
        "kind": "clip-bpe",
        "files": {
            "vocabulary": VOCABULARY, "merges": MERGES, "tokenizers": TOKENIZERS, "open_clip": MERGES_FILE,
        },
        "start_id": start,
        "end_id": end,
        "padding_id": 0,
        "vocabulary_size": len(encoder),
        "words": {
            "pattern": "|".join([*special, PATTERN]),
            "flags": "ignore case, Unicode",
            "bytes": "each UTF-8 byte of a word is one character, by GPT-2's table of printable characters",
            "end_of_word": END_OF_WORD,
            "special": special,
        },
    }  # fmt: skip


def _tokenizers_form(
    encoder: dict[str, int],
    pairs: list[str],
    names: dict[int, str],
    special: list[str],
    ends: tuple[int, int],
    context_length: int,
) -> dict[str, Any]:
    """What the library `tokenizers` reads: cleaning (but for mended text and HTML entities), words, pairs, row."""
    start, end = ({"id": names[index], "type_id": 0} for index in ends)
    return {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": context_length, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": context_length}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
            "pad_type_id": 0, "pad_token": names[0],
        },
        "added_tokens": [
            {
                "id": encoder[piece], "content": piece, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": True, "special": False,  # looked for in the cleaned text, in any case of letters
            }
            for piece in special
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "NFC"},
                {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                {"type": "Strip", "strip_left": True, "strip_right": True},
                {"type": "Lowercase"},
            ],
        },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Removed", "invert": True},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": start}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": end}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                names[index]: {"id": names[index], "ids": [index], "tokens": [names[index]]} for index in ends
            },
        },
        "decoder": {"type": "BPEDecoder", "suffix": END_OF_WORD},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
            "end_of_word_suffix": END_OF_WORD, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": encoder, "merges": pairs,
        },
    }  # fmt: skip


def _write_hugging_face(tokenizer: Any, context_length: int, folder: Path) -> dict[str, Any]:
    inner = tokenizer.tokenizer
    if getattr(tokenizer, "strip_sep_token", False) or getattr(tokenizer, "tokenizer_mode", ""):
        raise DistillError(
            "This model's tokenizer changes its rows after the Hugging Face tokenizer has made them (strip_sep_token or "
            "tokenizer_mode), which no file for an app can say. Choose a model without these settings."
        )
    form = json.loads(inner.backend_tokenizer.to_str())  # with what the last call left set: the row is said anew
    form["truncation"] = {"direction": "Right", "max_length": context_length, "strategy": "LongestFirst", "stride": 0}
    form["padding"] = {
        "strategy": {"Fixed": context_length}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": inner.pad_token_id, "pad_type_id": 0, "pad_token": inner.pad_token,
    }  # fmt: skip
    _write_json(folder / TOKENIZERS, form)
    start = inner.bos_token_id if inner.bos_token_id is not None else inner.cls_token_id
    end = inner.eos_token_id if inner.eos_token_id is not None else inner.sep_token_id
    return {
        "kind": "tokenizers",
        "files": {"tokenizers": TOKENIZERS},
        "start_id": start,
        "end_id": end,
        "padding_id": inner.pad_token_id,
        "vocabulary_size": len(inner),
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
