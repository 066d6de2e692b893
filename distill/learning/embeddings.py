"""`Embeddings`: one model's view of a batch, and the one gather across ranks. Losses see this and know nothing of ranks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from distill.learning.blocks import over_rows

EVERY = slice(None)


@dataclass(frozen=True)
class Embeddings:
    """One model's embeddings of the b pairs on this rank and of the B pairs on all ranks.

    Attributes:
        image, text: [b, D], unit length; pair i is row i of both.
        all_image, all_text: [B, D], every rank's rows in rank order.
        logit_scale: [], multiplies cosine similarity, already exponentiated.
        logit_bias: [], added to the logits (0 for softmax models).
        first: global index of this rank's first pair.
        kind: "softmax" or "sigmoid": how this model turns similarities into probabilities.
        caption_logits: [b, T, V] of a CoCa's next tokens, None where no loss asked for them.
        caption_labels: LongTensor [b, T], -100 where there is no token to predict.
        caption_tokens: [], tokens to predict, the mean over ranks; None = count those of this rank.
        positives: bool [b, B] or `Matches`, which of all pairs show the same image or carry the same caption as each pair of this
            rank (itself included); None = no two do.
    """

    image: Tensor
    text: Tensor
    all_image: Tensor
    all_text: Tensor
    logit_scale: Tensor
    logit_bias: Tensor
    first: int = 0
    kind: str = "softmax"
    caption_logits: Tensor | None = None
    caption_labels: Tensor | None = None
    caption_tokens: Tensor | None = None
    positives: "Tensor | Matches | None" = None

    def image_logits(self, rows: slice = EVERY) -> Tensor:
        """[r, B]: this rank's images, or those of some rows, against all texts."""
        return similarities(self.logit_scale * self.image[rows], self.all_text) + self.logit_bias

    def text_logits(self, rows: slice = EVERY) -> Tensor:
        """[r, B]: this rank's texts, or those of some rows, against all images."""
        return similarities(self.logit_scale * self.text[rows], self.all_image) + self.logit_bias

    def over_rows(self, each: Callable[[slice], Tensor]) -> Tensor:
        """[b]: a value for each pair of this rank, which `each` computes for a slice of them; see `blocks.over_rows`."""
        return over_rows(each, len(self.image), len(self.all_image))


@dataclass(frozen=True)
class Matches:
    """Which pairs belong together, as numbers that they share: the memory of B x B answers is not taken before a row is asked for.

    Attributes:
        own: LongTensor [b] of each way to belong together (by caption, by image).
        every: LongTensor [B] of each, every rank's in rank order.
    """

    own: tuple[Tensor, ...]
    every: tuple[Tensor, ...]

    def __getitem__(self, rows: slice) -> Tensor:
        """Bool [r, B] of some rows."""
        ways = [own[rows, None] == every for own, every in zip(self.own, self.every, strict=True)]
        return torch.stack(ways).any(0) if len(ways) > 1 else ways[0]


def similarities(rows: Tensor, columns: Tensor) -> Tensor:
    """[r, D] and [B, D] -> [r, B], in full float32 where the towers of a CUDA device compute in TF32, which has three digits."""
    if rows.is_cuda and torch.backends.cuda.matmul.allow_tf32:
        exact: Tensor = _FullFloat32.apply(rows, columns)  # type: ignore[no-untyped-call]
        return exact
    return rows @ columns.T


class _FullFloat32(torch.autograd.Function):
    """The product of rows and transposed columns, and its gradients, without TF32."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, columns: Tensor) -> Tensor:
        ctx.save_for_backward(rows, columns)
        with _without_tf32():
            return rows @ columns.T

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rows, columns = ctx.saved_tensors
        with _without_tf32():
            return (
                grad @ columns if ctx.needs_input_grad[0] else None,
                grad.T @ rows if ctx.needs_input_grad[1] else None,
            )


@contextmanager
def _without_tf32() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def gather(local: Tensor) -> Tensor:
    """[b, D] on each rank -> [B, D] on every rank, differentiable; the tensor itself in a single process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return local
    if torch.distributed.get_world_size() == 1:
        return local
    gathered: Tensor = _Gather.apply(local)  # type: ignore[no-untyped-call]
    return gathered


class _Gather(torch.autograd.Function):
    """All ranks' rows; a row's gradient is the sum of those that every rank has for it."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        parts = [torch.empty_like(local) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total.chunk(torch.distributed.get_world_size())[torch.distributed.get_rank()]


def gather_ids(local: Tensor) -> Tensor:
    """LongTensor [b] on each rank -> [B] on every rank."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return local
    parts = [torch.empty_like(local) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, local)
    return torch.cat(parts)


def row_ids(rows: Tensor) -> Tensor:
    """A number per row that equal rows share and others do not (but once in 2^60): [n, L] tokens or features -> LongTensor [n].

    It depends on the row alone, so that ranks agree: a sum of the row's bits times fixed odd 64-bit numbers.
    """
    bits = rows.float().contiguous().view(torch.int32) if rows.is_floating_point() else rows
    return (bits.long() * _odd_numbers(rows.shape[1], rows.device)).sum(1)


@cache
def _odd_numbers(count: int, device: torch.device) -> Tensor:
    """Fixed odd 64-bit numbers, LongTensor [count]; kept on the device, since copying them there makes the host wait."""
    fixed = torch.Generator().manual_seed(0)
    return (torch.randint(-(2**62), 2**62, (count,), generator=fixed) * 2 + 1).to(device)


def embeddings(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor | None = None,
    kind: str = "softmax",
    all_image: Tensor | None = None,
) -> Embeddings:
    """Gather [b, D] unit-length image and text rows into an `Embeddings`; `all_image` where it was gathered before."""
    rank = (
        torch.distributed.get_rank() if torch.distributed.is_available() and torch.distributed.is_initialized() else 0
    )
    bias = torch.zeros((), device=image.device) if logit_bias is None else logit_bias
    every = gather(image) if all_image is None else all_image
    return Embeddings(image, text, every, gather(text), logit_scale, bias, rank * image.shape[0], kind)
