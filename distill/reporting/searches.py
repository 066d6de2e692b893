"""The report's example searches: captions of the evaluation set with what teacher and student find, pictures included."""

import base64
from typing import Any

from distill.run_folder import RunFolder

SHOWN = ("teacher", "student")


def searches(run: RunFolder, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """One per caption that all shown models searched; none where a run has none, as those made before they were kept.

    Keys: caption; models, each with model, rank (of the caption's own photo) and hits (key, own, picture in base64 or "").
    """
    shown = [item for role in SHOWN for item in facts["evals"] if item["role"] == role and item.get("examples")]
    if not shown:
        return []
    found = []
    for index, example in enumerate(shown[0]["examples"]):
        models = []
        for item in shown:
            own = item["examples"][index]
            hits = [{"key": key, "own": key == own["own"], "picture": _picture(run, key)} for key in own["hits"]]
            models.append({"model": f"{item['role']} {item['model']}", "rank": own["rank"], "hits": hits})
        found.append({"caption": example["caption"], "models": models})
    return found


def _picture(run: RunFolder, key: str) -> str:
    path = run.picture(key)
    return base64.b64encode(path.read_bytes()).decode() if path.exists() else ""
