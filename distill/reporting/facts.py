"""Everything the reports and the closing table show, read from a run folder's files and nowhere else."""

import json
from pathlib import Path
from typing import Any

from distill.core import atomic
from distill.core.errors import DistillError, UsageError
from distill.rehearsal import MARK


def read_run(out: Path) -> dict[str, Any]:
    """The facts of the run in `out`.

    Keys: out, recipe, versions, commit, rehearsal (bool), mark, table (one row per model), exports (one row per file),
    profiles, phones, judged_on, curves, verify, captions, selection, samples, rejected, licence, seconds, host, inherited.

    Raises:
        UsageError: `out` is not a run folder. DistillError: it has no evaluation yet.
    """
    if not (out / "resolved.json").exists():
        raise UsageError(f"{str(out)!r} is not a run folder: it has no resolved.json.")
    evals = [atomic.read_json(path) for path in sorted((out / "eval").glob("*.json"))]
    if not evals or not (out / "student").exists():
        raise DistillError(f"The run in {str(out)!r} is not finished. Continue it: distill run --out {out} --resume.")
    resolved = atomic.read_json(out / "resolved.json")
    profile = _json_or(out / "profile.json", {"exported": [], "eager": {}})
    host = profile.get("host", {})
    exports = _exports(out, profile)
    order = {"teacher": 0, "student": 1, "plain": 2}
    evals.sort(key=lambda item: order[item["role"]])
    manifest = _json_or(out / "reinforced" / "manifest.json", {})
    return {
        "out": str(out),
        "recipe": resolved["recipe"],
        "versions": resolved["versions"],
        "commit": resolved["commit"],
        "rehearsal": bool(resolved["recipe"]["rehearse"]),
        "mark": MARK if resolved["recipe"]["rehearse"] else "",
        "table": [_model_row(out, item, profile["eager"], exports) for item in evals],
        "evals": evals,
        "exports": exports,
        "profiles": profile["exported"],
        "phones": _phones(profile["exported"]),
        "judged_on": evals[0].get("data"),
        "curves": {"student": _curve(out), "plain student": _curve(out / "plain")},
        "verify": _json_or(out / "reinforced-verify.json", {}),
        "captions": _json_or(out / "captions.json", None),
        "selection": _selection(out, resolved["recipe"]),
        "samples": manifest.get("samples"),
        "rejected": manifest.get("rejected", []),
        "licence": atomic.read_json(out / "student" / "card.json")["licence"],
        "seconds": _json_or(out / "seconds.json", {}),
        "host": " ".join(filter(None, [host.get("model"), host.get("os")])) or resolved["versions"]["platform"],
        "inherited": {k: v for k, v in _json_or(out / "inheritance.json", {}).items() if k != "plan"},
    }


def _selection(out: Path, recipe: dict[str, Any]) -> dict[str, Any] | None:
    """What was trained on: "folder", "kept", "samples", "draws" and "filters" of the selection; None = all samples."""
    if recipe.get("selection"):
        folder = Path(recipe["selection"])
    elif recipe.get("filters"):
        folder = out / "selection"
    else:
        folder = Path(recipe["data"]).parent / "selection" if Path(recipe["data"]).is_dir() else out / "none"
    record = _json_or(folder / "selection.json", None)
    if record is None:
        return None
    filters = [f"{step['filter']} kept {step['kept']} of {step['came']}" for step in record["filters"]]
    return {"folder": str(folder), "filters": filters, **{key: record[key] for key in ("kept", "samples", "draws")}}


def _json_or(path: Path, default: Any) -> Any:
    return atomic.read_json(path) if path.exists() else default


def _curve(folder: Path) -> list[dict[str, float]]:
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _model_row(out: Path, item: dict[str, Any], eager: dict[str, Any], exports: list[dict[str, Any]]) -> dict[str, Any]:
    role, retrieval, zero_shot = item["role"], item["retrieval"], item["zero_shot"]
    speed = eager.get(item["model"] if role == "teacher" else role, {})
    parity = [row["cosine_min"] for row in exports if row["cosine_min"] is not None]
    counts = item.get("parameters")
    return {
        "role": {"teacher": "teacher", "student": "student", "plain": "plain student"}[role],
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


def _exports(out: Path, profile: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    from export.target import TARGETS

    measured = [item for item in profile["exported"] if item["source"] == "measured"]
    for path in sorted((out / "export").glob("*/artifact.json")):
        for artifact in atomic.read_json(path):
            parity = artifact["parity"]
            runtime = TARGETS.get(artifact["target"]).runtime
            latency = next(
                (p for p in measured if p["runtime"].startswith(runtime) and p["tower"] == artifact["tower"]), None
            )
            rows.append(
                {
                    "target": artifact["target"],
                    "precision": artifact["precision"],
                    "tower": artifact["tower"],
                    "file": f"{path.parent.name}/{artifact['file']}",
                    "size_mb": round(artifact["size_bytes"] / 1e6, 2),
                    "seconds": artifact["seconds"],
                    "cosine_min": parity["cosine_min"],
                    "cosine_mean": parity["cosine_mean"],
                    "top1_agreement": parity["top1_agreement"],
                    "checked_by": parity["checked_by"],
                    "samples": parity["samples"],
                    "p50_ms": latency["p50_ms"] if latency else None,
                    "p90_ms": latency["p90_ms"] if latency else None,
                    "p99_ms": latency["p99_ms"] if latency else None,
                    "threads": latency["threads"] if latency else None,
                }
            )
    return rows


def _phones(profiles: list[dict[str, Any]]) -> list[dict[str, str]]:
    """A line per phone asked for, or per kind of phone: its figures, or that it was not measured and why."""
    asked = {p["device"]: p for p in profiles if p["device"] != "host" and p["source"] == "not measured"}
    if asked:
        return [{"phone": name, "result": f"not measured: {p['note']}"} for name, p in asked.items()]
    return [{"phone": "phones", "result": "not measured: none was asked for (--device)"}]
