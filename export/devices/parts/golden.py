"""One golden sample of an exported folder: what a device is given, and what it should answer."""

from pathlib import Path

import numpy as np

from distill.core.arrays import Array
from export.app.form import batches
from export.app.golden import TENSORS_FILE
from export.artifacts.record import ExportArtifact

ANSWERS = {  # tower -> the golden tensor that it takes, and the one that it should give
    "image": ("pixels", "image_embeddings"),
    "text": ("tokens", "text_embeddings"),
    "classifier": ("pixels", "label_probabilities"),
}

OUTPUT_COSINE = {"exact": 0.9999, "half": 0.999, "quantized": 0.98}  # of the phone's embedding to the golden one


def golden_sample(folder: Path, item: ExportArtifact) -> tuple[Array | None, Array | None]:
    """What one call of the tower takes, of one golden input, and the answers that it should give, [b * D]; None, None where the
    folder keeps none."""
    if TENSORS_FILE not in item.beside or not (folder / TENSORS_FILE).exists():
        return None, None
    from safetensors.numpy import load_file

    tensors = load_file(folder / TENSORS_FILE)
    given, made = ANSWERS[item.tower]
    if made not in tensors:
        return None, None
    batch = int(item.options.get("batch", 1))
    return next(batches(tensors[given][:1], batch)), np.tile(tensors[made][0], batch)
