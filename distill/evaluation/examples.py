"""A few captions with the photos that a model finds for them: what a figure means, for people. Left out: choosing pretty ones."""

import io
from typing import Any

import numpy as np

from distill.core.arrays import Array
from reinforced_data.pixels.decode import decode_rgb

CAPTIONS, HITS = 6, 3
THUMBNAIL = 128  # pixels of the longer side


def example_searches(
    image: Array, text: Array, owner: Array, keys: list[str], captions: list[str]
) -> list[dict[str, Any]]:
    """Evenly spread captions, the same for every model: the nearest photos, and the rank of the caption's own.

    Args:
        image, text: [n, D], [m, D], unit length.
        owner: [m] index of each caption's image.
        keys: of the images.
        captions: m texts.
    """
    chosen = np.unique(np.linspace(0, len(captions) - 1, CAPTIONS).round().astype(int))
    found = []
    for index in chosen:
        cosines = image @ text[index]
        order = np.argsort(-cosines, kind="stable")
        found.append(
            {
                "caption": captions[index],
                "own": keys[int(owner[index])],
                "rank": int(np.flatnonzero(order == owner[index])[0]) + 1,
                "hits": [keys[int(hit)] for hit in order[:HITS]],
            }
        )
    return found


def thumbnail(data: bytes, key: str) -> bytes:
    """A photo as a small JPEG."""
    photo = decode_rgb(data, key)
    photo.thumbnail((THUMBNAIL, THUMBNAIL))
    out = io.BytesIO()
    photo.save(out, "JPEG", quality=80)
    return out.getvalue()
