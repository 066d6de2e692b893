"""Times per operation from the ETDump that ExecuTorch's runner writes. Left out: writing one, which the phone's runner does."""

import contextlib
import io
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

from distill.core.errors import DistillError

WHOLE = (
    "Method::execute",
    "Method::init",
    "Program::load_method",
    "Program::load_data",
    "OPERATOR_CALL",
    "DELEGATE_CALL",
)


@dataclass(frozen=True)
class OpTime:
    """One operation of an exported file.

    Attributes:
        name: in the words of the delegate, or of ExecuTorch's kernel.
        delegated: whether the delegate ran it; False = ExecuTorch's own kernels on the CPU.
        p50_ms: over the calls of the trace. Tracing slows: these add up to more than the latency.
    """

    name: str
    delegated: bool
    p50_ms: float


def read_etdump(path: Path) -> list[OpTime]:
    """The operations of an ETDump, in the order in which they ran; events that hold others are left out.

    Raises DistillError for a file that is none, or without times.
    """
    if not path.exists() or not path.stat().st_size:
        raise DistillError(
            f"{str(path)!r} holds no trace: the runner was built without EXECUTORCH_ENABLE_EVENT_TRACER."
        )
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            logging.getLogger("executorch").setLevel(logging.ERROR)
            from executorch.devtools import Inspector

            blocks = Inspector(etdump_path=str(path)).event_blocks
    except ImportError as error:
        raise DistillError(
            f"Reading an ETDump needs executorch ({error}). pip install 'executorch>=1.4,<1.5'"
        ) from None
    except Exception as error:  # flatbuffers and json errors of many kinds
        raise DistillError(f"{str(path)!r} cannot be read as an ETDump: {type(error).__name__}: {error}") from None
    found = [
        OpTime(event.name, bool(event.is_delegated_op), round(float(event.perf_data.p50), 5))
        for block in blocks
        for event in block.events
        if event.perf_data is not None and event.name not in WHOLE and block.name != "Default"
    ]
    if not found:
        raise DistillError(f"{str(path)!r} holds no times of operations.")
    return found


def by_kind(operations: list[OpTime]) -> list[dict[str, object]]:
    """The operations added up by kind ("GELU (NC)" for "GELU (NC) #2"), the most expensive first."""
    sums: dict[tuple[str, bool], list[float]] = {}
    for operation in operations:
        sums.setdefault((operation.name.split(" #")[0], operation.delegated), []).append(operation.p50_ms)
    rows = [
        {"name": name, "delegated": delegated, "count": len(times), "ms": round(sum(times), 4)}
        for (name, delegated), times in sums.items()
    ]
    return sorted(rows, key=lambda row: -float(str(row["ms"])))
