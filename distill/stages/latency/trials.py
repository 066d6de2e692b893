"""Training several of the students that a budget allows, and keeping the one that is judged best (`choose.train`).

All learn from the same samples by the same settings, those of the most promising one. Each has a folder of its own in
candidates/; the one that is kept moves from there to the run's own student/. Left out: choosing them
(`distill.stages.latency.choose`).
"""

import os
import re
from pathlib import Path
from typing import Any

from distill.console import Console
from distill.core import atomic
from distill.models import TeacherSet
from distill.processes import WEEK_S, stage_device, this_place, wait_until
from distill.recipe import Recipe
from distill.recipe.said import put
from distill.run_folder import RunFolder
from distill.stages.evaluate import open_evalset
from distill.stages.latency.choose import KEYS
from distill.stages.opening import keep_recipe
from distill.stages.train import refuse_few, train_model, training_licence
from distill.stages.training.arm import Arm
from distill.stages.training_data import stored_pairs


def keep_best(
    recipe: Recipe, set_folder: Path, teachers: TeacherSet, run: RunFolder, console: Console, selection: Path | None
) -> Recipe:
    """Train every candidate that was chosen, judge them, and make the best one the run's student; nothing where there is one.

    Returns the recipe with the student that is kept. Raises what training raises.
    """
    if not recipe.choose.asked or not run.choice.exists():
        return recipe
    tried = atomic.read_json(run.choice)["chosen"]
    if len(tried) < 2:
        return recipe
    if not _kept(run):
        for entry in tried:
            _train(recipe, entry, set_folder, teachers, run, console, selection)
        if this_place().rank == 0:
            _judge(recipe, tried, run, console)
        else:
            wait_until(lambda: bool(_kept(run)), f"the first process to judge the candidates of {str(run)!r}", WEEK_S)
    kept = next(entry for entry in tried if entry["name"] == _kept(run))
    if this_place().rank == 0:
        _move(_folder(run, kept), run)
    wait_until(run.student.exists, f"the first process to move the student of {str(run)!r}")
    return _with(recipe, kept)


def _kept(run: RunFolder) -> str:
    return str(atomic.read_json(run.choice).get("kept", ""))


def _folder(run: RunFolder, entry: dict[str, Any]) -> RunFolder:
    return RunFolder(run.candidates / re.sub(r"[^\w.+-]+", "-", entry["name"].rpartition(",")[0]))


def _with(recipe: Recipe, entry: dict[str, Any]) -> Recipe:
    return put(recipe, dict(zip(KEYS, (entry["student"], entry["image_size"], entry["text_layers"]), strict=True)))


def _train(
    recipe: Recipe,
    entry: dict[str, Any],
    set_folder: Path,
    teachers: TeacherSet,
    run: RunFolder,
    console: Console,
    selection: Path | None,
) -> None:
    folder = _folder(run, entry)
    if folder.student.exists():
        return
    job = _with(recipe, entry)
    arm = Arm(f"train {entry['name'].rpartition(',')[0]}", folder, job.objective, job.student.inherit, teachers)
    with console.stage(arm.name) as advance:
        pairs = stored_pairs(job, set_folder, selection, run)
        refuse_few(job, run, pairs)
        train_model(job, arm, pairs, training_licence(set_folder, ""), advance, console.say)


def _judge(recipe: Recipe, tried: list[dict[str, Any]], run: RunFolder, console: Console) -> None:
    """Write each candidate's figures beside it, and which is kept into the run's choice and recipe."""
    from distill.evaluation.evalset import evaluate_model, student_embedder
    from students.student import load_student

    device = stage_device(recipe.eval.device, this_place())
    with console.stage("judge the candidates") as advance:
        data = open_evalset(recipe)
        for done, entry in enumerate(tried):
            advance(done, len(tried), entry["name"])
            folder = _folder(run, entry)
            file = folder.eval_of("student")
            if not file.exists():
                embedder = student_embedder(load_student(folder.student).to(device), entry["student"])
                result = {"role": "student", **evaluate_model(embedder, data, recipe.eval.batch_size)}
                file.parent.mkdir(parents=True, exist_ok=True)
                atomic.write_json(file, {**result, "parameters": embedder.parameters})
    judged = [
        {"name": entry["name"], **_figure(atomic.read_json(_folder(run, entry).eval_of("student")))} for entry in tried
    ]
    best = max(judged, key=lambda one: one["value"])
    kept = next(entry for entry in tried if entry["name"] == best["name"])
    for one in judged:
        console.say(f"{one['name']}: {one['measure']} {one['value']:.1f}{', kept' if one is best else ''}")
    # The recipe first: a call that goes on after a kill in between judges again, and finds the same.
    filled = atomic.read_json(run.resolved)["filled"]
    reason = f"judged best of {len(tried)} that were trained ({best['measure']} {best['value']:.1f})"
    keep_recipe(run, _with(recipe, kept), {**filled, **{key: reason for key in KEYS if key in filled}})
    atomic.write_json(run.choice, {**atomic.read_json(run.choice), "judged": judged, "kept": best["name"]})


def _figure(result: dict[str, Any]) -> dict[str, Any]:
    """Zero-shot top-1 where the data has classes, else the mean of both recalls at 1."""
    if result["zero_shot"]:
        return {"measure": "zero-shot top-1", "value": result["zero_shot"]["top1"]}
    retrieval = result["retrieval"]
    return {"measure": "mean R@1", "value": (retrieval["t2i_r1"] + retrieval["i2t_r1"]) / 2}


def _move(found: RunFolder, run: RunFolder) -> None:
    """What training left, from the candidate's folder to the run's; the student last, since it says that all is there."""
    for name in ("inheritance", "stopped", "metrics", "checkpoints", "student"):
        source, target = getattr(found, name), getattr(run, name)
        if source.exists() and not target.exists():
            os.replace(source, target)
