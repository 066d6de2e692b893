"""The tokenizer that belongs to an open_clip configuration: CLIP's byte pairs, or a Hugging Face tokenizer by name.

Importable without torch and open_clip: the functions import them. Left out: cutting vocabularies (`students.tokenizer`).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.core.clip.model import import_open_clip
from distill.core.errors import DistillError
from distill.core.folders.hub import find_weights
from distill.core.packages.files import packaged_repository

if TYPE_CHECKING:
    from torch import Tensor


# CLIP's two markers as transformers calls them -> as open_clip does.
MARKERS = {"<|startoftext|>": "<start_of_text>", "<|endoftext|>": "<end_of_text>"}


def tokenizer_of(
    model_cfg: dict[str, Any], *, stand_in: bool, what: str = "", folder: Path | None = None
) -> tuple[Any, str]:
    """(tokenizer, its name): open_clip's BPE, or the Hugging Face tokenizer that the configuration names.

    The latter is read from `folder` if it holds one, else from an installed package that does, else found by `core.folders.hub`.

    With `stand_in`, a Hugging Face tokenizer is replaced by bytes of the right length and vocabulary (rehearsals).
    """
    import_open_clip()
    from open_clip.tokenizer import SimpleTokenizer

    text = model_cfg["text_cfg"]
    length = int(text.get("context_length", 77))
    options = dict(text.get("tokenizer_kwargs", {}))
    hub_name = text.get("hf_tokenizer_name", "")
    if not hub_name:
        return SimpleTokenizer(context_length=length, **options), "open_clip SimpleTokenizer (CLIP BPE)"
    if stand_in:
        vocabulary = int(text.get("vocab_size", 49408))
        return ByteTokenizer(length, vocabulary), f"stand-in bytes, not {hub_name} (rehearsal)"
    return _hub_tokenizer(hub_name, length, options, text.get("tokenizer_mode"), what, folder), hub_name


def _hub_tokenizer(
    name: str, length: int, options: dict[str, Any], mode: str | None, what: str, folder: Path | None
) -> Any:
    try:
        import transformers  # noqa: F401  open_clip's tokenizer needs it, and says so less clearly
    except ImportError:
        raise DistillError(
            f"{what} needs the package transformers: pip install transformers (or pip install 'distill-edge[sail]')."
        ) from None
    from open_clip.tokenizer import HFTokenizer

    if folder is None or not (folder / "tokenizer.json").is_file():
        folder = packaged_repository(name)
    if folder is None:
        folder = find_weights(name, "tokenizer.json", what=what).parent
        config = find_weights(name, "tokenizer_config.json", what=what)
        if config.parent != folder:
            raise DistillError(
                f"Cannot load {what}: tokenizer.json was found in {folder}, tokenizer_config.json in {config.parent}. "
                "Put both into one folder."
            )
    return HFTokenizer(str(folder), context_length=length, tokenizer_mode=mode, **options)


def token_texts(tokenizer: Any) -> list[str] | None:
    """A tokenizer's tokens as text, by id: of open_clip's BPE and of Hugging Face tokenizers; None of other kinds."""
    table = getattr(tokenizer, "encoder", None)
    if not isinstance(table, dict):
        inner: Any = getattr(tokenizer, "tokenizer", None)
        if not hasattr(inner, "get_vocab"):
            return None
        table = inner.get_vocab()
    texts = [""] * (max(table.values()) + 1)
    for text, index in table.items():
        texts[index] = MARKERS.get(text, text)
    return texts


class ByteTokenizer:
    """UTF-8 bytes as tokens, cut or padded with 0 to `context_length`: for rehearsals only."""

    def __init__(self, context_length: int, vocab_size: int) -> None:
        self.context_length = context_length
        self.vocab_size = vocab_size

    def __call__(self, captions: list[str], context_length: int | None = None) -> "Tensor":
        """b captions -> LongTensor [b, L]."""
        import torch

        rows = torch.zeros(len(captions), context_length or self.context_length, dtype=torch.long)
        for row, caption in zip(rows, captions, strict=True):
            ids = [min(byte + 2, self.vocab_size - 1) for byte in caption.encode()[: len(row)]]
            row[: len(ids)] = torch.tensor(ids)
        return rows
