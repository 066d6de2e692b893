"""What somebody who builds an app asks first of exported files: what each takes and gives, how a photo and a sentence get
there, and a few lines of Python that do it, for a runtime that Python has everywhere. All of it from the files' records.
"""

from collections.abc import Sequence
from typing import Any

COLUMNS = ("file", "takes", "gives")
RUN = {
    "onnx": (
        "import onnxruntime",
        "def run(file, name, value):\n"
        '    return onnxruntime.InferenceSession(f"{here}/{file}").run(None, {name: value})[0]',
    ),
    "executorch": (
        "import torch\nfrom executorch.runtime import Runtime",
        "def run(file, name, value):\n"
        '    method = Runtime.get().load_program(f"{here}/{file}").load_method("forward")\n'
        "    return method.execute([torch.from_numpy(value)])[0].numpy()",
    ),
}
RESIZE = {
    "crop": (
        "short = min(photo.size)\n"
        "sides = [SHORTER if side == short else int(SHORTER * side / short) for side in photo.size]\n"
        "photo = photo.resize(sides, FILTER)\n"
        "left, top = (round((side - size) / 2) for side in photo.size)\n"
        "photo = photo.crop((left, top, left + size, top + size))"
    ),
    "squash": "photo = photo.resize((size, size), FILTER)",
}


def brief(artifacts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows of files, how a photo and a text become their inputs, how their outputs are compared, and a snippet.

    Args:
        artifacts: entries of artifact.json, of any number of folders.

    Returns:
        "rows" in the order of `COLUMNS`, and "photo", "text" and "score": sentences; "snippet": Python, "" where none fits (a
        classifier alone, a target that Python does not run everywhere, a photo that is padded). All empty without files.
    """
    if not artifacts:
        return {"rows": [], "photo": [], "text": [], "score": "", "snippet": ""}
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
        "snippet": _snippet(artifacts),
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


def _snippet(artifacts: Sequence[dict[str, Any]]) -> str:
    """Python that embeds a photo and a sentence by the first folder with both towers which Python can run here or on a Mac."""
    towers: dict[str, dict[str, dict[str, Any]]] = {}
    for one in artifacts:
        towers.setdefault(f"{one['target']}-{one['precision']}", {})[one["tower"]] = one
    for wanted in RUN:
        for folder, found in towers.items():
            target = next(iter(found.values()))["target"]
            kind = "onnx" if target == "ort" else target.partition("-")[0]
            if kind == wanted and {"image", "text"} <= set(found) and _plain(found["image"]["preprocess"]):
                return _lines(folder, kind, found["image"], found["text"])
    return ""


def _plain(rules: dict[str, Any]) -> bool:
    """Whether the few lines make the pixels that a file takes: floats, channels first, of a photo that is cut or squashed."""
    form = (rules.get("layout", "NCHW"), rules.get("dtype", "float32"))  # older versions made no other
    return rules.get("resize_mode") in RESIZE and form == ("NCHW", "float32")


def _lines(folder: str, kind: str, image: dict[str, Any], text: dict[str, Any]) -> str:
    packages, run = RUN[kind]
    rules = image["preprocess"]
    (pixels,), (tokens,) = image["inputs"], text["inputs"]
    resize = RESIZE[rules["resize_mode"]].replace("FILTER", f"Image.Resampling.{rules['interpolation'].upper()}")
    resize = resize.replace("SHORTER", str(rules.get("shorter_side", rules["size"][0])))
    ids = text["tokenizer"].get("dtype", "int32")
    return f"""import numpy as np
{packages}
from PIL import Image, ImageOps
from tokenizers import Tokenizer

here, size = "export/{folder}", {rules["size"][0]}
{run}

photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
{resize}
pixels = np.ascontiguousarray(np.asarray(photo, np.float32).transpose(2, 0, 1)[None] / 255)
ids = Tokenizer.from_file(f"{{here}}/tokenizer.json").encode("a red circle").ids
image = run("{image["file"]}", "{pixels}", pixels)
text = run("{text["file"]}", "{tokens}", np.array([ids], "{ids}"))
print("cosine", float((image @ text.T)[0, 0]))"""
