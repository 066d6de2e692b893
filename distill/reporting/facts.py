"""Everything the reports and the closing table show, read from a run folder's files and nowhere else."""

import json
import re
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distill.core import atomic
from distill.core.clip.folder import read_card
from distill.core.errors import DistillError, UsageError
from distill.evaluation.verdict import verdict
from distill.rehearsal import MARK
from distill.reporting.arms import arms
from distill.run_folder import BULKY, RunFolder
from export.app.brief import brief
from export.artifacts.folder import read_artifacts
from export.settings import NO_LIMIT
from export.target import TARGETS
from reinforced_data.store.names import MANIFEST_FILE

TIMES_LONGER = 3  # what a student is advised that its training does not tell from the plain one
ROLES = {
    "teacher": "teacher", "student": "student", "averaged": "average of weights", "start": "before training",
    "plain": "plain student", "random-start": "random start", "no-teacher": "no teacher",
}  # fmt: skip


def read_run(run: RunFolder) -> dict[str, Any]:
    """The facts of a run.

    Keys: out, recipe, versions, commit, rehearsal (bool), mark, table (one row per model), exports (one row per good file),
    app (what an app's developer asks first, see `export.app.brief`),
    exports_left_out (folder -> what is wrong), fragile (a sentence each), profiles, phones,
    predicted (a row per phone and tower), predicted_teachers (teacher -> such rows), arms (see `reporting.arms`), judged_on,
    verdict (see `distill.evaluation.verdict`), longer (the command that trains longer),
    choice (as choice.json holds it, None without a budget),
    curves, stops, verify, captions, read_as, selection, samples, rejected, licence, seconds, host, inherited,
    vocabulary (what a cut one was cut from, see `students.vocabularies.cut.Cut`; None = not cut).

    Raises:
        UsageError: this is not a run folder. DistillError: it has no evaluation yet.
    """
    if not run.resolved.exists():
        raise UsageError(f"{str(run)!r} is not a run folder: it has no {run.resolved.name}.")
    evals = [atomic.read_json(path) for path in sorted(run.eval.glob("*.json"))]
    if not evals or not run.student.exists():
        if run.student.exists() and run.verb() == "train":
            raise DistillError(f"The student in {str(run)!r} was trained alone and is not judged yet. {run.widened()}")
        if run.verb() == "reinforce":
            raise DistillError(
                f"The run in {str(run)!r} has labelled data and no student. Train one: distill run --data {run}"
            )
        raise DistillError(f"The run in {str(run)!r} is not finished. Continue it: {run.command()}")
    resolved = run.read_resolved()
    profile = _json_or(run.profile, {"exported": [], "eager": {}})
    host = profile.get("host", {})
    exports = _exports(run, profile)
    evals.sort(key=lambda item: _place(item["role"]))
    recipe, table = resolved["recipe"], [_model_row(item, profile["eager"], exports) for item in evals]
    card = read_card(run.student)
    inherited = {key: value for key, value in _json_or(run.inheritance, {}).items() if key not in BULKY}
    manifest = _json_or(run.reinforced / MANIFEST_FILE, {})
    return {
        "out": str(run),
        "recipe": resolved["recipe"],
        "versions": resolved["versions"],
        "commit": resolved["commit"],
        "rehearsal": bool(resolved["recipe"]["rehearse"]),
        "mark": MARK if resolved["recipe"]["rehearse"] else "",
        "table": table,
        "verdict": None if resolved["recipe"]["rehearse"] else verdict(evals, _sizes(table)),
        "longer": longer(run, recipe),
        "arms": arms(table, inherited, bool(card.get("teachers")), recipe["baseline"]["inherit"] != "none"),
        "evals": [{key: value for key, value in item.items() if key != "hits"} for item in evals],
        "exports": exports,
        "app": brief([asdict(one) for folder in run.exported() for one in read_artifacts(folder)]),
        "exports_left_out": {found.folder.name: found.wrong for found in run.exports() if found.wrong},
        "fragile": _fragile(run),
        "profiles": profile["exported"],
        "phones": _phones(profile["exported"], profile.get("phones", []), resolved["recipe"]),
        "predicted": profile.get("phones", []),
        "predicted_teachers": profile.get("teacher_phones", {}),
        "judged_on": evals[0].get("data"),
        "curves": {"student": _curve(run), "plain student": _curve(run.plain)},
        "choice": _json_or(run.choice, None),
        "stops": _stops(run),
        "verify": _json_or(run.verify, {}),
        "captions": _json_or(run.captions, None),
        "read_as": _json_or(run.read_as, {}),
        "selection": _json_or(run.trained_on, {"selection": None})["selection"],
        "samples": manifest.get("samples"),
        "rejected": manifest.get("rejected", []),
        "licence": card["licence"],
        "seconds": _json_or(run.seconds, {}),
        "host": " ".join(filter(None, [host.get("model"), host.get("os")])) or resolved["versions"]["platform"],
        "inherited": inherited,
        "vocabulary": card.get("vocabulary"),
    }


def _sizes(table: list[dict[str, Any]]) -> dict[str, float | None]:
    return {row["role"]: row["size_mb"] for row in table}


def longer(run: RunFolder, recipe: dict[str, Any]) -> str:
    """The command that trains the same student on the same labels `TIMES_LONGER` times as long, in a folder of its own.

    A budget has chosen the student, and would choose again: of more candidates, or of devices that are known better by now.
    """
    steps = TIMES_LONGER * recipe["train"]["steps"]
    labels = ["--data", str(run.reinforced)] if (run.reinforced / MANIFEST_FILE).exists() else []
    out = f"{re.sub(r'-[0-9]+-steps$', '', str(run))}-{steps}-steps"
    limits = [name for name in ("max_latency", "max_size", "max_memory") if recipe["choose"][name] is not None]
    chosen = [word for name in limits for word in ("--set", f"choose.{name}={NO_LIMIT}")]
    words = ["--recipe", str(run.recipe), *labels, "--steps", str(steps), *chosen, "--out", out]
    return shlex.join(["distill", "run", *words])


def _shown(role: str) -> str:
    """What a table calls a role; "stage-2" is "stage 2"."""
    return ROLES.get(role, role.replace("-", " "))


def _place(role: str) -> tuple[int, str]:
    """Where a role stands in a table: stages behind all others."""
    return (list(ROLES).index(role) if role in ROLES else len(ROLES), role)


def _stops(run: RunFolder) -> list[str]:
    """A line per training that had stopped because its loss was not finite: by which settings, and how it went on."""
    names = ("student", *(arm.path.name.replace("-", " ") + " student" for arm in run.arms()[1:]))
    return [
        f"{name}: stopped at step {stop['step']} with {', '.join(f'{key} {value}' for key, value in stop['settings'].items())}"
        for name, arm in zip(names, run.arms(), strict=True)
        for stop in _json_or(arm.stopped, [])
    ]


def _json_or(path: Path, default: Any) -> Any:
    return atomic.read_json(path) if path.exists() else default


def _curve(run: RunFolder) -> list[dict[str, float]]:
    if not run.metrics.exists():
        return []
    return [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]


def _model_row(item: dict[str, Any], eager: dict[str, Any], exports: list[dict[str, Any]]) -> dict[str, Any]:
    role, retrieval, zero_shot = item["role"], item["retrieval"], item["zero_shot"]
    speed = eager.get(item["model"] if role == "teacher" else role, {})
    parity = [row["cosine_min"] for row in exports if row["cosine_min"] is not None]
    counts = item.get("parameters")
    return {
        "role": _shown(role),
        "model": item["model"],
        "zero_shot_top1": zero_shot["top1"] if zero_shot else None,
        "t2i_r1": retrieval["t2i_r1"] if retrieval else None,
        "i2t_r1": retrieval["i2t_r1"] if retrieval else None,
        "parameters": counts,
        "size_mb": None if counts is None else round(sum(counts.values()) * 4 / 1e6, 2),
        "image_p50_ms": speed.get("image_p50_ms"),
        "text_p50_ms": speed.get("text_p50_ms"),
        "parity": min(parity) if role == "student" and parity else None,
    }


def _exports(run: RunFolder, profile: dict[str, Any]) -> list[dict[str, Any]]:
    measured = [item for item in profile["exported"] if item["source"] == "measured" and item["device"] == "host"]
    rows = []
    for folder in run.exported():
        for artifact in read_artifacts(folder):
            runtime, parity = TARGETS.get(artifact.target).runtime, asdict(artifact.parity)
            latency: dict[str, Any] = next(
                (
                    p
                    for p in measured
                    if p["runtime"].startswith(runtime)
                    and p["tower"] == artifact.tower
                    and p.get("precision", artifact.precision) == artifact.precision  # older runs do not say
                ),
                {},
            )
            rows.append(
                {
                    "target": artifact.target,
                    "precision": artifact.precision,
                    "tower": artifact.tower,
                    "file": f"{folder.name}/{artifact.file}",
                    "size_mb": round(artifact.size_bytes / 1e6, 2),
                    "seconds": artifact.seconds,
                    **{
                        key: parity[key]
                        for key in (
                            "cosine_min",
                            "cosine_mean",
                            "top1_agreement",
                            "probability_difference",
                            "retrieval_drop",
                            "retrieval_drop_low",
                            "retrieval_drop_high",
                            "retrieval_pairs",
                            "checked_by",
                            "samples",
                            "order_cosine_min",
                            "fragile",
                        )
                    },
                    **{key: latency.get(key) for key in ("p50_ms", "p90_ms", "p99_ms", "threads")},
                }
            )
    return rows


def _fragile(run: RunFolder) -> list[str]:
    """A sentence per exported file, good or failed, whose embeddings hang on the order in which sums are added."""
    return [
        f"{found.folder.name}/{artifact.file}: {artifact.precision} is fragile for this student. The same program with its sums "
        f"added in another order gives other embeddings (smallest cosine {artifact.parity.order_cosine_min:.5f}), and a phone "
        "adds in an order of its own."
        for found in run.exports()
        for artifact in found.artifacts
        if artifact.parity.fragile
    ]


def _phones(
    profiles: list[dict[str, Any]], predicted: list[dict[str, Any]], recipe: dict[str, Any]
) -> list[dict[str, str]]:
    """A line per phone asked for, or per kind of phone: its figures, or that it was not measured and why; none for one that
    was asked for and predicted."""
    asked: dict[str, list[dict[str, Any]]] = {}
    for profile in profiles:
        if profile["device"] != "host":
            asked.setdefault(profile["device"], []).append(profile)
    lines = []
    for phone, rows in asked.items():
        timed = [row for row in rows if row["source"].startswith("measured")]
        for row in timed:
            figures = f"{row['p50_ms']:.2f} ms, {row['source']}; {row['note']}"
            lines.append(
                {"phone": phone, "result": f"{row['runtime']}, {row['tower']} tower, {row['precision']}: {figures}"}
            )
        if not timed:
            lines.append({"phone": phone, "result": f"not measured: {rows[0]['note']}"})
    if lines or {item["device"] for item in predicted} & set(recipe["profile"]["devices"]):
        return lines
    return [{"phone": "phones", "result": "not measured: none was asked for (--device)"}]
