"""One sample of a set in Apple's DataCompDR / DFNDR layout, as a row of ours: views, captions and embeddings.

The layout (MobileCLIP, arXiv 2311.17049; MobileCLIP2, arXiv 2508.20691; the releases' data cards), per uid:

    syn.json    {"syn_text": [captions]}, or keys that begin so
    paug.json   {"param_aug": [[[top, left, height, width], [[op, magnitude], [op, magnitude]]], ...]}, pixels of the source
                image; the list may itself be a JSON string
    npz | pth.gz   image_emb [views, D], text_emb [captions, D], float32 or bfloat16; D is all teachers side by side
    json        {"uid", "sha256"} of the image
    txt, jpg    caption and image, in one's own data only
`text_emb` holds the real captions and then the synthetic ones (old), or the real ones alone beside "<key>_emb" for the
synthetic ones (new). Where the tars lie and the images come from is the business of `published`.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill.core.arrays import Array
from reinforced_data.pixels.decode import BadImageError, decode_rgb, shown_otherwise
from reinforced_data.pixels.views import storable
from reinforced_data.published.embed_files import BadRecordError, load_npz, load_pth_gz
from reinforced_data.sample import Caption, View
from reinforced_data.sources.parts.listing import clean_caption
from reinforced_data.store.row import Row

VIEW_PIXELS = 224  # side of the views that the published teachers saw; translations are pixels of it
MAX_TEXT_BYTES = 1 << 20  # of a JSON or caption member
EMBED_KINDS = ("npz", "pth.gz")
NORM_SLACK = 0.02  # of a published row's length from 1: bf16 rounds each number by at most 0.4 %
# torchvision.transforms.RandAugment._augmentation_space, in its order, with the greatest magnitude that makes sense.
_OPS: tuple[tuple[str, float], ...] = (
    ("identity", math.inf),
    ("shear_x", 1.0),
    ("shear_y", 1.0),
    ("translate_x", VIEW_PIXELS),
    ("translate_y", VIEW_PIXELS),
    ("rotate", 180.0),
    ("brightness", 1.0),
    ("color", 1.0),
    ("contrast", 1.0),
    ("sharpness", 1.0),
    ("posterize", 8.0),
    ("solarize", 256.0),
    ("autocontrast", math.inf),
    ("equalize", math.inf),
)
_UNSIGNED = ("posterize", "solarize")


@dataclass(frozen=True)
class Record:
    """The members of one uid: `texts` kind -> bytes of the small ones, `embeds` its kind and bytes."""

    key: str
    texts: Mapping[str, bytes]
    embeds: tuple[str, bytes]


def row_of(record: Record, image: bytes, real: Sequence[str], teacher_widths: Sequence[tuple[str, int]]) -> Row:
    """The row of a published sample.

    Args:
        record: its members.
        image: the encoded image that its views are of.
        real: captions found with the image, used where the record has none of its own.
        teacher_widths: (name, width) in the order in which their columns lie.

    Raises BadRecordError or BadImageError with the reason when any part does not fit the others.
    """
    digest = hashlib.sha256(image).hexdigest()
    told = _object(record, "json").get("sha256")
    if isinstance(told, str) and told and told.lower() != digest:
        raise BadRecordError("its image is not the published one (its SHA-256 differs); resized copies do not fit")
    reason = shown_otherwise(image)
    if reason:
        raise BadImageError(record.key, reason)
    pixels = decode_rgb(image, record.key)
    views = parse_views(_object(record, "paug.json").get("param_aug"), pixels.width, pixels.height)
    kind, data = record.embeds
    embeds = load_npz(data) if kind == "npz" else load_pth_gz(data)
    images = embeds.get("image_emb")
    if images is None or len(images) != len(views):
        found = "none" if images is None else len(images)
        raise BadRecordError(f"it has {len(views)} views and {found} embeddings of them")
    captions, texts = pair_captions(_real_captions(record, real), _synthetic(record), embeds)
    return Row(
        key=record.key,
        image=image,
        image_sha256=digest,
        width=pixels.width,
        height=pixels.height,
        captions=captions,
        views=views,
        image_embeds=dict(split_columns(images, teacher_widths, "image_emb")),
        text_embeds=dict(split_columns(texts, teacher_widths, "text_emb")),
    )


def parse_views(value: Any, width: int, height: int) -> list[View]:
    """`param_aug` as views of a width x height (pixels) image. Raises BadRecordError when it is damaged or of another."""
    if isinstance(value, str):
        value = _json(value, "param_aug")
    if not isinstance(value, list) or not value:
        raise BadRecordError("it has no views (param_aug)")
    views = []
    for item in value:
        if not isinstance(item, list) or len(item) != 2 or not all(isinstance(part, list) for part in item):
            raise BadRecordError(f"a view is not [box, operations]: {str(item)[:80]}")
        box, ops = item
        if len(box) != 4 or not all(_is_number(side) and float(side).is_integer() for side in box):
            raise BadRecordError(f"a crop box is not four whole numbers: {str(box)[:80]}")
        top, left, high, wide = (int(side) for side in box)
        if top < 0 or left < 0 or high < 1 or wide < 1 or top + high > height or left + wide > width:
            raise BadRecordError(
                f"a crop box {[top, left, high, wide]} lies outside the image of {width} x {height} pixels; it is of "
                "another copy of it"
            )
        place = (left / width, top / height, wide / width, high / height)
        views.append(storable(View(box=place, ops=tuple(_operation(op) for op in ops))))
    return views


def _operation(value: Any) -> tuple[str, float]:
    """[index, magnitude] of torchvision's RandAugment in our names and units."""
    if not isinstance(value, list) or len(value) != 2 or not all(_is_number(part) for part in value):
        raise BadRecordError(f"an operation is not [index, magnitude]: {str(value)[:80]}")
    number, magnitude = value
    if number not in range(len(_OPS)):
        raise BadRecordError(f"there is no operation {str(number)[:40]}: they are 0 to {len(_OPS) - 1}")
    name, most = _OPS[int(number)]
    if abs(magnitude) > most or (name in _UNSIGNED and magnitude < 0):
        raise BadRecordError(f"the operation {name} has an impossible magnitude, {magnitude}")
    if most == math.inf:
        return name, 0.0
    if name.startswith("translate"):
        return name, _share(float(magnitude))
    return name, float(magnitude)


def _share(pixels: float) -> float:
    """Pixels of the published view as a fraction of its side that means as many whole pixels there, even as float32."""
    share = float(np.float32(pixels / VIEW_PIXELS))
    if int(share * VIEW_PIXELS) != int(pixels):
        share = (int(pixels) + math.copysign(0.5, pixels)) / VIEW_PIXELS
    return share


def pair_captions(
    real: Sequence[str], synthetic: Mapping[str, Sequence[str]], embeds: Mapping[str, Array]
) -> tuple[list[Caption], Array]:
    """Captions, each with its row of the embeddings: (C captions, [C, D]). Handles the old and the new layout.

    A caption's source is "real" or "synthetic:<key>". Where no real caption is to be had (Apple publishes none), the
    synthetic ones stand alone. Raises BadRecordError when captions and rows do not match.
    """
    if "text_emb" not in embeds:
        raise BadRecordError("it has no text_emb")
    rows = embeds["text_emb"]
    inside = [key for key in synthetic if f"{key}_emb" not in embeds]
    if len(inside) > 1:
        raise BadRecordError(f"text_emb cannot be divided among {', '.join(inside)}")
    count = len(rows) - sum(len(synthetic[key]) for key in inside)  # of real captions
    if count < 0 or (real and len(real) != count):
        raise BadRecordError(
            f"it has {len(real)} real and {sum(map(len, synthetic.values()))} synthetic captions, and "
            f"{max(count, 0)} embeddings of real ones"
        )
    captions = [Caption(text) for text in real]
    parts = [rows[: len(real)]]
    for key, texts in synthetic.items():
        own = rows[count:] if key in inside else embeds[f"{key}_emb"]
        if len(own) != len(texts):
            raise BadRecordError(f"{key} has {len(texts)} captions and {len(own)} embeddings")
        if own.shape[1:] != rows.shape[1:]:
            raise BadRecordError(f"{key}_emb has {own.shape[1]} columns, text_emb {rows.shape[1]}")
        captions += [Caption(text, f"synthetic:{key}") for text in texts]
        parts.append(own)
    cleaned = [Caption(clean_caption(caption.text), caption.source) for caption in captions]
    kept = [place for place, caption in enumerate(cleaned) if caption.text]
    if not kept:
        raise BadRecordError("no caption")
    return [cleaned[place] for place in kept], np.concatenate(parts)[kept]


def split_columns(rows: Array, teacher_widths: Sequence[tuple[str, int]], what: str) -> list[tuple[str, Array]]:
    """[n, D] as (teacher, [n, D_t]) of unit-length rows. Raises BadRecordError when widths or lengths do not fit."""
    whole = sum(width for _, width in teacher_widths)
    if rows.shape[1] != whole:
        widths = " + ".join(f"{name} {width}" for name, width in teacher_widths)
        raise BadRecordError(f"{what} has {rows.shape[1]} columns and the teachers make {whole} ({widths})")
    parts, first = [], 0
    for name, width in teacher_widths:
        part = np.ascontiguousarray(rows[:, first : first + width])
        if (np.abs(np.linalg.norm(part, axis=1) - 1) > NORM_SLACK).any():
            raise BadRecordError(f"{what} has rows of {name} that are not of unit length; are these its teachers?")
        parts.append((name, part))
        first += width
    return parts


def _real_captions(record: Record, found: Sequence[str]) -> list[str]:
    own = record.texts.get("txt")
    return list(found) if own is None else [own.decode("utf-8-sig", "replace")]


def _synthetic(record: Record) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for key, value in _object(record, "syn.json").items():
        if not key.startswith("syn_text"):
            continue
        if isinstance(value, str):
            value = _json(value, key) if value.lstrip().startswith("[") else [value]
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise BadRecordError(f"{key[:80]!r} is no list of captions")
        if not re.fullmatch(r"[\w.+-]{1,100}", key):
            raise BadRecordError(f"{key[:80]!r} is no name of a caption source")
        texts[key] = value
    return texts


def _object(record: Record, kind: str) -> dict[str, Any]:
    """The JSON object in a member; empty when there is no such member."""
    data = record.texts.get(kind)
    if data is None:
        return {}
    value = _json(data.decode("utf-8-sig", "replace"), kind)
    if not isinstance(value, dict):
        raise BadRecordError(f"its {kind} holds no JSON object")
    return value


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRecordError(f"its {what} is no JSON ({type(error).__name__})") from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
