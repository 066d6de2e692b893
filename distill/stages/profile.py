"""Latency of a run's exported files on each device, and of its models side by side on this host."""

from dataclasses import asdict
from typing import Any

from distill.console import Console
from distill.core import atomic
from distill.recipe import Recipe
from distill.rehearsal import MARK
from distill.run_folder import RunFolder
from distill.stages.evaluate import Judged


def profile_stage(recipe: Recipe, models: list[Judged], run: RunFolder, console: Console) -> None:
    """out/profile.json: the exported files on each device, and eager models side by side on this host."""
    from distill.evaluation.eager_latency import eager_latency
    from export.device import list_devices
    from export.profile import profile

    settings, target = recipe.profile, run.profile
    if target.exists() or not settings.enabled:
        return
    with console.stage("profile on this host"):
        exported = profile(run.exported(), run.student, settings)
        eager = eager_latency(
            {
                model.role if model.role != "teacher" else model.name: model.embedder("cpu")
                for model in models
                if model.role in ("teacher", "student", "plain")
            },
            threads=settings.threads,
            runs=settings.runs,
            warmup_runs=settings.warmup_runs,
            rounds=settings.rounds,
        )
        host = next(asdict(device) for device in list_devices() if device.kind == "host")
        result: dict[str, Any] = {"host": host, "exported": [asdict(item) for item in exported], "eager": eager}
        if recipe.rehearse:
            result["rehearsal"] = MARK
        atomic.write_json(target, result)
