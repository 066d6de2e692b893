"""The one place that mends torch's ways: torchvision beside a CPU-only torch, what importing transformers says, workers that die.

Why: the registry's torchvision wheel for Linux is built for CUDA. Beside a CPU torch its native library does not load, so
the operators `torchvision::nms` and `torchvision::qnms` are never declared, and `import torchvision` fails with
"operator torchvision::nms does not exist" when it registers their Python fakes. timm and open_clip import torchvision,
so they fail too. Declaring the two schemas first makes the import succeed; calling `nms` itself still raises, and
nothing here calls it. Where torchvision's library loads, nothing is touched.
"""

import contextlib
import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_libraries: list[object] = []  # torch drops the schemas when the Library object dies


def ensure_torchvision() -> None:
    """Make `import torchvision` work beside a CPU torch. Call before the first import of timm, open_clip or torchvision."""
    import sys

    if _libraries or "torchvision" in sys.modules:
        return
    import torch

    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    for native in Path(spec.origin).parent.glob("_C.*"):
        try:
            torch.ops.load_library(str(native))  # type: ignore[no-untyped-call]
        except OSError:
            break
        return
    library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _libraries.append(library)


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """No complaints of torchao, which transformers imports with its models, about GPU libraries that its wheel cannot load here."""
    before = [(logger, logger.level) for logger in map(logging.getLogger, ("torchao", "torch.utils._pytree"))]
    try:
        for logger, _ in before:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in before:
            logger.setLevel(level)


def start_workers(loader: Any) -> Any:
    """The iterator of a DataLoader, its processes started; that one of them died is raised by `next`, and nowhere else.

    torch's handler of dead children raises wherever the main thread happens to be. Without it the death is noticed by
    `next` within seconds, where what the process was at can be named.
    """
    import signal
    import threading

    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD) if main else None
    started = iter(loader)
    if main:
        signal.signal(signal.SIGCHLD, before)
    return started
