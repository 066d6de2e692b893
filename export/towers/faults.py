"""Naming what is wrong with a tower: what its graph must not hold, and which known mistake explains that it says something else.

Left out: whether it is near enough to its source (export.towers.tower, export.towers.parity).
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from distill.core.errors import DistillError
from export.app.form import Layout, PixelType
from export.artifacts.record import Tower

if TYPE_CHECKING:
    from torch.export import ExportedProgram

LARGEST_HALF = 65504.0  # what fp16 holds
NEAR = 1e-3  # largest difference that rounding makes
EXPLAINS = 0.98  # mean cosine at which a mistake explains a difference
# Operations that some target does not take or takes wrongly -> what they are, and what they should have become.
UNWANTED = {
    "batch_norm": "a BatchNorm that is not folded (some quantizers fold it wrongly)",
    "scaled_dot_product_attention": "fused attention, whose safe softmax delegates leave to the CPU",
    "multi_head_attention": "fused attention, whose safe softmax delegates leave to the CPU",
    "bernoulli": "random numbers: the tower is in training mode",
    "argmax": "a search for the end token, which delegates leave to the CPU",
    "nonzero": "an output whose size depends on the values",
}


def check_program(program: "ExportedProgram", tower: Tower, batch: int | None = 1, pixels: PixelType = "float") -> None:
    """Raise DistillError that names everything that a deployable graph must not hold.

    Args:
        batch: inputs at a call; None = any number, of a file that takes several.
        pixels: what the graph of a tower of pixels takes.
    """
    found = list(_faults(program, tower, batch, pixels))
    if found:
        raise DistillError(
            f"The {tower} tower cannot be deployed as it is: {'; '.join(found)}. Please report this model."
        )


def _faults(program: "ExportedProgram", tower: Tower, batch: int | None, pixels: PixelType) -> Iterator[str]:
    (given,) = (node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs)
    (made,) = (node for node in program.graph.nodes if node.name in program.graph_signature.user_outputs)
    for name, node in (("input", given), ("output", made)):
        shape = node.meta["val"].shape
        fixed = shape if batch is not None else shape[1:]
        if not all(isinstance(size, int) for size in fixed):
            yield f"its {name} has no fixed shape ({list(map(str, shape))}): phones' NPUs take fixed shapes alone"
        elif batch is not None and shape[0] != batch:
            yield f"its {name} has batch {shape[0]}, not {batch}"
    wanted = torch.int32 if tower == "text" else {"float": torch.float32, "uint8": torch.uint8}[pixels]
    if given.meta["val"].dtype != wanted:
        yield f"its input is {given.meta['val'].dtype}, not {wanted}"
    if made.meta["val"].dtype != torch.float32 or made.meta["val"].dim() != 2:
        yield f"its output is {made.meta['val'].dtype} with {made.meta['val'].dim()} axes, not float32 [{batch or 'b'}, D]"
    for name, value in {**program.state_dict, **program.constants}.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            yield from _number_faults(name, value)
    if any("upsample" in str(node.target) for node in _constant(program, given)):
        yield "it holds a resize of a table that never changes, computed at every call"
    if any(
        "dropout" in str(node.target) and node.args[2] for node in program.graph.nodes if node.op == "call_function"
    ):
        yield "it holds dropout: the tower is in training mode"  # with False it is nothing, and every target drops it
    operations = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    for part, what in UNWANTED.items():
        if any(part in operation for operation in operations):
            yield f"it holds {what}"


def _constant(program: "ExportedProgram", given: Any) -> list[Any]:
    """The calls whose values do not hang on the input."""
    moved, still = {given}, []
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        if any(source in moved for source in node.all_input_nodes):
            moved.add(node)
        else:
            still.append(node)
    return still


def _number_faults(name: str, value: Tensor) -> Iterator[str]:
    if torch.isnan(value).any():
        yield f"{name} holds NaN"
    elif torch.isinf(value).any():
        yield f"{name} holds infinity (a mask must be finite: fp16 makes NaN of it)"
    elif float(value.detach().abs().max() if value.numel() else 0) > LARGEST_HALF:
        yield f"{name} holds numbers beyond {LARGEST_HALF:g}, which overflow in fp16"


Run = Callable[[Any], Any]


def explain_bytes(run: Run, pixels: Any, wanted: Any, layout: Layout) -> str:
    """The known mistake under which a tower that takes bytes would say something else, as a clause; "" where none explains it.

    Args:
        run: of the tower, which is given floats where bytes could not hold what it would be right for.
        pixels: [n, 3, S, S] in [0, 1].
        wanted: [n, D], what its source says.
        layout: that it should take.
    """

    def given(x: Any, like: Layout = layout) -> Any:
        numbers = x * 255
        return numbers.permute(0, 2, 3, 1) if like == "NHWC" else numbers

    def right(x: Any) -> bool:
        try:
            said = run(x)
        except RuntimeError:  # another layout's shape fits no first convolution
            return False
        return bool(said.shape == wanted.shape and _near(said, wanted))

    other: Layout = "NCHW" if layout == "NHWC" else "NHWC"
    mistakes = [
        ("it takes bytes as if they went from 0 to 1: the division by 255 is missing", given(pixels / 255)),
        ("it divides by 255 twice", given(pixels * 255)),
        ("its channels are swapped: it takes BGR", given(pixels.flip(1))),
        ("it sees images mirrored", given(pixels.flip(3))),
        ("it sees images upside down", given(pixels.flip(2))),
        ("rows and columns of its images are swapped", given(pixels.transpose(2, 3))),
        (f"it takes {other}, and not {layout}", given(pixels, other)),
    ]
    return next((what for what, changed in mistakes if right(changed)), "")


def explain(run: Run, inputs: Any, wanted: Any, tower: Tower, mean: Any, std: Any, eot: int | None = None) -> str:
    """The known mistake under which a tower would say what it says, as a clause; "" where none explains it.

    Args:
        run: [n, ...] -> [n, D] of the tower or file in doubt.
        inputs: pixels [n, 3, S, S] in [0, 1], or tokens [n, L].
        wanted: [n, D], what its source says.
        mean, std: of the normalisation that belongs inside, [1, 3, 1, 1].
        eot: id of the end token.
    """
    plain = run(inputs)
    if not torch.isfinite(plain).all():
        return "its embeddings hold NaN or infinity"
    lengths = plain.norm(dim=-1)
    if float((lengths - 1).abs().max()) > 1e-2 and _cosine(plain, wanted) > EXPLAINS:
        return f"its embeddings are not of unit length (up to {float(lengths.max()):.3g}): the L2 norm is missing"
    if _cosine(-plain, wanted) > EXPLAINS:
        return "its embeddings have the opposite sign"
    for what, changed in _mistakes(inputs, tower, mean, std, eot):
        if _cosine(run(changed), wanted) > EXPLAINS:
            return what
    if tower == "text" and eot is not None and _reads_behind(run, inputs, eot):
        return "it reads what stands behind a caption's end: the causal mask is missing, or it pools at another place"
    return ""


def _mistakes(inputs: Any, tower: Tower, mean: Any, std: Any, eot: int | None) -> Iterator[tuple[str, Any]]:
    """(what the tower does wrong, inputs with which it would then be right)."""
    if tower == "image":
        yield "its channels are swapped: it takes BGR", inputs.flip(1)
        yield "the normalisation is missing", (inputs - mean) / std
        yield "the normalisation is applied twice", inputs * std + mean
        yield "it takes pixels in [0, 255]", inputs * 255
        yield "it sees images mirrored", inputs.flip(3)
        yield "it sees images upside down", inputs.flip(2)
        yield "rows and columns of its images are swapped", inputs.transpose(2, 3)
    elif eot is not None:
        yield "its tokens are counted from another number", (inputs + 1).clamp(max=eot)
        yield "its tokens are counted from another number", (inputs - 1).clamp(min=0)


def _reads_behind(run: Run, tokens: Any, eot: int) -> bool:
    ends = (tokens == eot).int().argmax(1)
    behind = torch.arange(tokens.shape[1])[None] > ends[:, None]
    changed = torch.where(behind, torch.full_like(tokens, 7), tokens)
    return bool((run(changed) - run(tokens)).abs().max() > 1e-3)


def _near(a: Tensor, b: Tensor) -> bool:
    """As near as rounding leaves them: of embeddings and of probabilities, whose cosine hides more."""
    return float((a - b).abs().max()) < NEAR


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=-1).mean())
