"""Milliseconds per call of eager PyTorch models on this host, batch 1, the models' rounds interleaved in one process.

Only torch runs here: exported files are timed by `export.latency.measure`, each runtime in a process of its own.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from distill.evaluation.evalset import Embedder

CAPTION = "a photo of a small red bicycle next to a tree"


def eager_latency(
    models: dict[str, Embedder], *, threads: int, runs: int, warmup_runs: int, rounds: int
) -> dict[str, dict[str, Any]]:
    """How long models take for one image and for one caption.

    An image call takes [1, 3, S, S] at the model's own size; a text call includes the tokenizer.

    Args:
        models: name -> model.
        threads: of torch, while this runs.
        runs: timed calls per model and tower, over all rounds.
        warmup_runs: calls before them that are not timed.
        rounds: the models take turns so many times, so that a slow minute of the host slows all of them.

    Returns:
        name -> "image_p50_ms", "image_p90_ms", "text_p50_ms", "text_p90_ms" (milliseconds), "threads", "runs".
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        calls: dict[tuple[str, str], Callable[[], object]] = {}
        for name, model in models.items():
            image = np.random.default_rng(0).random((1, 3, model.image_size, model.image_size), np.float32)
            calls[name, "image"] = partial(model.images, image)
            calls[name, "text"] = partial(model.texts, [CAPTION])
        times: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
        for call in calls.values():
            for _ in range(warmup_runs):
                call()
        for _ in range(rounds):
            for key, call in calls.items():
                for _ in range(max(1, runs // rounds)):
                    started = time.perf_counter()
                    call()
                    times[key].append((time.perf_counter() - started) * 1e3)
    finally:
        torch.set_num_threads(before)
    result: dict[str, dict[str, Any]] = {}
    for (name, tower), values in times.items():
        row = result.setdefault(name, {"threads": threads, "runs": len(values)})
        row[f"{tower}_p50_ms"] = round(float(np.percentile(values, 50)), 3)
        row[f"{tower}_p90_ms"] = round(float(np.percentile(values, 90)), 3)
    return result
