"""Run a saved .mlpackage (its protobuf and its weight.bin, as written) on a machine without Core ML.

Every operation is computed in float32 and its result rounded to the type that the program declares, so an fp16
program loses what an fp16 program loses. Left out: what only Apple's compiler decides (fusion, the order and width of
accumulation on the Neural Engine, fallbacks); whether the order matters shows when the program is run in others. It tells
whether the file holds the right program and whether fp16 suffices; it is not Core ML.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.core.arrays import Array
from export.mil.compressed import EXPANSIONS
from export.mil.coremltools import import_coremltools
from export.mil.further_ops import FURTHER_OPS
from export.mil.ops import OPS, Arguments
from export.target import NotCheckedError

KNOWN = {**OPS, **FURTHER_OPS}


class MilProgram:
    """A function of a saved ML Program with one input and one output.

    Args:
        path: the .mlpackage folder.
        function: its name, of a package that has several; None = the only one.

    Raises:
        NotCheckedError: when the program holds an operation that `export.mil.ops` does not know.
    """

    def __init__(self, path: Path, function: str | None = None) -> None:
        ct = import_coremltools()
        from coremltools.converters.mil.frontend.milproto.load import load

        model = ct.models.MLModel(str(path), skip_model_load=True)
        spec = model.get_spec()
        loaded = load(spec, specification_version=spec.specificationVersion, file_weights_dir=model.weights_dir)
        found = loaded.functions[function or "main"]
        known = [op for op in found.operations if op.op_type != "const"]
        unknown = sorted({op.op_type for op in known} - {*KNOWN, *EXPANSIONS})
        if unknown:
            raise NotCheckedError(f"not checked: op {', '.join(unknown)}")
        self.operations = [op for op in known if op.op_type in KNOWN]
        self._compressed = {op.outputs[0]: op for op in known if op.op_type in EXPANSIONS}
        (self.input,) = found.inputs.values()
        (self.output,) = found.outputs
        size = self.input.shape[0] if self.input.shape else 1
        self.batch = int(size) if str(size).isdigit() else 1  # the smallest where it takes several numbers of inputs
        self._constants: dict[Any, Any] = {}

    @torch.no_grad()
    def run(
        self, value: Array, blocks: int = 1, see: Callable[[str, Tensor], None] | None = None, exact: bool = False
    ) -> Array:
        """The program's output for one input, float32.

        Args:
            blocks: in how many pieces sums are added, see `export.mil.sums`.
            see: called with the name and the value of the input and of each operation's result.
            exact: results that the program declares as fp16 stay float32.
        """
        values: dict[Any, Any] = {self.input: rounded(torch.from_numpy(value), type_name(self.input))}
        if see is not None:
            see(self.input.name, values[self.input])
        for op in self.operations:
            self._step(op, values, blocks, exact)
            for variable in op.outputs if see is not None else ():
                see(variable.name, values[variable])  # type: ignore[misc]
        return values[self.output].float().numpy()  # type: ignore[no-any-return]

    def _step(self, op: Any, values: dict[Any, Any], blocks: int, exact: bool = False) -> None:
        """Add an operation's results to `values`. `exact`: floats are not rounded to the declared types."""
        made = type_name(op.outputs[0])
        if exact and made == "fp16":
            made = "fp32"
        sums = (blocks, lambda x, made=made: rounded(x, made))
        result = KNOWN[op.op_type](Arguments(op, lambda variable: self._value(variable, values), sums))
        for variable, item in zip(op.outputs, result if isinstance(result, tuple) else (result,), strict=True):
            declared = type_name(variable)
            values[variable] = rounded(item, "fp32" if exact and declared == "fp16" else declared)

    @torch.no_grad()
    def first_divergence(self, value: Array, apart: float = 0.01) -> str:
        """The first operation whose result in the declared types is `apart` from that in fp32; "" where none is.

        Apart is the length of the difference over the length of the fp32 result. Both runs have the program's own weights, so
        that what is found is a matter of rounding or overflow, not of compression.
        """
        half: dict[Any, Any] = {self.input: rounded(torch.from_numpy(value), type_name(self.input))}
        full: dict[Any, Any] = {self.input: torch.from_numpy(value)}
        for op in self.operations:
            self._step(op, half, 1)
            self._step(op, full, 1, exact=True)
            for variable in op.outputs:
                a, b = half[variable], full[variable]
                if not (isinstance(a, torch.Tensor) and a.is_floating_point()):
                    continue
                error = float((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-12))
                if not error <= apart:
                    largest = float(b.abs().max())
                    return f"{op.op_type} {op.name!r} is {error:.1%} apart from fp32, whose largest number there is {largest:.3g}"
        return ""

    def _value(self, variable: Any, values: dict[Any, Any]) -> Any:
        if variable in values:
            return values[variable]
        if variable not in self._constants:
            op = self._compressed.get(variable)
            if op is None:
                self._constants[variable] = constant(variable.val)
            else:  # as at load time: once, and then at hand
                dense = EXPANSIONS[op.op_type](Arguments(op, lambda inner: self._compressed_argument(inner)))
                self._constants[variable] = rounded(dense, type_name(variable))
        return self._constants[variable]

    def _compressed_argument(self, variable: Any) -> Any:
        """An argument of a compressed weight: another one, or a constant that is needed this once."""
        return self._value(variable, {}) if variable in self._compressed else constant(variable.val)


def type_name(variable: Any) -> str:
    """ "fp16", "fp32", "int32", "bool", ... as the program declares it."""
    from coremltools.converters.mil.mil import types

    return str(types.builtin_to_string(variable.dtype))


def rounded(x: Tensor, declared: str) -> Tensor:
    """`x` as a value of the declared type; floats stay float32 in memory, rounded to fp16 if declared so."""
    if declared == "fp16":
        return x.half().float()
    if declared == "fp32":
        return x.float()
    if declared == "bool":
        return x.bool()
    return x.to(torch.int32)


def constant(value: Any) -> Any:
    """A constant of the program: numbers as tensors (fp16 widened, exactly, to float32), strings as they are."""
    array = np.asarray(value)
    if array.dtype.kind in "US":
        return str(value)
    if array.dtype.kind == "f":
        return torch.from_numpy(array.astype(np.float32))
    return torch.from_numpy(np.array(array, dtype=bool if array.dtype.kind == "b" else np.int32))
