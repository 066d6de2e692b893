"""What an exported folder says of its two towers, as code for an app needs it."""

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

Record = dict[str, Any]  # an entry of artifact.json
SHAPE = re.compile(r"\[([\d|,]+)\]")
# What phones' languages say of a photo: how many times it is enlarged, and what shows where it does not reach.
SCALE = {
    "crop": ("{shorter} / min(width, height)", "white"),
    "squash": ("", "white"),
    "pad": ("{side} / max(width, height)", "black"),
}
FILTERS = "The filter is not Pillow's, so embeddings differ a little: compare them with the golden samples'."
TOKENS = "the whole row by tokenizer.json, start, end and padding included; golden.json has rows to test with"


class Lines(NamedTuple):
    """Code that embeds a photo and a sentence: "python", "swift" or "kotlin", a title, and the code."""

    language: str
    title: str
    code: str


@dataclass(frozen=True)
class Towers:
    """What an exported folder says of its two towers.

    Attributes:
        folder: <target>-<precision>.
        image, text: their records.
    """

    folder: str
    image: Record
    text: Record

    @property
    def rules(self) -> Record:
        """How a photo becomes pixels."""
        return dict(self.image["preprocess"])

    @property
    def layout(self) -> tuple[str, str]:
        """(order of the pixels, type of their numbers)."""
        return self.rules.get("layout", "NCHW"), self.rules.get("dtype", "float32")  # older versions made no other

    @property
    def side(self) -> int:
        """Pixels of the square."""
        return int(self.rules["size"][0])

    @property
    def shorter(self) -> int:
        """Pixels of the shorter side, before the square is cut out."""
        return int(self.rules.get("shorter_side", self.side))


def shape_of(record: Record) -> list[int]:
    """The shape of a file's one input, of the first number of inputs where it takes several; [] where its record says none."""
    (words,) = record["inputs"].values()
    found = SHAPE.search(words)
    return [int(size.partition("|")[0]) for size in found[1].split(",")] if found else []


def names_of(record: Record) -> tuple[str, str]:
    """(name of the input, name of the output)."""
    (given,) = record["inputs"]
    return given, record["output"].get("name", "")


def kind_of(target: str) -> str:
    """What runs files of a target: "onnx", "executorch", "litert", "coreml", or the target's own word."""
    return "onnx" if target == "ort" else target if target == "coreml" else target.partition("-")[0]
