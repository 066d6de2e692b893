"""A tower's graph as rules look at it: operations with their shapes, and the module that each comes from.

It is the graph that targets lower, so that what the canonicaliser mends (`export.towers.rewrite`, `export.towers.text`) is not in
it. Left out: the rules (`export.towers.lints.rules`).
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from export.artifacts.record import Tower
from export.towers.lints.kinds import CONVOLUTIONS, PRODUCTS

if TYPE_CHECKING:
    from torch.export import ExportedProgram

NOTHING = ("_assert_tensor_metadata", "dropout", "getitem", "to", "detach", "alias", "clone", "sym_size")


@dataclass(frozen=True)
class Operation:
    """One call of the graph.

    Attributes:
        op: ATen's name, "conv2d".
        where: module that it comes from, "visual.trunk.stages.3"; "" = the tower itself.
        shape: of its (first) result; sizes that are not fixed are None.
        given: shapes of the tensors that go in.
        moving: for each of them, whether it depends on the input, and is no weight.
        args: its arguments, tensors as their nodes.
        node: of the graph.
    """

    op: str
    where: str
    shape: tuple[int | None, ...]
    given: tuple[tuple[int | None, ...], ...]
    moving: tuple[bool, ...]
    args: tuple[Any, ...]
    node: Any

    def argument(self, name: str, place: int, default: Any = None) -> Any:
        """An argument by its name or place."""
        return self.node.kwargs.get(name, self.args[place] if len(self.args) > place else default)

    @property
    def activations(self) -> int:
        """How many of its tensors depend on the input."""
        return sum(self.moving)

    @property
    def rank(self) -> int:
        """Axes of its result, or of what goes in where that has more."""
        return max((len(shape) for shape in (self.shape, *self.given)), default=0)


@dataclass(frozen=True)
class Graph:
    """A tower of a model, as it is lowered.

    Attributes:
        tower: "image" or "text".
        operations: those that depend on the input, in order.
        constants: name -> weights and tables.
        program: torch's own.
        peaks: node's name -> largest magnitude of its result on real inputs, where they were run.
    """

    tower: Tower
    operations: tuple[Operation, ...]
    constants: dict[str, Tensor]
    program: "ExportedProgram"
    peaks: dict[str, float] = field(default_factory=dict)

    def of(self, *names: str) -> Iterator[Operation]:
        """The operations of these names; an in-place form ("relu_") counts as its plain one."""
        for operation in self.operations:
            if operation.op in names or operation.op.rstrip("_") in names:
                yield operation

    def attention(self) -> list[Operation]:
        """The softmaxes beside products of two activations."""
        found = self.softmaxes()
        return found if any(product.activations > 1 for product in self.of(*PRODUCTS)) else []

    def softmaxes(self) -> list[Operation]:
        """Those over places or tokens; a classifier's, [b, k], is none."""
        return [one for one in self.of("softmax", "_softmax") if len(one.shape) > 2]

    @property
    def macs(self) -> int:
        """Multiply-adds of convolutions and products, at batch 1."""
        return sum(map(_macs, self.of(*CONVOLUTIONS, *PRODUCTS)))


def graph_of(program: "ExportedProgram", tower: Tower, peaks: dict[str, float] | None = None) -> Graph:
    """The graph of a saved or new torch.export program."""
    moving = {node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs}
    found = tuple(_operations(program.graph_module, moving))
    return Graph(tower, found, {**program.state_dict, **_tensors(program.constants)}, program, peaks or {})


def _operations(module: Any, moving: set[Any]) -> Iterator[Operation]:
    """The operations that depend on nodes in `moving`, which grows; those of a graph inside a call (a cast region) in its place."""
    for node in module.graph.nodes:
        if node.op != "call_function" or not any(source in moving for source in node.all_input_nodes):
            continue
        moving.add(node)
        if inner := [one for one in node.all_input_nodes if one.op == "get_attr" and _is_graph(module, one)]:
            called = getattr(module, inner[0].target)
            takes = [one for one in called.graph.nodes if one.op == "placeholder"]
            given = node.args[len(node.args) - len(takes) :]
            yield from _operations(called, {name for name, one in zip(takes, given, strict=True) if one in moving})
            continue
        value = node.meta.get("val")
        value = value[0] if isinstance(value, (tuple, list)) and value else value
        name = getattr(node.target, "__name__", str(node.target)).partition(".")[0]
        if name in NOTHING or not isinstance(value, Tensor):
            continue
        sources = [one for one in node.all_input_nodes if isinstance(one.meta.get("val"), Tensor)]
        yield Operation(
            op=name,
            where=_module(node),
            shape=_sizes(value),
            given=tuple(_sizes(one.meta["val"]) for one in sources),
            moving=tuple(one in moving for one in sources),
            args=tuple(node.args),
            node=node,
        )


def _is_graph(module: Any, node: Any) -> bool:
    return isinstance(getattr(module, str(node.target), None), torch.fx.GraphModule)


def _tensors(constants: Any) -> dict[str, Tensor]:
    return {name: value for name, value in constants.items() if isinstance(value, Tensor)}


def _sizes(value: Tensor) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in value.shape)


def _module(node: Any) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def _macs(operation: Operation) -> int:
    made = math.prod(size or 1 for size in operation.shape)
    if operation.op in CONVOLUTIONS:
        kernel = operation.given[1] if len(operation.given) > 1 else ()
        return made * math.prod(size or 1 for size in kernel[1:])
    inner = operation.given[0][-1] if operation.given and operation.given[0] else 1
    return made * (inner or 1)


def trace_tower(module: nn.Module, example: Tensor, tower: Tower, dynamic: Any = None) -> Graph:
    """The graph of a deployable tower, whose result is computed on `example` alone.

    `dynamic`: torch.export's own word for sizes that are not fixed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecating its own internals while it exports
        return graph_of(torch.export.export(module, (example,), dynamic_shapes=dynamic), tower)


def with_peaks(graph: Graph, inputs: Iterable[Tensor]) -> Graph:
    """The graph with the largest magnitude of every result, on inputs at batch 1 each."""
    found: dict[str, float] = {}

    class Watch(torch.fx.Interpreter):
        def run_node(self, n: Any) -> Any:
            value = super().run_node(n)
            if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
                peak = float(value.detach().abs().nan_to_num(nan=math.inf).max())
                found[n.name] = max(found.get(n.name, 0.0), peak)
            return value

    module: Callable[..., Any] = graph.program.module()
    watch = Watch(module)  # type: ignore[arg-type]
    with torch.no_grad():
        for given in inputs:
            watch.run(given)
    return Graph(graph.tower, graph.operations, graph.constants, graph.program, found)
