"""The model card of a student, in the form that the Hugging Face hub reads. Left out: sending it (distill push)."""

from pathlib import Path
from typing import Any

from distill.core import atomic
from distill.core.clip.folder import CONFIG_FILE, MERGES_FILE
from distill.core.clip.model import MIXED
from distill.reporting import table
from distill.reporting.summary import summary
from distill.run_folder import RunFolder

OPEN = "apache-2.0"
# The hub's name of a format, for the tags by which people look for files.
FORMATS = {"coreml": "coreml", "coreai": "coreai", "litert": "tflite", "onnx": "onnx", "ort": "onnx"}


def model_card(run: RunFolder, facts: dict[str, Any]) -> str:
    """README.md of the run's student: metadata on top, then what it is, how good, and under which terms."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent.parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    model = atomic.read_json(run.student / CONFIG_FILE)["model_cfg"]
    judged = facts["judged_on"] or {}
    shown = {
        **facts,
        "name": f"{facts['recipe']['student']['name']} from {' + '.join(facts['recipe']['teachers'])}",
        "hub_licence": hub_licence(facts["licence"]),
        "targets": sorted({FORMATS.get(row["target"], row["target"].partition("-")[0]) for row in facts["exports"]}),
        "results": results(facts),
        "summary": summary(facts),
        "image_size": model["vision_cfg"].get("image_size", 224),
        "context_length": model["text_cfg"].get("context_length", 77),
        "ours_alone": MIXED in model["text_cfg"],
        "merges": MERGES_FILE if (run.student / MERGES_FILE).is_file() else "",
        "columns": table.COLUMNS,
        "rows": table.rows(facts),
        "export_columns": table.EXPORTS,
        "export_rows": table.export_rows(facts),
        "judged": judged.get("name", "the evaluation data"),
    }
    return environment.get_template("card.md").render(shown)


def hub_licence(terms: str) -> str:
    """The hub's name of the terms: Apache-2.0 where every clause is that, else "other": the card lists them."""
    clauses = [clause.strip() for clause in terms.split(";")]
    named = [clause for clause in clauses if ":" in clause]
    free = all(clause.partition(":")[2].strip().startswith("Apache-2.0") for clause in named)
    silent = all(":" in clause or clause.endswith("no teacher forbids commercial use") for clause in clauses)
    return OPEN if named and free and silent else "other"


def results(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """The student's figures as the hub's model index has them; no list where nothing was judged, or only rehearsed."""
    item = next((found for found in facts["evals"] if found["role"] == "student"), None)
    if item is None or facts["rehearsal"]:
        return []
    data = (item.get("data") or {}).get("name", "evaluation data")
    found = []
    if item["zero_shot"]:
        metrics = [{"type": "accuracy", "name": "zero-shot top-1", "value": item["zero_shot"]["top1"]}]
        found.append({"task": "zero-shot-image-classification", "data": item["zero_shot"]["task"], "metrics": metrics})
    if item["retrieval"]:
        names = {"t2i_r1": "text-to-image R@1", "i2t_r1": "image-to-text R@1"}
        metrics = [
            {"type": "recall_at_1", "name": name, "value": item["retrieval"][key]} for key, name in names.items()
        ]
        found.append({"task": "image-text-retrieval", "data": data, "metrics": metrics})
    return found
