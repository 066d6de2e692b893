"""How many pairs fit a device: what a training step keeps of one for its backward pass, counted without computing anything.

The towers are run on torch's fake tensors, which have shapes and choose kernels and hold no numbers, so that a count takes neither
the memory that it is about nor a GPU. Left out: weights, moments and gradients, which do not grow with the batch, and the losses'
matrices, which blocks keep small.
"""

from typing import Any

from distill.core.errors import DistillError
from distill.models import student_spec
from distill.recipe import Recipe
from students.spec import StudentSpec

_MEMORY_SHARE = 0.7  # of a device's memory for what the backward pass needs; weights and moments have the rest


def pairs_that_fit(recipe: Recipe, share: int, memory: float, *, bf16: bool) -> tuple[int, str]:
    """(pairs of a process, halved until what a step keeps of them fits, why so few); the reason is "" where all fit.

    What is kept of a pair was measured for the students that say so, and is counted for others.

    Args:
        share: pairs of a process, at most. memory: GB of its device. bf16: whether the step is under autocast.
    """
    train = recipe.train
    if recipe.towers or train.chunk is not None or train.recompute:
        return share, ""  # what is kept does not grow with the batch, or not so
    spec, how = student_spec(recipe.student), ""
    needed = None if spec.activation_mb is None else 2 * spec.activation_mb
    if needed is None:
        needed, how = kept_mb(spec) or 0.0, ", counted"
    needed = needed / 1000 / (2 if bf16 else 1)
    pairs = share
    while pairs > 2 and pairs * needed > train.accumulate * _MEMORY_SHARE * memory:
        pairs //= 2
    if pairs == share:
        return share, ""
    return pairs, f"halved to {pairs}: {memory:.0f} GB of memory hold no more at {needed:.2f} GB a pair{how}"


def kept_mb(spec: StudentSpec) -> float | None:
    """Megabytes that a step in float32 keeps of one pair; None where the towers cannot be run without numbers."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from students.student import build_student

    try:
        with torch.device("meta"):  # building looks at numbers, which fake tensors do not allow
            student = build_student(spec, 0).train()
        with FakeTensorMode(allow_non_fake_inputs=True):
            as_fake: Any = student._apply
            as_fake(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))
            few, more = (_kept_bytes(student, pairs) for pairs in (2, 4))
    except (DistillError, NotImplementedError, RuntimeError, TypeError, ValueError, AttributeError, AssertionError):
        return None
    return (more - few) / 2 / 1e6


def _kept_bytes(student: Any, pairs: int) -> int:
    """Bytes of all that is saved for the gradient of so many pairs, each memory once."""
    import torch

    weights = {parameter.untyped_storage()._cdata for parameter in student.parameters()}
    kept: dict[int, Any] = {}  # the memories themselves, so that none is let go and its number given to another

    def note(tensor: Any) -> Any:
        memory = tensor.untyped_storage()
        if memory._cdata not in weights:
            kept[memory._cdata] = memory
        return tensor

    side = student.image_size
    images = torch.zeros(pairs, 3, side, side)
    tokens = torch.zeros(pairs, int(student.clip.context_length), dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = student.clip.encode_image(images), student.clip.encode_text(tokens)
    size = sum(int(memory.nbytes()) for memory in kept.values())
    del outputs
    return size
