"""Tars for the tests, written with the standard library: ordinary ones, ones in Apple's layout, and hostile ones."""

import gzip
import io
import json
import tarfile

import numpy as np
import torch


def add(tar, name, data, **facts):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in facts.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(data))


def make_tar(path, members, **options):
    """`members`: (name, bytes) pairs, in order; a name may occur twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members:
            add(tar, name, data if isinstance(data, bytes) else data.encode())
    return path


def unit_rows(rng, rows, widths):
    """[rows, sum of widths] float32: per teacher rows of unit length, side by side as published."""
    parts = [rng.standard_normal((rows, width)) for width in widths]
    return np.concatenate([part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts], 1).astype(np.float32)


def npz(arrays, **options):
    stream = io.BytesIO()
    np.savez(stream, **arrays, **options)
    return stream.getvalue()


def pth_gz(arrays):
    stream = io.BytesIO()
    torch.save({name: torch.from_numpy(value).to(torch.bfloat16) for name, value in arrays.items()}, stream)
    return gzip.compress(stream.getvalue(), 1)


def published_members(uid, arrays, views, synthetic, *, kind="npz", sha256=None, image=None, text=None, quoted=False):
    """The members of one uid as the data cards describe them; `quoted`: param_aug is a JSON string, as on the hub."""
    told = {"uid": uid, **({"sha256": sha256} if sha256 else {})}
    found = [
        (f"{uid}.url.txt", f"https://example.org/{uid}.jpg"),
        (f"{uid}.syn.json", json.dumps(synthetic)),
        (f"{uid}.paug.json", json.dumps({"param_aug": json.dumps(views) if quoted else views})),
        (f"{uid}.{kind}", npz(arrays) if kind == "npz" else pth_gz(arrays)),
        (f"{uid}.json", json.dumps(told)),
    ]
    found += [(f"{uid}.jpg", image)] if image else []
    return found + ([(f"{uid}.txt", text)] if text else [])
