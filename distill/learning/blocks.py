"""What is computed in parts so that it needs less memory, with the value and the gradient of the whole.

Logits of B images against B texts are B x B numbers, a few times over with the teachers' and what a softmax keeps for its
gradient: 1 GiB each at a batch of 16,384. Taken a block of rows at a time, and computed again for the gradient, they need memory
in proportion to B. Towers in chunks are gradient caching (GradCache, arXiv 2101.06983): all embeddings first, without what their
gradients need, the loss on all of them, then the chunks again one by one, with the same random numbers. Both are torch's own
checkpointing, so that they go through DistributedDataParallel and autocast as everything else does.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from distill.core.errors import UsageError

BLOCK = 2**22  # logits in one block: a batch of 2,048 on one rank is one block, 16 MiB in float32


def over_rows(each: Callable[[slice], Tensor], rows: int, columns: int) -> Tensor:
    """The values [rows] of `each`, which computes those of a slice of rows against all columns: [r] for r rows.

    It is called once where all rows make no more than `BLOCK` logits, else for blocks of rows, each again for the gradient.
    """
    if rows * columns <= BLOCK:
        return each(slice(0, rows))
    size = max(1, BLOCK // columns)
    blocks = [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
    return torch.cat([checkpoint(each, block, use_reentrant=False, preserve_rng_state=False) for block in blocks])


def in_chunks(tower: Callable[[Tensor], Tensor], inputs: Tensor, chunk: int | None) -> Tensor:
    """The outputs [n, D] of `tower` for inputs [n, ...], `chunk` rows at a time; None = all at once.

    The memory is that of one chunk, the gradient that of all, the cost one more forward pass. What a row becomes may not depend on
    the other rows, which the statistics of a BatchNorm in training do.
    """
    if chunk is None or len(inputs) <= chunk:
        return tower(inputs)
    return torch.cat([checkpoint(tower, part, use_reentrant=False) for part in torch.split(inputs, chunk)])


def refuse_in_chunks(model: nn.Module, fixed_norms: bool, needs_captions: bool) -> None:
    """Raise UsageError where a model's gradient in chunks (train.chunk) would not be that of the whole batch."""
    norms = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    if norms and not fixed_norms:
        raise UsageError(
            f"train.chunk does not go with BatchNorms that use the statistics of the batch ({norms[0]!r}, {len(norms)} in all): "
            "each chunk would have its own. Say --set train.batch_norm=fixed for a tower that came with statistics, or leave "
            "train.chunk out."
        )
    if needs_captions:
        raise UsageError(
            "train.chunk does not go with a captioner's loss, which reads more than embeddings: leave it out."
        )
