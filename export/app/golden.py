"""Golden samples: a few real inputs with the eager model's outputs, which an app's own test compares itself with.

golden.safetensors holds the tensors (a JSON header and little-endian numbers: ten lines in any language), golden.json the
captions and what each tensor is, golden-photo-N.* the photos that the pixels were made from. Left out: judging an exported
file, which parity does on more samples.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from distill.core.arrays import Array
from export.app.form import Form, Layout

GOLDEN_FILE, TENSORS_FILE, PHOTO = "golden.json", "golden.safetensors", "golden-photo-"
LARGEST_PHOTO_BYTES = 2_000_000
# First bytes of the formats that every phone decodes.
FORMATS = {b"\xff\xd8\xff": ".jpg", b"\x89PNG\r\n": ".png"}
MEANINGS = {
    "pixels": "[n, 3, S, S] float32 RGB in [0, 1]: what the image graph takes, one row at a time",
    "tokens": "[m, L] int32: what the text graph takes, one row at a time; of the captions below, in their order",
    "image_embeddings": "[n, D] of the eager model for the pixels, unit length",
    "text_embeddings": "[m, D] of the eager model for the tokens, unit length",
    "probabilities": "[n, m] of each caption for each image, from the embeddings and the logit scale",
    "label_probabilities": "[n, k] of each label of labels.txt for each image, by the eager model: what the classifier says",
}


def probabilities(image: Array, text: Array, logit_scale: float, logit_bias: float, kind: str) -> Array:
    """[n, m] float32: of each caption for each image.

    Args:
        image, text: [n, D] and [m, D], unit length.
        kind: "softmax" (over the captions) or "sigmoid" (each caption alone).
    """
    logits = logit_scale * image.astype(np.float64) @ text.astype(np.float64).T + logit_bias
    if kind == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-logits)), np.float32)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(shares / shares.sum(1, keepdims=True), np.float32)


def golden_as_bytes(folder: Path, form: Form) -> None:
    """Rewrite golden samples so that their pixels are those of a file that takes bytes; a picture's are in NHWC."""
    from safetensors.numpy import load_file, save_file

    layout: Layout = "NCHW" if form.layout == "NCHW" else "NHWC"
    tensors = load_file(folder / TENSORS_FILE)
    tensors["pixels"] = np.ascontiguousarray(replace(form, layout=layout).given(tensors["pixels"]))
    save_file(tensors, folder / TENSORS_FILE)
    record = json.loads((folder / GOLDEN_FILE).read_text(encoding="utf-8"))
    sizes = "[n, 3, S, S]" if layout == "NCHW" else "[n, S, S, 3]"
    record["meaning"]["pixels"] = f"{sizes} uint8 RGB from 0 to 255: what the image graph takes, one row at a time"
    (folder / GOLDEN_FILE).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_golden(
    folder: Path, tensors: dict[str, Array], captions: Sequence[str], photos: Sequence[bytes]
) -> list[str]:
    """Write the golden samples into `folder`, the same bytes for the same samples. Returns the names of the files.

    Args:
        tensors: those of `MEANINGS` that the model has.
        captions: one per row of tokens; empty = not known.
        photos: encoded images, one per row of pixels; empty = not known. Those in other formats than JPEG and PNG or above
            `LARGEST_PHOTO_BYTES` are left out.
    """
    from safetensors.numpy import save_file

    names: list[str | None] = []
    for index, photo in enumerate(photos):
        suffix = next((suffix for start, suffix in FORMATS.items() if photo.startswith(start)), None)
        names.append(f"{PHOTO}{index}{suffix}" if suffix and len(photo) <= LARGEST_PHOTO_BYTES else None)
        if names[-1] is not None:
            (folder / names[-1]).write_bytes(photo)
    held = [name for name in MEANINGS if name in tensors]
    save_file({name: np.ascontiguousarray(tensors[name]) for name in held}, folder / TENSORS_FILE)
    record = {
        "tensors": TENSORS_FILE,
        "meaning": {name: MEANINGS[name] for name in held},
        "captions": list(captions),
        "photos": names,
        "photos_meaning": "photos[i] gives pixels[i] by the preprocessing; null = not kept here",
    }
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    (folder / GOLDEN_FILE).write_text(text, encoding="utf-8")
    return [GOLDEN_FILE, TENSORS_FILE, *(name for name in names if name is not None)]
