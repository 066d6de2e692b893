"""The zero-shot classifier of a fixed set of labels: a picture in, the probability of each label out.

A label's embedding is CLIP's: every template's text embedding of unit length, their mean, of unit length again (Radford et al.,
2021, section 3.1.4). It, the logit scale, the bias and the softmax are constants and operations of the graph, so that an app
needs neither the text tower nor a tokenizer. Left out: which labels there are (`export.app.classes`).
"""

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from distill.core.errors import DistillError
from export.app.classes import Classes
from export.app.form import Form
from export.towers.label_faults import explain_classifier, probabilities_of

if TYPE_CHECKING:
    from export.towers.tower import ImageTower
    from students.student import Student

BATCH = 32
TOLERANCE = 1e-4  # largest difference of a probability between the classifier and the eager model that export accepts


class Classifier(nn.Module):
    """An image tower with the embeddings of labels behind it.

    Args:
        image: the deployable image tower.
        labels: [k, D], unit length.
        logit_scale, logit_bias: the model's own; the bias is of sigmoid kinds.
        kind: "softmax" over the labels, or "sigmoid" of each alone.
    """

    def __init__(self, image: "ImageTower", labels: Tensor, logit_scale: float, logit_bias: float, kind: str) -> None:
        super().__init__()
        self.image: ImageTower = image
        labels = labels.double()
        if kind == "softmax":
            # What all labels share moves every logit alike, which a softmax does not see. Without it the logits are small,
            # and fp16 and palettes have their steps where the labels differ.
            labels = labels - labels.mean(0)
        self.labels = nn.Linear(labels.shape[1], len(labels), bias=kind == "sigmoid")
        self.labels.weight = nn.Parameter((logit_scale * labels).float(), requires_grad=False)
        if kind == "sigmoid":
            self.labels.bias = nn.Parameter(torch.full((len(labels),), logit_bias), requires_grad=False)
        self.kind = kind

    def taking(self, form: Form) -> "Classifier":
        """The same classifier, of the same weights, with pixels in the graph of this form."""
        made = copy.copy(self)
        made._modules = {**self._modules, "image": self.image.taking(form)}
        return made

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels as the image tower takes them -> probabilities [b, k]."""
        logits: Tensor = self.labels(self.image(pixels))
        return logits.softmax(-1) if self.kind == "softmax" else logits.sigmoid()


@torch.no_grad()
def template_embeddings(student: "Student", classes: Classes) -> Tensor:
    """[k, t, D] float32, unit length: of each label in each template by the eager student.

    Raises UsageError for a label that is too long.
    """
    classes.check_fit(student.tokenizer, student.context_length)
    prompts = classes.prompts()
    starts = range(0, len(prompts), BATCH)
    parts = [student.encode_text(student.tokenize(prompts[at : at + BATCH])) for at in starts]
    return torch.cat(parts).reshape(len(classes.labels), len(classes.templates), -1)


def label_embeddings(each: Tensor) -> Tensor:
    """Embeddings of each label in each template [k, t, D] -> of each label [k, D], unit length."""
    return nn.functional.normalize(each.mean(1), dim=-1)


@torch.no_grad()
def check_classifier(
    classifier: nn.Module,
    pixels: Tensor,
    image: Tensor,
    each: Tensor,
    templates: tuple[str, ...],
    *,
    scale: float,
    bias: float,
    kind: str,
) -> None:
    """Raise DistillError that names what is wrong where a classifier says something else than the eager model.

    Args:
        pixels: [n, 3, S, S].
        image: [n, D], what the eager model says to them.
        each: [k, t, D], as of `template_embeddings`.
        scale, bias, kind: the eager model's.
    """
    found = classifier(pixels)
    wanted = probabilities_of(image, label_embeddings(each), scale, bias, kind)
    difference = float((found - wanted).abs().max())
    if not difference <= TOLERANCE:
        why = explain_classifier(found, image, each, templates, scale, bias, kind) or "no known mistake explains it"
        raise DistillError(
            f"The classifier's probabilities differ from the model's own by {difference:.2g}, more than {TOLERANCE:g}: {why}. "
            "Nothing was exported; please report this model."
        )
