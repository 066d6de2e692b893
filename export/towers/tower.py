"""The two towers as a phone runs them: pixels in [0, 1] or int32 tokens in, one unit-length embedding out, no choices
left.

`deployable_towers` copies the student, reparameterizes, rewrites what exporters do not lower whole, and puts the
normalisation and the L2 norm inside. Left out: resizing (the caller's camera pipeline), tokenizing, batching,
precision.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from distill.core.clip.folder import CONFIG_FILE
from distill.core.errors import DistillError
from export.towers.rewrite import rewrite_for_export

if TYPE_CHECKING:
    from students.student import Student

MASKED = -1e4  # added to a forbidden score: finite in fp16, where -inf and float32's minimum give NaN in some delegates
TOLERANCE = 1e-4  # largest difference between a tower and its student that export accepts


def unit_length(x: Tensor) -> Tensor:
    """[b, D] -> [b, D] / its L2 norm. Divided by the largest magnitude first, so that no square overflows in fp16."""
    x = x / (x.abs().amax(-1, keepdim=True) + 1e-6)
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6)


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

    def forward(self, pixels: Tensor) -> Tensor:
        """float32 [b, 3, S, S], RGB in [0, 1] -> [b, D], unit length."""
        x = pixels * self.scale + self.shift if self.normalises else pixels
        return unit_length(self.visual(x))


class TextTower(nn.Module):
    """Tokens to embedding.

    open_clip pools with argmax over the token ids and an indexed read, which mobile delegates leave to the CPU. The end
    token has the largest id, so its first occurrence, found by comparison, is the same place.

    Args:
        text: a rewritten copy of the module that owns token_embedding, transformer, ln_final (open_clip's CLIP
            itself, or the TextTransformer of a CustomTextCLIP).
        eot: id of the end token.
    """

    positions: Tensor
    mask: Tensor | None
    earlier: Tensor

    def __init__(self, text: Any, eot: int) -> None:
        super().__init__()
        self.embedding: nn.Embedding = text.token_embedding
        self.transformer: nn.Module = text.transformer
        self.norm: nn.Module = text.ln_final
        length = text.context_length
        self.eot = eot
        self.register_buffer("positions", text.positional_embedding.detach()[:length].clone())
        mask = None if text.attn_mask is None else text.attn_mask.detach()[:length, :length].clamp(min=MASKED).clone()
        self.register_buffer("mask", mask)
        # earlier[i, j] = 1 where i < j: end tokens @ earlier counts the end tokens before each place, so that padding
        # with the end token (as Hugging Face's CLIP tokenizer does) pools at the first one, as argmax does.
        self.register_buffer("earlier", torch.ones(length, length).triu(1))
        projection = text.text_projection
        if isinstance(projection, nn.Parameter):
            linear = nn.Linear(projection.shape[0], projection.shape[1], bias=False)
            linear.weight = nn.Parameter(projection.detach().T.contiguous())
            projection = linear
        self.projection: nn.Module = nn.Identity() if projection is None else projection

    def forward(self, tokens: Tensor) -> Tensor:
        """int32 [b, L] -> [b, D], unit length."""
        x = self.embedding(tokens) + self.positions
        x = self.norm(self.transformer(x, attn_mask=self.mask))
        ends = (tokens == self.eot).to(x.dtype)
        first = ends * torch.relu(1 - ends @ self.earlier)
        pooled = (first.unsqueeze(1) @ x).squeeze(1)
        return unit_length(self.projection(pooled))


def deployable_towers(student: "Student") -> tuple[ImageTower, TextTower]:
    """Both towers of `student` for export: copies in eval mode without gradients; the student is left untouched.

    Raises:
        DistillError: for a text tower that is not open_clip's own transformer, pools elsewhere than at the end token,
            has a class token or a padding mask; for a module that cannot be rewritten.
    """
    from timm.utils import reparameterize_model

    clip: Any = student.clip
    _require_exportable_text(clip)
    # In float64: folding branches and norms into one kernel then rounds once, at the end.
    clip = copy.deepcopy(clip).eval().double()
    for parameter in clip.parameters():
        parameter.requires_grad_(False)
    clip = reparameterize_model(clip, inplace=True)
    try:
        rewrite_for_export(clip)
    except ValueError as error:
        raise DistillError(f"This student cannot be exported: {error}. Choose another tower.") from error
    eot = int(student.tokenize([""]).max())
    mean, std = torch.tensor(student.spec.mean), torch.tensor(student.spec.std)
    image = ImageTower(clip.visual, mean, std)
    text = TextTower(getattr(clip, "text", clip), eot)
    for tower in (image, text):
        tower.eval().cpu().float()
        for parameter in tower.parameters():
            parameter.requires_grad_(False)
    return image, text


def _require_exportable_text(clip: Any) -> None:
    text = getattr(clip, "text", clip)
    needed = ("token_embedding", "positional_embedding", "transformer", "ln_final", "attn_mask")
    if not all(hasattr(text, name) for name in needed):
        raise DistillError(
            f"The text tower {type(text).__name__} cannot be exported: only open_clip's own text transformer can "
            "(no hf_model_name in text_cfg). Choose a student with such a text tower."
        )
    pool = getattr(text, "text_pool_type", getattr(text, "pool_type", "argmax"))
    wrong = []
    if pool != "argmax":
        wrong.append(f"pool_type {pool!r} (only 'argmax', the end token, is supported)")
    if getattr(text, "cls_emb", None) is not None:
        wrong.append("embed_cls")
    if getattr(text, "use_pad_mask", False):
        wrong.append("use_pad_mask")
    if wrong:
        raise DistillError(f"The text tower cannot be exported: its text_cfg has {', '.join(wrong)}. Change that key.")


def check_towers(student: "Student", image: ImageTower, text: TextTower, pixels: Tensor, tokens: Tensor) -> float:
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
            f"The deployable towers differ from the student by {worst:.2g}, more than {TOLERANCE:g}: a rewrite does "
            "not fit this architecture, or the weights hold NaN. Nothing was exported; please report the student's "
            f"{CONFIG_FILE}."
        )
    return worst


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
