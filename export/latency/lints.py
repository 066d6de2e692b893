"""What in a tower keeps a phone's NPU from running it whole: found by looking at its operations, before anything is measured.

Where one of these holds, a prediction is a lower bound with a surcharge: some layers run on the CPU or in a slow form, and
published latencies of models that ran partly on the CPU are 1.2 (median), 1.8 (three in four) to 5.4 times (nine in ten) as long.
Left out: rules about numbers (fp16 ranges), which the export's parity check sees.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from export.latency.graph.trace import Op

SURCHARGE = 1.5  # between the median and three quarters of published models with layers off the NPU
WORST = 5.4  # nine in ten published models with layers off the NPU are at most so much slower


class Lint(NamedTuple):
    """One finding: the rule's short name, and what it means in words."""

    rule: str
    says: str


def _six_dimensions(operations: Mapping[Op, int]) -> bool:
    return any(op.name == "rank6" for op in operations)


def _shuffles(operations: Mapping[Op, int]) -> bool:
    return any(op.name == "shuffle" for op in operations)


def _unfolds(operations: Mapping[Op, int]) -> bool:
    return any(op.name in ("im2col", "col2im") for op in operations)


def _linear_attention(operations: Mapping[Op, int]) -> bool:
    """EfficientViT's: products of activations without a softmax anywhere."""
    kinds = {op.kind for op in operations}
    return "bmm" in kinds and "softmax" not in kinds


def _separable_attention(operations: Mapping[Op, int]) -> bool:
    """MobileViTv2's: a softmax over tokens, and no product of activations."""
    kinds = {op.kind for op in operations}
    return "softmax" in kinds and "bmm" not in kinds


# Rule -> (units, whether it holds, what it says).
RULES: dict[str, tuple[set[str], Callable[[Mapping[Op, int]], bool], str]] = {
    "ANE-RANK": ({"ANE"}, _six_dimensions, "a tensor has more than five dimensions, which the Neural Engine does not take"),
    "ANE-SHUFFLE": ({"ANE"}, _shuffles, "channel shuffles run off the Neural Engine or slowly there"),
    "ANE-UNFOLD": ({"ANE", "HTP"}, _unfolds, "unfold or fold has no NPU kernel"),
    "NPU-LINEAR-ATTENTION": (
        {"ANE", "HTP"}, _linear_attention, "linear attention has published latencies 1.7 to 2.7 times what its operations cost",
    ),
    "ANE-SEPARABLE-ATTENTION": (
        {"ANE"}, _separable_attention, "separable attention is published as failed, or ten times slower, on the Neural Engine",
    ),
}  # fmt: skip


def placement_lints(operations: Mapping[Op, int], unit: str) -> list[Lint]:
    """What may keep layers off an NPU of the kind `unit` ("ANE", "HTP"); empty where nothing is known against it."""
    return [Lint(rule, says) for rule, (units, holds, says) in RULES.items() if unit in units and holds(operations)]


def surcharge(operations: Mapping[Op, int], unit: str) -> float:
    """What to multiply a roofline with: `SURCHARGE` where `placement_lints` finds anything, else 1."""
    return SURCHARGE if placement_lints(operations, unit) else 1.0
