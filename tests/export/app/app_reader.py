"""An app, written from an export folder and its artifact.json alone: nothing of this project is imported.

What a folder does not say cannot be known here, so a test that this reader passes shows that the folder says enough.
"""

import html
import itertools
import json
import string
from pathlib import Path
from typing import Any

import ftfy
import numpy as np
import onnxruntime
import regex
from PIL import Image, ImageOps
from safetensors.numpy import load_file


class App:
    """The model in an exported ONNX folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = {entry["tower"]: entry for entry in json.loads((folder / "artifact.json").read_text("utf-8"))}
        self.tokenizer = Words(folder, self.record["text"]["tokenizer"])

    def embed(self, tower: str, value: np.ndarray) -> np.ndarray:
        session = onnxruntime.InferenceSession(self.folder / self.record[tower]["file"])
        return session.run(None, {session.get_inputs()[0].name: value})[0][0]

    def probabilities(self, photo: Path, captions: list[str]) -> np.ndarray:
        """[m] of each caption for one photo."""
        image = self.embed("image", pixels_of(photo, self.record["image"]["preprocess"]))
        text = np.stack([self.embed("text", self.tokenizer.row(caption)) for caption in captions])
        facts = self.record["text"]
        logits = facts["logit_scale"] * (text @ image) + facts["logit_bias"]
        if facts["kind"] == "sigmoid":
            return 1 / (1 + np.exp(-logits))
        assert facts["kind"] == "softmax"
        shares = np.exp(logits - logits.max())
        return shares / shares.sum()


def pixels_of(photo: Path, block: dict[str, Any]) -> np.ndarray:
    """[1, 3, S, S] or [1, S, S, 3] as the block "preprocess" says."""
    image = ImageOps.exif_transpose(Image.open(photo)).convert("RGB")
    kernel = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[block["interpolation"]]
    assert block["antialias"]  # Pillow's resize always is
    height, width = block["size"]
    assert height == width
    mode = block["resize_mode"]
    if mode == "squash":
        image = image.resize((width, height), kernel)
    elif mode == "crop":
        side, shorter = block["shorter_side"], min(image.size)
        image = image.resize((int(side * image.width / shorter), int(side * image.height / shorter)), kernel)
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        image = image.crop((left, top, left + width, top + height))
    else:
        assert mode == "pad"
        longer = max(image.size)
        small = image.resize([max(1, round(width * side / longer)) for side in image.size], kernel)
        image = Image.new("RGB", (width, height))
        image.paste(small, ((width - small.width) // 2, (height - small.height) // 2))
    assert block["channel_order"] == "RGB"
    values = np.asarray(image)
    if block["dtype"] == "float32":
        assert block["value_range"] == [0.0, 1.0]
        values = values.astype(np.float32) / 255
    else:
        assert (block["dtype"], block["value_range"]) == ("uint8", [0, 255])
    return {"NCHW": values.transpose(2, 0, 1), "NHWC": values}[block["layout"]][None].copy()


class Words:
    """Byte-pair tokens from vocab.json and merges.txt."""

    def __init__(self, folder: Path, block: dict[str, Any]) -> None:
        self.block = block
        self.ids = json.loads((folder / block["files"]["vocabulary"]).read_text("utf-8"))
        lines = (folder / block["files"]["merges"]).read_text("utf-8").splitlines()[1:]
        self.rank = {tuple(line.split(" ")): number for number, line in enumerate(lines)}
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        others = [byte for byte in range(256) if byte not in printable]
        self.letter = {byte: chr(byte) for byte in printable}
        self.letter |= {byte: chr(256 + number) for number, byte in enumerate(others)}

    def row(self, caption: str) -> np.ndarray:
        """[1, L] int32."""
        block, ids = self.block, [self.block["start_id"]]
        text = self.clean(caption)
        for word in regex.findall(block["words"]["pattern"], text, regex.IGNORECASE):
            ids += [self.ids[word]] if word in block["words"]["special"] else self.pieces(word)
        length = block["context_length"]
        ids = [*ids[: length - 1], block["end_id"]]
        return np.array([ids + [block["padding_id"]] * (length - len(ids))], block["dtype"])

    def clean(self, text: str) -> str:
        """By the rules of the block, in their order."""
        rules = {
            "mend": ftfy.fix_text,
            "entities": lambda x: html.unescape(html.unescape(x)),
            "underscores": lambda x: x.replace("_", " "),
            "punctuation": lambda x: x.translate(str.maketrans("", "", string.punctuation)),
            "lower": str.lower,
            "spaces": lambda x: " ".join(x.split()),
        }
        for step in self.block["cleaning"]:
            text = rules[step["rule"]](text)
        return text

    def pieces(self, word: str) -> list[int]:
        """Merge the neighbours of lowest rank until none is left."""
        parts = [self.letter[byte] for byte in word.encode()]
        parts[-1] += self.block["words"]["end_of_word"]
        while len(parts) > 1:
            ranks = [self.rank.get(pair, len(self.rank)) for pair in itertools.pairwise(parts)]
            best = min(ranks)
            if best == len(self.rank):
                break
            place = ranks.index(best)
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        return [self.ids[part] for part in parts]


def golden(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """golden.json and its tensors."""
    record = json.loads((folder / "golden.json").read_text("utf-8"))
    return record, load_file(folder / record["tensors"])
