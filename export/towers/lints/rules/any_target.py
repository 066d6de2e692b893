"""Rules of every target: what no exporter lowers well, whatever the hardware."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from export.towers.lints.rule import ANY, UNITS, Found, Subject, add

if TYPE_CHECKING:
    from export.towers.lints.graph import Graph


def open_sizes(graph: "Graph") -> Iterator[Found]:
    """Sizes that are not known when the tower is lowered."""
    for operation in graph.operations:
        if None in operation.shape:
            yield Found(operation.where, f"{operation.op} gives {_shown(operation.shape)}")


def axes_above(graph: "Graph", most: int) -> Iterator[Found]:
    """Tensors of more axes than a runtime takes."""
    for operation in graph.operations:
        if operation.rank > most:
            yield Found(operation.where, f"{operation.op} of {operation.rank} axes")


@add(
    "GRAPH-SHAPE", "E", ANY,
    says="NPUs and delegates take fixed shapes alone",
    mend="export one file per size (export.batch)",
    source="the vendors' guides",
)  # fmt: skip
def open_shapes(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """Open sizes; Apple's targets have a rule of their own (ANE-SHAPE)."""
    if UNITS.get(subject.target) != "ANE":
        yield from open_sizes(graph)


@add(
    "GRAPH-TRAINED", "E", ANY,
    says="a layer is in its training form, which is slow or random",
    mend="let export fold and freeze it: report a model in which it stays",
    source="the exporters' own errors",
)  # fmt: skip
def training_forms(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """BatchNorms that are left, and random numbers."""
    for operation in graph.operations:
        if "batch_norm" in operation.op:
            yield Found(operation.where, "a BatchNorm that is not folded")
        elif operation.op in ("bernoulli", "rand_like", "native_dropout"):
            yield Found(operation.where, "random numbers")


@add(
    "GRAPH-SEARCH", "W", ANY,
    says="an output whose size depends on the values is taken by no delegate",
    mend="compare and multiply instead of searching (as export pools captions)",
    source="ExecuTorch's and Core ML's lists of operations",
)  # fmt: skip
def searches(graph: "Graph", subject: Subject) -> Iterator[Found]:
    """Operations such as nonzero."""
    for operation in graph.of("nonzero", "masked_select", "unique", "_unique2"):
        yield Found(operation.where, operation.op)


def _shown(shape: "tuple[int | None, ...]") -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"
