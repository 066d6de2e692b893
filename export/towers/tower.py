"""The two towers as a phone runs them: pixels in [0, 1] or int32 tokens in, one unit-length embedding out, no choices
left.

`deployable_towers` copies the student, reparameterizes, rewrites what exporters do not lower whole, and puts the
normalisation and the L2 norm inside. Left out: resizing (the caller's camera pipeline), tokenizing, batching,
precision.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from distill.core.arrays import Array
from distill.core.clip.folder import CONFIG_FILE
from distill.core.errors import DistillError
from export.app.form import Form, Layout
from export.artifacts.record import Tower
from export.towers.faults import explain, explain_bytes
from export.towers.rewrite import fix_input_size, rewrite_for_export, unit_length
from export.towers.text import text_tower
from students.reparameterize import refuse_training, reparameterize

if TYPE_CHECKING:
    from students.student import Student

TOLERANCE = 1e-4  # largest difference between a tower and its student that export accepts


class ImageTower(nn.Module):
    """Pixels to embedding. `visual` must be a rewritten copy; mean and std are the student's, RGB."""

    scale: Tensor
    shift: Tensor

    def __init__(self, visual: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.visual = visual
        self.register_buffer("scale", (1 / std).reshape(1, 3, 1, 1))
        self.register_buffer("shift", (-mean / std).reshape(1, 3, 1, 1))
        self.normalises = bool((mean != 0).any() or (std != 1).any())
        self.graph = "float"

    def taking(self, form: Form) -> "ImageTower":
        """The same tower, of the same weights, with pixels in the graph of this form."""
        if form.graph.startswith("float"):
            return self
        made = copy.copy(self)
        made._buffers = {**self._buffers, "scale": self.scale / 255}
        made.graph, made.normalises = form.graph, True
        return made

    def forward(self, pixels: Tensor) -> Tensor:
        """float32 [b, 3, S, S], RGB in [0, 1], or uint8 as the form says -> [b, D], unit length."""
        x = pixels if self.graph == "float" else pixels.float()
        if self.graph == "uint8-NHWC":
            x = x.permute(0, 3, 1, 2)
        x = x * self.scale + self.shift if self.normalises else x
        features = self.visual(x)
        return self.finish(features[0] if isinstance(features, tuple) else features)  # CoCa's: (pooled, tokens)

    def finish(self, features: Tensor) -> Tensor:
        """Features [b, D] -> [b, D], unit length."""
        return unit_length(features)


def deployable_towers(student: "Student") -> tuple[ImageTower, nn.Module]:
    """Both towers of `student` for export: copies in eval mode without gradients; the student is left untouched.

    Raises:
        DistillError: for a module that cannot be rewritten, or a text tower that has no deployable form; named.
    """
    pixels = torch.rand(
        1, 3, student.image_size, student.image_size, generator=torch.Generator().manual_seed(0)
    ).double()
    # Stays in float64 for what follows: all then rounds once, at the end.
    clip, _ = reparameterize(student.clip, lambda clip: clip.encode_image(pixels), torch.float64)
    fix_input_size(clip.visual, student.image_size)
    try:
        rewrite_for_export(clip)
    except ValueError as error:
        raise DistillError(f"This student cannot be exported: {error}. Choose another tower.") from error
    eot = int(student.tokenize([""]).max())
    mean, std = torch.tensor(student.spec.mean), torch.tensor(student.spec.std)
    image = ImageTower(clip.visual, mean, std)
    text = text_tower(clip, eot)
    for tower in (image, text):
        refuse_training(tower.eval().cpu().float())
        for parameter in tower.parameters():
            parameter.requires_grad_(False)
    return image, text


def check_towers(student: "Student", image: ImageTower, text: nn.Module, pixels: Tensor, tokens: Tensor) -> float:
    """Largest absolute difference between the towers' and the student's embeddings.

    Args:
        pixels: float32 [n, 3, S, S], RGB in [0, 1].
        tokens: int32 [m, L].

    Raises:
        DistillError: when it exceeds `TOLERANCE`, or is not a number: the rewrite would change the model.
    """
    with torch.no_grad(), _evaluating(student):
        # max() of a list drops NaN or not by its place; torch's keeps it.
        differences = torch.stack(
            [
                (image(pixels) - student.encode_image(pixels)).abs().max(),
                (text(tokens) - student.encode_text(tokens.long())).abs().max(),
            ]
        )
    worst = float(differences.max())
    if not worst <= TOLERANCE:
        raise DistillError(
            f"The deployable towers differ from the student by {worst:.2g}, more than {TOLERANCE:g}: "
            f"{_cause(student, image, text, pixels, tokens)}. Nothing was exported; please report the student's {CONFIG_FILE}."
        )
    return worst


@torch.no_grad()
def check_form(tower: nn.Module, example: Tensor, wanted: Array, name: Tower, rows: Array | None = None) -> None:
    """Raise DistillError where a tower in the form of a file says something else than the student.

    Args:
        example: the first inputs of the reference, in that form.
        wanted: what the student says to them; fewer rows than the example has where that was filled up.
        rows: the same inputs as floats [b, 3, S, S], of an example of bytes.
    """
    difference = float((tower(example)[: len(wanted)] - torch.from_numpy(wanted)).abs().max())
    if not difference <= TOLERANCE:
        raise DistillError(
            f"The {name} that takes {str(example.dtype).removeprefix('torch.')} {list(example.shape)} differs from the model by "
            f"{difference:.2g}, more than {TOLERANCE:g}{_why_bytes(tower, example, wanted, rows)}. Nothing was exported; please "
            "report this model."
        )


def _why_bytes(tower: nn.Module, example: Tensor, wanted: Array, rows: Array | None) -> str:
    if rows is None or example.dtype != torch.uint8:
        return ""
    given, layout = torch.from_numpy(rows[: len(wanted)]), "NHWC" if example.shape[-1] == 3 else "NCHW"
    why = explain_bytes(tower, given, torch.from_numpy(wanted), cast("Layout", layout))
    return f": {why}" if why else ""


def _cause(student: "Student", image: nn.Module, text: nn.Module, pixels: Tensor, tokens: Tensor) -> str:
    """Which tower says something else, and the known mistake that explains it."""
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (student.spec.mean, student.spec.std))
    eot = int(student.tokenize([""]).max())
    clauses = []
    with torch.no_grad(), _evaluating(student):
        sides: list[tuple[Tower, nn.Module, Tensor, Tensor]] = [
            ("image", image, pixels, student.encode_image(pixels)),
            ("text", text, tokens, student.encode_text(tokens.long())),
        ]
        for name, tower, inputs, wanted in sides:
            if not torch.isfinite(wanted).all():
                clauses.append(f"the {name} tower's weights hold NaN or infinity")
            elif not float((tower(inputs) - wanted).abs().max()) <= TOLERANCE:
                why = explain(tower, inputs, wanted, name, mean, std, eot)
                clauses.append(f"{name}: {why or 'a rewrite does not fit this architecture'}")
    return "; ".join(clauses)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
