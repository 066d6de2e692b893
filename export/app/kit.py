"""`AppKit`: everything that an app needs beside the graphs, made once per model and laid into every exported folder.

Left out: licences (`export.app.licence`), which also go into the exported files.
"""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.core import atomic
from distill.core.arrays import Array
from export.app.classes import Classes
from export.app.form import Form
from export.app.golden import GOLDEN_FILE, golden_as_bytes, probabilities, write_golden
from export.app.preprocess import in_form, preprocess_block
from export.app.tokenizer import write_tokenizer

if TYPE_CHECKING:
    from students.student import Student

FOLDER, RECORD = "app", "app.json"  # in the folder where an export is prepared


@dataclass(frozen=True)
class AppKit:
    """What artifact.json says of a model for those who write an app; the files it names lie beside it.

    Attributes:
        preprocess: how a photo becomes pixels, see `export.app.preprocess`.
        tokenizer: how a caption becomes tokens, see `export.app.tokenizer`.
        kind: how cosines become probabilities: "softmax" over an image's captions, or "sigmoid" of each alone.
        logit_scale: what a cosine is multiplied by, already exponentiated; with the bias None of a model without text tower.
        logit_bias: what is added then; 0.0 for a softmax.
        classes: of a classifier, its labels, see `export.app.classes`; empty where there is none.
    """

    preprocess: dict[str, Any]
    tokenizer: dict[str, Any]
    kind: str
    logit_scale: float | None
    logit_bias: float | None
    classes: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def write(cls, model: "Student", kind: str, work: Path, classes: Classes | None = None) -> "AppKit":
        """The kit of a model, with the files of its tokenizer and of its labels in work/app. `kind`: as the attribute."""
        folder = work / FOLDER
        folder.mkdir()
        bias = getattr(model.clip, "logit_bias", None)
        kit = cls(
            preprocess=preprocess_block(model.image_size, model.spec.resize_mode, model.spec.interpolation),
            tokenizer=write_tokenizer(model.tokenizer, model.context_length, model.merges, folder),
            kind=kind,
            logit_scale=float(model.logit_scale.detach()),
            logit_bias=0.0 if bias is None else float(bias.detach()),
            classes={} if classes is None else classes.write(folder, kind),
        )
        atomic.write_json(work / RECORD, asdict(kit))
        return kit

    @classmethod
    def write_alone(cls, preprocess: dict[str, Any], labels: tuple[str, ...], count: int, work: Path) -> "AppKit":
        """The kit of an image model alone.

        Args:
            preprocess: the block of that name.
            labels: what its classifier tells apart, which are written to work/app; empty where that is not known.
            count: how many they are; 0 of a model without classifier.
        """
        folder = work / FOLDER
        folder.mkdir()
        classes: dict[str, Any] = {}
        if labels:
            classes = Classes(labels, ()).write(folder, "softmax")
        elif count:
            classes = {"count": count, "probabilities": "in the model's own order; its folder names no labels"}
        kit = cls(
            preprocess=preprocess,
            tokenizer={},
            kind="softmax",
            logit_scale=None,
            logit_bias=None,
            classes=classes,
        )
        atomic.write_json(work / RECORD, asdict(kit))
        return kit

    @classmethod
    def read(cls, work: Path) -> "AppKit":
        """The kit that `write` left in `work`."""
        return cls(**atomic.read_json(work / RECORD))

    def in_form(self, form: Form) -> "AppKit":
        """The kit of files that take their pixels in this form."""
        return replace(self, preprocess=in_form(self.preprocess, form))

    def add_golden(
        self,
        work: Path,
        *,
        pixels: Array,
        tokens: Array | None = None,
        image: Array | None = None,
        text: Array | None = None,
        label_probabilities: Array | None = None,
        captions: Sequence[str],
        photos: Sequence[bytes],
    ) -> None:
        """Lay golden samples into work/app: all that is given, see `export.app.golden`."""
        tensors = {
            "pixels": pixels,
            "tokens": tokens,
            "image_embeddings": image,
            "text_embeddings": text,
            "label_probabilities": label_probabilities,
        }
        if image is not None and text is not None and self.logit_scale is not None:
            tensors["probabilities"] = probabilities(image, text, self.logit_scale, self.logit_bias or 0.0, self.kind)
        write_golden(work / FOLDER, {name: t for name, t in tensors.items() if t is not None}, captions, photos)


def lay_out(work: Path, folder: Path, form: Form) -> dict[str, str]:
    """Copy the kit's files from work/app into an exported folder, golden pixels in its form. Returns name -> hex SHA-256."""
    names = sorted(file.name for file in (work / FOLDER).iterdir())
    for name in names:
        shutil.copyfile(work / FOLDER / name, folder / name)
    if form.pixels == "uint8" and GOLDEN_FILE in names:
        golden_as_bytes(folder, form)
    return {name: atomic.sha256_file(folder / name) for name in names}
