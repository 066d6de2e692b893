"""Latency of a run's exported files on each device, of its models side by side on this host, and predicted for current phones."""

from dataclasses import asdict
from typing import Any

from distill.console import Console
from distill.core import atomic
from distill.core.errors import DistillError
from distill.recipe import Recipe
from distill.rehearsal import MARK
from distill.run_folder import RunFolder
from distill.stages.evaluate import Judged
from distill.stages.latency.phones import predicted, split_devices


def profile_stage(recipe: Recipe, models: list[Judged], run: RunFolder, console: Console) -> None:
    """Write profile.json: the exported files on each device, eager models side by side on this host, phones by prediction.

    It is made anew when the files or the settings are others than it was made of, as after a resume with more targets.
    """
    from distill.evaluation.eager_latency import eager_latency
    from export.artifacts.folder import read_artifacts
    from export.device import list_devices
    from export.latency.devices import REPORTED
    from export.latency.measure import profile

    settings, target = recipe.profile, run.profile
    if not settings.enabled:
        return
    folders = run.exported()
    files = {f"{folder.name}/{item.file}": item.sha256 for folder in folders for item in read_artifacts(folder)}
    made_of = atomic.sha256_json({"files": files, "settings": settings.model_dump(mode="json")})
    if target.exists() and atomic.read_json(target).get("made_of") == made_of:
        return
    here, phones = split_devices(settings)
    if phones:  # those are predicted, and what is measured is what else was named, or this host
        here = here or ["host"]
    with console.stage("profile on this host"):
        exported = profile(folders, run.student, settings.model_copy(update={"devices": tuple(here)}))
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
        names = [*phones, *recipe.choose.devices, *REPORTED]
        teachers = [model.name for model in models if model.role == "teacher"]
        result: dict[str, Any] = {
            "made_of": made_of,
            "host": host,
            "exported": [asdict(item) for item in exported],
            "eager": eager,
            "phones": [asdict(item) for item in predicted(str(run.path), names)],
            "teacher_phones": {
                name: _predicted_teacher(said, names) for said, name in zip(recipe.teachers, teachers, strict=True)
            },
        }
        if recipe.rehearse:
            result["rehearsal"] = MARK
        atomic.write_json(target, result)


def _predicted_teacher(teacher: str, devices: list[str]) -> list[dict[str, Any]]:
    """What a teacher would take on the phones; nothing where it is not one architecture that is known by name."""
    try:
        return [asdict(item) for item in predicted(teacher, devices)]
    except DistillError:
        return []
