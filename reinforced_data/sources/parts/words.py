"""Which names of classes are words, so that captions may be made of them: "red_fox" is, "train2017" and "100APPLE" are not.

WordNet ids (n01440764) become the words of timm's table of ImageNet's synsets.
"""

import importlib.util
import re
from functools import lru_cache
from pathlib import Path

from reinforced_data.sources.parts.splits import part_of

_WORDNET = re.compile(r"n\d{8}")
_NUMBERED = re.compile(r"\d{1,5}[._-]+ ?(?=\D)")  # "001.Black_footed_Albatross", "12-roses"
_MONTH = "jan(uary)?|feb(ruary)?|mar(ch)?|apr(il)?|may|june?|july?|aug(ust)?|sept?(ember)?|oct(ober)?|nov(ember)?|dec(ember)?"
_DATE = re.compile(rf"(\d{{1,4}}[-_. ]*)*({_MONTH})([-_. ]*\d{{1,4}})*")
_CAMERA = re.compile(r"\d{3}[a-z_]{3,8}|dcim.*|(img|dsc|dscn|dscf|pict|gopr|mvi|vid|p)[-_ ]?\d+")
# Where images lie, whatever they show.
_STORES = {
    "image", "images", "img", "imgs", "photo", "photos", "picture", "pictures", "pic", "pics", "jpg", "jpeg", "png", "jpegimages",
    "raw", "data", "dataset", "files", "media", "input", "inputs", "output", "camera", "camera_roll", "screenshots", "downloads",
    "whatsapp", "whatsapp_images", "untitled", "new_folder", "folder", "misc", "other", "unsorted", "tmp", "temp", "batch", "part",
    "shard", "chunk", "rgb", "source", "original", "originals", "thumbs", "thumbnails", "leftimg8bit",
}  # fmt: skip
# What is drawn of images, and is none.
ASIDE = {
    "mask", "masks", "label", "labels", "annotation", "annotations", "segmentation", "segmentations", "segmentationclass",
    "segmentationobject", "depth", "depths", "gtfine", "seg", "gt", "groundtruth", "ground_truth", "trimap", "trimaps", "bbox",
    "bboxes",
}  # fmt: skip


def label_words(name: str) -> str | None:
    """The words of a class that a table or set names, with spaces; None for numbers and what has no letters."""
    if _WORDNET.fullmatch(name.lower()):
        return _wordnet().get(name.lower())
    words = " ".join(name.replace("_", " ").split())
    letters = re.search(r"[^\W\d_]{2}", words) or re.search(
        r"[^\W\d_\x00-\u2E7F]", words
    )  # one Chinese letter is a word
    return words if letters else None


def folder_words(name: str) -> str | None:
    """The words of a folder's name where it may be a class; None for dates, splits, camera folders, "images", ... too."""
    words, lower = label_words(_NUMBERED.sub("", name, count=1)), name.lower()
    if words is None or _WORDNET.fullmatch(lower):
        return words
    plain = words.lower()
    if (part_of(name) and lower != "train") or _CAMERA.fullmatch(lower) or _DATE.fullmatch(lower):
        return None
    if {lower, plain.replace(" ", "_"), re.sub(r"[-_ .]?\d+$", "", lower)} & (_STORES | ASIDE):  # "batch_3" as well
        return None
    if re.fullmatch(r"(?=[0-9a-f-]*\d)[0-9a-f-]{8,}", lower):  # hashes and UUIDs
        return None
    return words


@lru_cache(maxsize=1)
def _wordnet() -> dict[str, str]:
    """WordNet id -> its first words, of ImageNet's 21,841 synsets; read from timm's files without importing timm."""
    place = importlib.util.find_spec("timm")
    file = Path(str(place and place.origin)).parent / "data" / "_info" / "imagenet_synset_to_lemma.txt"
    if not file.is_file():
        return {}
    rows = (line.split("\t") for line in file.read_text(encoding="utf-8").splitlines())
    return {row[0]: row[1].split(",")[0].strip() for row in rows if len(row) == 2}
