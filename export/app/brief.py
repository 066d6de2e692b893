"""What somebody who builds an app asks first of exported files: what each takes and gives, how a photo and a sentence get
there, and lines of code that do it. All of it from the files' records.
"""

from collections.abc import Sequence
from typing import Any

from export.app.lines.kotlin import kotlin
from export.app.lines.python import python
from export.app.lines.swift import swift
from export.app.lines.towers import Lines, Record, Towers, kind_of, shape_of

COLUMNS = ("file", "takes", "gives")
WRITERS = {"onnx": (python,), "executorch": (python,), "litert": (python, kotlin), "coreml": (swift,)}


def brief(artifacts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows of files, how a photo and a text become their inputs, how their outputs are compared, and code that does it.

    Args:
        artifacts: entries of artifact.json, of any number of folders.

    Returns:
        "rows" in the order of `COLUMNS`, and "photo", "text" and "score": sentences; "code": language, title and lines of each of
        `lines_of`. All empty without files.
    """
    if not artifacts:
        return {"rows": [], "photo": [], "text": [], "score": "", "code": []}
    first = artifacts[0]
    rows = [
        (
            f"{one['target']}-{one['precision']}/{one['file']}",
            "; ".join(f"{name}: {what}" for name, what in one["inputs"].items()),
            f"{one['output'].get('name', '')}: {one['output'].get('shape', '')}",
        )
        for one in artifacts
    ]
    return {
        "rows": rows,
        "photo": list(first["preprocess"].get("steps", [])),
        "text": _text(first["tokenizer"]),
        "score": _score(first),
        "code": [line._asdict() for line in lines_of(artifacts)],
    }


def _text(tokenizer: dict[str, Any]) -> list[str]:
    if not tokenizer:
        return []
    files = ", ".join(sorted(set(tokenizer.get("files", {}).values())))
    kind, pieces = tokenizer.get("kind", "tokens"), tokenizer.get("vocabulary_size", "many")
    rows = (
        f"rows of {tokenizer.get('context_length')} {tokenizer.get('dtype', '')} ids: {tokenizer.get('truncation', '')}"
    )
    return [f"{kind} of {pieces} pieces, in {files}", f"{rows}; padding {tokenizer.get('padding', '')}"]


def _score(one: dict[str, Any]) -> str:
    if one["logit_scale"] is None:
        return ""
    how = "a sigmoid of each" if one["kind"] == "sigmoid" else "a softmax over a photo's sentences"
    return f"Embeddings have unit length. {one['logit_scale']:.5g} * dot(image, text) + {one['logit_bias'] or 0:.5g}, then {how}."


def lines_of(artifacts: Sequence[Record]) -> list[Lines]:
    """Code for each runtime that has files: of its first folder with both towers, which take one input at a call."""
    towers: dict[str, dict[str, Record]] = {}
    for one in artifacts:
        towers.setdefault(f"{one['target']}-{one['precision']}", {})[one["tower"]] = one
    found: list[Lines] = []
    for kind, writers in WRITERS.items():
        for folder, both in towers.items():
            if not ({"image", "text"} <= set(both) and kind_of(both["image"]["target"]) == kind and _single(both)):
                continue
            made = [
                line for writer in writers if (line := writer(Towers(folder, both["image"], both["text"]))) is not None
            ]
            if made:
                found += made
                break
    return found


def _single(both: dict[str, Record]) -> bool:
    return all(shape_of(both[tower])[:1] in ([], [1]) for tower in ("image", "text"))
