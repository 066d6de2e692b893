"""Rules of Arm's Ethos-U, of Vulkan on phones' GPUs, and of XNNPACK on CPUs. MediaTek's and Samsung's delegates publish none."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from export.towers.lints.kinds import LAYOUT, PRODUCTS
from export.towers.lints.rule import Found, Subject, add
from export.towers.lints.rules.any_target import axes_above

if TYPE_CHECKING:
    from export.towers.lints.graph import Graph

ETHOS, VULKAN, XNNPACK = "Ethos-U", "Vulkan", "XNNPACK"
PRODUCT_OF_AXES = 65536


@add(
    "ETHOS-AXES", "E", ETHOS,
    says="the U55 rejects transposes and views whose axes multiply to more than 65,536",
    mend="a smaller input, or a U65 or U85 (export.chips.ethos_u)",
    source="ExecuTorch PR #12106, #18041",
)  # fmt: skip
def axes(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """Large layout operations on a U55."""
    if subject.chips.ethos_u.startswith("ethos-u55"):
        for operation in graph.of(*LAYOUT):
            count = math.prod(size or 1 for size in operation.shape)
            if count > PRODUCT_OF_AXES and operation.op not in ("cat", "stack"):
                yield Found(operation.where, f"{operation.op} of {count:,} numbers")


@add(
    "ETHOS-OPS", "E", ETHOS,
    says="PReLU, recurrent layers and BatchNorms that stand alone are not supported",
    mend="ReLU, and BatchNorms behind convolutions",
    source="ExecuTorch's Arm delegate",
)  # fmt: skip
def unsupported(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """Operations that Vela has not."""
    for operation in graph.of("prelu", "_prelu_kernel", "gru", "lstm", "rnn_tanh"):
        yield Found(operation.where, operation.op)
    for operation in graph.operations:
        if "batch_norm" in operation.op:
            yield Found(operation.where, operation.op)


@add(
    "ETHOS-RANK", "W", ETHOS,
    says="permutations of five axes behind a convolution have crashed the compiler",
    mend="fold two axes into one first",
    source="executorch #16739",
)  # fmt: skip
def ethos_rank(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """Permutations of five axes and more."""
    for operation in graph.of("permute", "transpose"):
        if operation.rank >= 5:
            yield Found(operation.where, f"{operation.op} of {operation.rank} axes")


@add(
    "ETHOS-SOFTMAX", "W", ETHOS,
    says="a softmax finds its largest number slowly there",
    mend="fewer tokens, or a convolutional tower",
    source="executorch #18319",
)  # fmt: skip
def softmaxes(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """Softmaxes."""
    for operation in graph.of("softmax", "_softmax"):
        yield Found(operation.where, f"a softmax over {operation.shape[-1]}")


@add(
    "VK-RANK", "W", VULKAN,
    says="Vulkan takes tensors of at most four axes: the delegate leaves such operations to the runtime's plain CPU kernels",
    mend="fold axes into one, or another target",
    source="ExecuTorch's Vulkan delegate",
)  # fmt: skip
def vulkan_rank(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """Tensors of five axes and more."""
    yield from axes_above(graph, 4)


@add(
    "VK-HARDSWISH", "W", VULKAN,
    says="hardswish gives zeros on PowerVR GPUs, which the Pixel 10 has",
    mend="ReLU or GELU, or another target for such phones",
    source="ExecuTorch's Vulkan delegate",
)  # fmt: skip
def hardswish(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """hardswish."""
    for operation in graph.of("hardswish"):
        yield Found(operation.where, operation.op)


@add(
    "XNN-BMM", "I", XNNPACK,
    says="products of two activations and LayerNorms are left to slower kernels",
    mend="nothing: set threads, and time it (distill profile)",
    source="ExecuTorch's XNNPACK delegate",
)  # fmt: skip
def undelegated(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """What the delegate leaves."""
    if subject.target == "executorch-xnnpack":
        for operation in graph.of(*PRODUCTS):
            if operation.activations > 1:
                yield Found(operation.where, f"{operation.op} of two activations")
        for operation in graph.of("layer_norm", "native_layer_norm"):
            yield Found(operation.where, operation.op)
