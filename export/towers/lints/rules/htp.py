"""Rules of Qualcomm's Hexagon NPU, for ONNX Runtime with QNN and ExecuTorch's QNN delegate."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from export.towers.lints.kinds import CONVOLUTIONS, LAYOUT, PRODUCTS
from export.towers.lints.rule import Found, Subject, add
from export.towers.lints.rules.ane import low_masks

if TYPE_CHECKING:
    from export.towers.lints.graph import Graph

UNIT = "HTP"
CHANNELS = 32
LAYOUT_SHARE = 2.0  # layout operations per product or convolution
# Qualcomm's name of a chip -> Hexagon's architecture (ExecuTorch's qc_schema).
HEXAGON = {
    "SM8350": 68, "QCM6490": 68, "QCS6490": 68, "SM8450": 69, "SM8475": 69, "SXR2230": 69,
    "SM8550": 73, "QCS8550": 73, "SM8650": 75,
    "SM8750": 79, "SM8850": 81, "SM8845": 81,
}  # fmt: skip


@add(
    "HTP-CH", "W", UNIT,
    says="the NPU works on 32 channels at once and pads the rest",
    mend="widths that 32 divides; dense convolutions where channels are few",
    source="Qualcomm's htp_guidelines_low_depth_activations",
)  # fmt: skip
def channels(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """Convolutions and linear layers of other widths; pictures' three channels apart."""
    for operation in graph.of(*CONVOLUTIONS, "linear"):
        if len(operation.given) < 2:
            continue
        width = (
            operation.shape[-1]
            if operation.op == "linear"
            else operation.shape[1]
            if len(operation.shape) > 1
            else None
        )
        if width is not None and width % CHANNELS:
            yield Found(operation.where, f"{width} channels")


@add(
    "HTP-LAYOUT", "W", UNIT,
    says="reshapes, transposes and concatenations move memory and cost as much as work does",
    mend="a tower with fewer of them: windows and channel splits are what makes many",
    source="Qualcomm's guidelines",
)  # fmt: skip
def layouts(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """Many layout operations beside the work."""
    moved = sum(1 for _ in graph.of(*LAYOUT))
    work = sum(1 for _ in graph.of(*CONVOLUTIONS, *PRODUCTS))
    if work and moved > LAYOUT_SHARE * work:
        yield Found("", f"{moved} layout operations beside {work} products and convolutions")


@add(
    "HTP-ACT", "W", UNIT,
    says="ReLU, PReLU and HardSwish are computed with the convolution before them; GELU and SiLU are not",
    mend="an image tower with ReLU or HardSwish (RepViT's and MobileNetV4's conv variants), where latency counts most",
    source="Qualcomm's htp_guidelines_a16_vs_fp16",
)  # fmt: skip
def activations(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """Activations behind convolutions that do not fuse."""
    if any(True for _ in graph.of("conv2d", "convolution")):
        for operation in graph.of("gelu", "silu", "mish", "elu"):
            if operation.node.all_input_nodes and _is_convolution(operation.node.all_input_nodes[0]):
                yield Found(operation.where, operation.op)


def _is_convolution(node: object) -> bool:
    return "conv" in str(getattr(node, "target", ""))


@add(
    "HTP-PC", "E", UNIT,
    says="convolutions over one axis have no kernel there",
    mend="a convolution over two axes with a height of 1",
    source="ExecuTorch's QNN delegate (conv1d to conv2d)",
)  # fmt: skip
def one_axis(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """conv1d."""
    for operation in graph.of("conv1d", "convolution"):
        if operation.op == "conv1d" or len(operation.shape) == 3:
            yield Found(operation.where, "conv1d")


@add(
    "HTP-MASK", "E", UNIT,
    says="masks of -inf break the NPU's softmax and every quantizer's range",
    mend="fill with -1e4, or -255 where activations are integers",
    source="executorch #18812",
)  # fmt: skip
def masks(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """-inf and what is next to it."""
    yield from low_masks(graph, -65535.0)


@add(
    "HTP-ARCH", "E", UNIT,
    says="this chip's NPU has no fp16 (V68), or a part of it alone (V69)",
    mend="--precision w8a16 or w8a8, or a chip of V73 and later (export.chips.qualcomm)",
    source="ExecuTorch's qc_schema; Qualcomm's table of supported operations",
)  # fmt: skip
def architecture(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """fp16 for a chip that lacks it; onnx-qnn compiles for V73 and later alone."""
    version = HEXAGON.get(subject.chips.qualcomm.removesuffix("P"))
    if subject.target == "executorch-qnn" and subject.precision == "fp16" and version is not None and version < 73:
        yield Found("", f"{subject.chips.qualcomm} is Hexagon V{version}")


@add(
    "HTP-WIN", "E", UNIT,
    says="attention in windows of five axes and more fails to compile with integer activations, or runs slower than in fp16",
    mend="--precision fp16, or a tower without windows",
    source="aimet #4086",
)  # fmt: skip
def windows(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """Tensors of five axes beside attention, quantized."""
    if subject.integers and graph.attention():
        for operation in graph.of(*LAYOUT):
            if operation.rank >= 6:
                yield Found(operation.where, f"{operation.op} of {operation.rank} axes")


@add(
    "HTP-QVIT", "W", UNIT,
    says="8-bit activations throughout destroy transformers: published ViTs fell from 80 to 62 and to 0 %",
    mend="--precision w8a16, or fp16; parity refuses what is lost",
    source="TinyNeuralNetwork PR #204; MCT #1337; quanto #216",
)  # fmt: skip
def quantized_attention(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """Attention in w8a8."""
    found = graph.attention()
    if subject.precision == "w8a8" and found:
        yield Found(found[0].where, f"{len(found)} layers of attention")


@add(
    "HTP-FASTVIT", "W", UNIT,
    says="FastViT's weights have outliers that int8 cuts: ExecuTorch's own test accepts 60 for 79.9 % there",
    mend="--precision fp16, or a calibration that parity accepts",
    source="ExecuTorch's QNN tests",
)  # fmt: skip
def fastvit(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """FastViT towers with integer activations."""
    if graph.tower == "image" and subject.integers and any(name in subject.image_net for name in ("fastvit", "mci")):
        yield Found("", subject.image_net)


@add(
    "HTP-SOC", "I", UNIT,
    says="a context binary serves one chip alone",
    mend="export once for every chip (export.chips.qualcomm); onnx-qnn files serve them all",
    source="Qualcomm's documentation of context binaries",
)  # fmt: skip
def one_chip(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """Files for one chip."""
    if subject.target == "executorch-qnn":
        yield Found("", f"made for the {subject.chips.qualcomm}")


@add(
    "HTP-SPEED", "I", UNIT,
    says="int8 is not faster for every ViT: 0.81 to 1.24 times as fast as fp16 where it was measured",
    mend="time both: distill profile",
    source="Qualcomm AI Hub's published latencies of ViT-B/16",
)  # fmt: skip
def int8_speed(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """Transformers with integer activations."""
    found = graph.attention()
    if graph.tower == "image" and subject.integers and found:
        scores = sum(math.prod(size or 1 for size in one.shape) for one in found)
        yield Found("", f"{len(found)} layers of attention, {scores / 1e6:.2g} million scores")
