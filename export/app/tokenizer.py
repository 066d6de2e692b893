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

# What is done to a caption before it is split, by name and in words.
RULES = {
    "mend": "mend wrongly decoded text, bring it to Unicode form NFC: Python's ftfy.fix_text (for plain text NFC alone)",
    "entities": "replace HTML entities (&amp; becomes &), twice",
    "underscores": "replace underscores by spaces",
    "punctuation": "drop ASCII punctuation",
    "lower": "make it lower case",
    "spaces": "make every run of white space one space, none at either end",
}
# By the name of open_clip's cleaning function.
CLEANING = {
    "_clean_lower": ["mend", "entities", "spaces", "lower"],
    "_clean_whitespace": ["mend", "entities", "spaces"],
    "_clean_canonicalize": ["mend", "entities", "underscores", "punctuation", "lower", "spaces"],
}
# The same for the library `tokenizers`, which has neither ftfy nor entities.
NORMALIZERS: dict[str, list[dict[str, Any]]] = {
    "mend": [{"type": "NFC"}],
    "entities": [],
    "underscores": [{"type": "Replace", "pattern": {"String": "_"}, "content": " "}],
    "punctuation": [{"type": "Replace", "pattern": {"Regex": r"[!-/:-@\[-`{-~]"}, "content": ""}],
    "lower": [{"type": "Lowercase"}],
    "spaces": [
        {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
        {"type": "Strip", "strip_left": True, "strip_right": True},
    ],
}


def write_tokenizer(tokenizer: Any, context_length: int, merges: Path | None, folder: Path) -> dict[str, Any]:
    """Write the tokenizer's files into `folder`.

    Args:
        tokenizer: one of open_clip's.
        context_length: L, the ids of a row.
        merges: the gzip file that the tokenizer was read from; None = CLIP's own, which open_clip brings.

    Returns:
        The block "tokenizer" of an artifact. Its "after" is what remains to be done to the ids of tokenizer.json.

    Raises:
        DistillError: a tokenizer that is neither CLIP's byte-pair one nor one of Hugging Face with a fast form.
    """
    # open_clip's SigLipTokenizer has no choice of cleaning, and this one.
    name = getattr(getattr(tokenizer, "clean_fn", None), "__name__", "_clean_canonicalize")
    if name not in CLEANING:
        raise DistillError(f"How {type(tokenizer).__name__} cleans a text is not known. Please report this model.")
    if hasattr(tokenizer, "bpe_ranks"):
        block = _write_byte_pairs(tokenizer, context_length, CLEANING[name], merges, folder)
    elif hasattr(getattr(tokenizer, "tokenizer", None), "backend_tokenizer"):
        block = _write_hugging_face(tokenizer, context_length, folder)
    else:
        raise DistillError(
            f"The tokenizer {type(tokenizer).__name__} of this model has no form that an app can read. Choose a model with "
            "CLIP's tokenizer or a fast one of Hugging Face."
        )
    return {
        "context_length": context_length,
        "lower_case": "lower" in CLEANING[name],
        "cleaning": [{"rule": rule, "meaning": RULES[rule]} for rule in CLEANING[name]],
        "truncation": (
            f"a row longer than {context_length} keeps its first {context_length - 1} ids, and ends with the end id"
        ),
        "padding": f"on the right, with the padding id, to {context_length} ids",
        "dtype": "int32",
        "after": [],
        **block,
    }


def _write_byte_pairs(
    tokenizer: Any, context_length: int, cleaning: list[str], merges: Path | None, folder: Path
) -> dict[str, Any]:
    from open_clip.tokenizer import default_bpe

    source = Path(default_bpe() if merges is None else merges)
    shutil.copyfile(source, folder / MERGES_FILE)
    encoder = {str(piece): int(index) for piece, index in tokenizer.encoder.items()}
    # Some first lines name the file that they come from; readers look for "#version".
    pairs = [" ".join(pair) for pair in sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.get) if len(pair) == 2]
    _write_json(folder / VOCABULARY, encoder)
    (folder / MERGES).write_text("\n".join(["#version: 0.2", *pairs]) + "\n", encoding="utf-8")
    names = {index: piece for piece, index in encoder.items()}
    ends = int(tokenizer.sot_token_id), int(tokenizer.eot_token_id)
    special = [names[index] for index in sorted(tokenizer.all_special_ids)]
    _write_json(
        folder / TOKENIZERS,
        {
            "version": "1.0",
            **_row(context_length, 0, names[0]),
            **_words(encoder, special, cleaning),
            **_pieces(encoder, pairs, [names[index] for index in ends]),
        },
    )
    return {
        "kind": "clip-bpe",
        "files": {
            "vocabulary": VOCABULARY, "merges": MERGES, "tokenizers": TOKENIZERS, "open_clip": MERGES_FILE,
        },
        "start_id": ends[0],
        "end_id": ends[1],
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


def _row(length: int, padding_id: int, padding: str) -> dict[str, Any]:
    """How the library `tokenizers` makes rows of one length."""
    return {
        "truncation": {"direction": "Right", "max_length": length, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": length}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": padding_id,
            "pad_type_id": 0, "pad_token": padding,
        },
    }  # fmt: skip


def _words(encoder: dict[str, int], special: list[str], cleaning: list[str]) -> dict[str, Any]:
    """How the library `tokenizers` cleans a caption (mended text and HTML entities left out) and splits it into words."""
    pattern = PATTERN if "lower" in cleaning else f"(?i:{PATTERN})"
    return {
        "added_tokens": [
            {
                "id": encoder[piece], "content": piece, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": True, "special": False,  # looked for in the cleaned text, in any case of letters
            }
            for piece in (() if "punctuation" in cleaning else special)  # then none is left to be found
        ],
        "normalizer": {
            "type": "Sequence", "normalizers": [step for rule in cleaning for step in NORMALIZERS[rule]],
        },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": True},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
    }  # fmt: skip


def _pieces(encoder: dict[str, int], pairs: list[str], ends: list[str]) -> dict[str, Any]:
    """How the library `tokenizers` splits a word into pieces, and what it puts before and behind a caption."""
    start, end = ({"id": piece, "type_id": 0} for piece in ends)
    return {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": start}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": end}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                piece: {"id": piece, "ids": [encoder[piece]], "tokens": [piece]} for piece in ends
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
    start = inner.bos_token_id if inner.bos_token_id is not None else inner.cls_token_id
    end = inner.eos_token_id if inner.eos_token_id is not None else inner.sep_token_id
    form = json.loads(inner.backend_tokenizer.to_str())  # with what the last call left set: the row is said anew
    block: dict[str, Any] = {"after": []}
    if getattr(tokenizer, "tokenizer_mode", "") == "clips":
        form |= {"post_processor": None, "padding": None, "truncation": _row(context_length - 3, 0, "")["truncation"]}
        block = {
            "after": [
                f"put {start} before the ids and {end} behind them",
                f"fill up with {inner.pad_token_id} to {context_length - 1} ids",
                f"put {inner.cls_token_id} behind all of it",
            ],
            "truncation": f"a caption keeps its first {context_length - 3} ids",
            "padding": "before the last id, see after",
        }
    else:
        form |= _row(context_length, inner.pad_token_id, inner.pad_token)
        if getattr(tokenizer, "strip_sep_token", False):
            block["after"] = [f"replace {inner.sep_token_id} by 0"]
    _write_json(folder / TOKENIZERS, form)
    return {
        "kind": "tokenizers",
        "files": {"tokenizers": TOKENIZERS},
        "start_id": start,
        "end_id": end,
        "padding_id": inner.pad_token_id,
        "vocabulary_size": len(inner),
        **block,
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
