"""Embeddings from files that others published: .npz, and .pth.gz (a gzipped torch file). Nothing here runs a pickle.

Such files come from the network, so sizes are checked before anything is unpacked, and whatever is wrong with one is one
`BadRecordError` with the reason. Left out: torch files from before 1.6, which are bare pickles.
"""

import io
import re
import zipfile
import zlib

import numpy as np

from distill.core.arrays import Array
from distill.core.errors import DistillError

MAX_EMBED_BYTES = 64 << 20  # unpacked, of one sample; the largest published ones have 0.3 MB


class BadRecordError(DistillError):
    """One published record cannot be used; `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"A published record cannot be used: {reason}.")
        self.reason = reason


def load_npz(data: bytes) -> dict[str, Array]:
    """The two-dimensional float arrays of an .npz: name -> [n, D] float32. Raises BadRecordError."""
    _check_zip(data, "npz")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except Exception as error:  # damaged zips and headers raise a dozen types; each costs one sample, not a run
        raise BadRecordError(f"its npz does not load ({_words(error)})") from error
    return {name: _checked(name, value) for name, value in found.items() if name.endswith("_emb")}


def load_pth_gz(data: bytes) -> dict[str, Array]:
    """The same of a gzipped `torch.save` of a dict of tensors (bf16, fp16 or fp32). Raises BadRecordError."""
    import torch

    plain = _gunzip(data)
    _check_zip(plain, "pth.gz")
    try:
        loaded = torch.load(io.BytesIO(plain), map_location="cpu", weights_only=True)
    except Exception as error:  # as in load_npz; what is no tensor is refused by weights_only
        raise BadRecordError(f"its pth.gz does not load ({_words(error)})") from error
    if not isinstance(loaded, dict):
        raise BadRecordError("its pth.gz holds no dict")
    floats = (torch.bfloat16, torch.float16, torch.float32)
    found = {}
    for name, value in loaded.items():
        if not isinstance(name, str) or not name.endswith("_emb"):
            continue
        if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.device.type != "cpu":
            raise BadRecordError(f"{name} is no plain tensor")
        if value.dtype not in floats or value.numel() * 4 > MAX_EMBED_BYTES:
            raise BadRecordError(f"{name} has type {value.dtype} and {value.numel()} numbers")
        found[name] = _checked(name, value.detach().float().numpy())
    return found


def _gunzip(data: bytes) -> bytes:
    unpack = zlib.decompressobj(31)  # 31: gzip
    try:
        plain = unpack.decompress(data, MAX_EMBED_BYTES + 1)
    except zlib.error as error:
        raise BadRecordError(f"its pth.gz is no gzip ({error})") from error
    if len(plain) > MAX_EMBED_BYTES:
        raise BadRecordError(f"its pth.gz unpacks to more than {MAX_EMBED_BYTES >> 20} MiB")
    if not unpack.eof:
        raise BadRecordError("its pth.gz is cut short")
    return plain


def _check_zip(data: bytes, what: str) -> None:
    """Raise BadRecordError when `data` is no zip, or would unpack to more than it may."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(item.file_size for item in archive.infolist())
    except Exception as error:  # see load_npz
        raise BadRecordError(f"its {what} is damaged or of another format ({_words(error)})") from error
    if size > MAX_EMBED_BYTES:
        raise BadRecordError(f"its {what} unpacks to more than {MAX_EMBED_BYTES >> 20} MiB")


def _checked(name: str, value: Array) -> Array:
    """`value` as [n, D] float32. Raises BadRecordError when it is something else, or not finite."""
    if value.dtype.kind != "f" or value.ndim != 2:
        raise BadRecordError(f"{name} is {value.dtype} of shape {list(value.shape)}, where rows of floats belong")
    if not np.isfinite(value).all():
        raise BadRecordError(f"{name} has numbers that are not finite")
    return np.ascontiguousarray(value, np.float32)


def _words(error: Exception) -> str:
    text = re.sub(r"<[^>]*>|0x[0-9a-fA-F]+", "", " ".join(str(error).split()))  # no addresses: reasons are compared
    return f"{type(error).__name__}: {text[:120]}"
