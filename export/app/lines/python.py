"""Python that embeds a photo and a sentence, for the runtimes that Python has."""

from export.app.lines.towers import Lines, Towers, kind_of, names_of

RUN = {
    "onnx": (
        "ONNX Runtime",
        "import onnxruntime",
        "def run(file, name, value):\n"
        '    return onnxruntime.InferenceSession(f"{here}/{file}").run(None, {name: value})[0]',
    ),
    "executorch": (
        "ExecuTorch",
        "import torch\nfrom executorch.runtime import Runtime",
        "def run(file, name, value):\n"
        '    method = Runtime.get().load_program(f"{here}/{file}").load_method("forward")\n'
        "    return method.execute([torch.from_numpy(value)])[0].numpy()",
    ),
    "litert": (
        "LiteRT",
        "from ai_edge_litert.interpreter import Interpreter",
        "def run(file, name, value):\n"
        '    runner = Interpreter(model_path=f"{here}/{file}").get_signature_runner()\n'
        "    return next(iter(runner(**{name: value}).values()))",
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


def python(towers: Towers) -> Lines | None:
    """None where a few lines do not make the pixels: bytes, and photos that are padded."""
    rules, kind = towers.rules, kind_of(towers.image["target"])
    if rules.get("resize_mode") not in RESIZE or towers.layout != ("NCHW", "float32"):
        return None
    title, packages, run = RUN[kind]
    (pixels, _), (tokens, _) = names_of(towers.image), names_of(towers.text)
    resize = RESIZE[rules["resize_mode"]].replace("FILTER", f"Image.Resampling.{rules['interpolation'].upper()}")
    resize = resize.replace("SHORTER", str(towers.shorter))
    ids = towers.text["tokenizer"].get("dtype", "int32")
    code = f"""import numpy as np
{packages}
from PIL import Image, ImageOps
from tokenizers import Tokenizer

here, size = "export/{towers.folder}", {towers.side}
{run}

photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
{resize}
pixels = np.ascontiguousarray(np.asarray(photo, np.float32).transpose(2, 0, 1)[None] / 255)
ids = Tokenizer.from_file(f"{{here}}/tokenizer.json").encode("a red circle").ids
image = run("{towers.image["file"]}", "{pixels}", pixels)
text = run("{towers.text["file"]}", "{tokens}", np.array([ids], "{ids}"))
print("cosine", float((image @ text.T)[0, 0]))"""
    return Lines("python", f"{title}, Python", code)
