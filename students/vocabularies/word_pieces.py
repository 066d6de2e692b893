"""Hugging Face tokenizers of a user's own: from a vocab.txt or a tokenizer.json alone to what transformers loads.

Left out: the reading of whole repositories (`distill.core.clip.tokenizer`).
"""

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill.core.clip.folder import TOKENIZER_FILE
from distill.core.errors import UsageError

VOCABULARY_FILE, OPTIONS_FILE = "vocab.txt", "tokenizer_config.json"
MARKERS = {
    "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]",
}  # fmt: skip


@contextlib.contextmanager
def readable_folder(place: Path) -> Iterator[Path]:
    """A folder that transformers reads as a tokenizer, there while the context lasts.

    Args:
        place: such a folder; or a tokenizer.json; or BERT's vocab.txt, a piece a line; or a folder with one of the two.

    Raises UsageError where nothing is there, or it is none of these.
    """
    if not place.exists():
        raise UsageError(
            f"There is no tokenizer {str(place)!r}. Name a tokenizer.json, a vocab.txt or a folder with one."
        )
    inside = [place / TOKENIZER_FILE, place / VOCABULARY_FILE] if place.is_dir() else [place]
    file = next((file for file in inside if file.is_file()), None)
    if file is None:
        raise UsageError(f"{str(place)!r} holds no {TOKENIZER_FILE} and no {VOCABULARY_FILE}. Name such a file.")
    if file.name == TOKENIZER_FILE and (file.parent / OPTIONS_FILE).is_file():
        yield file.parent
        return
    with tempfile.TemporaryDirectory(prefix="distill-tokenizer-") as scratch:
        folder = Path(scratch)
        if file.suffix == ".json":
            _check(_pieces(file), file)
            shutil.copyfile(file, folder / TOKENIZER_FILE)
        else:
            bert_tokenizer(_lines(file), file).save(str(folder / TOKENIZER_FILE))
        options = {"tokenizer_class": "PreTrainedTokenizerFast", **MARKERS}
        (folder / OPTIONS_FILE).write_text(json.dumps(options), encoding="utf-8")
        yield folder


def bert_tokenizer(pieces: list[str], where: Path, *, lower_case: bool = True) -> Any:
    """BERT's tokenizer (Devlin et al., 2019) over a vocabulary, a tokenizers.Tokenizer.

    Args:
        pieces: in the order of their ids.
        where: they come from, for messages.
        lower_case: as the "uncased" BERTs, which also strip accents.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    _check(pieces, where)
    ids = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token=MARKERS["unk_token"], max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower_case)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    start, end = MARKERS["cls_token"], MARKERS["sep_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, ids[start]), (end, ids[end])]
    )
    return tokenizer


def name_of(tokenizer: Any) -> str:
    """A name for the vocabulary of transformers' tokenizer: equal names, equal pieces under equal ids."""
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return f"pieces-{hashlib.sha256(json.dumps(pieces).encode()).hexdigest()[:16]}"


def _lines(file: Path) -> list[str]:
    try:
        pieces = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{str(file)!r} cannot be read as a list of word pieces: {error}.") from None
    return pieces[:-1] if pieces[-1] == "" else pieces


def _pieces(file: Path) -> list[str]:
    try:
        model = json.loads(file.read_text(encoding="utf-8"))["model"]
        return [str(piece) for piece in model["vocab"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{str(file)!r} is no {TOKENIZER_FILE} of the tokenizers package: {error!r}.") from None


def _check(pieces: list[str], where: Path) -> None:
    missing = [marker for name, marker in MARKERS.items() if marker not in pieces and name != "mask_token"]
    if missing:
        raise UsageError(f"{str(where)!r} is no vocabulary of a BERT: it lacks {', '.join(missing)}.")
    twice = {piece for piece in pieces if pieces.count(piece) > 1} if len(set(pieces)) < len(pieces) else set()
    if twice:
        raise UsageError(f"{str(where)!r} has {sorted(twice)[0]!r} twice.")
