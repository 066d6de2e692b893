"""Places of data are large: a job opens each once, an opening reads each table once, and no cell is looked up twice."""

import json
from collections import Counter
from pathlib import Path, PurePosixPath

import pytest

import distill
from distill.core.errors import UsageError
from reinforced_data import source as sources
from reinforced_data.source import open_source, opening_once
from reinforced_data.sources import folder as folders
from reinforced_data.sources.parts.files import ending
from reinforced_data.sources.parts.tables import rows as tables
from reinforced_data.sources.parts.tables.paths import Paths
from tests.reinforced_data.sources.test_sources import png, put


@pytest.fixture
def openings(monkeypatch):
    """Counts the real openings, by split."""
    counts, real = Counter(), sources._call

    def call(name, location, split, *rest):
        counts[split] += 1
        return real(name, location, split, *rest)

    monkeypatch.setattr(sources, "_call", call)
    return counts


def test_inside_a_block_the_same_part_is_opened_once(openings):
    place = "rendered:train=8,eval=4"
    with opening_once():
        assert open_source(place, "train") is open_source(place, "train", None, {})
        with opening_once():  # the outer block holds on
            open_source(place, "train")
        open_source(place, "eval")
        assert len(open_source(place, "train", 3)) == 3
        with pytest.raises(UsageError):
            open_source("nowhere", "train")
    assert openings == {"train": 2, "eval": 1}
    assert open_source(place, "train") is not open_source(place, "train")  # what changes between jobs is seen


def test_a_job_of_labelling_opens_its_data_once(openings, tmp_path):
    settings = {"reinforce.verify": 0, "reinforce.calibrate": "all"}
    distill.reinforce(data="rendered:train=8,eval=32", out=tmp_path / "run", settings=settings)
    assert openings == {"train": 1, "eval": 1}


def test_an_opening_reads_each_table_once_and_looks_each_path_up_once(tmp_path, monkeypatch):
    images = [{"id": number, "file_name": f"{number}.png"} for number in range(6)]
    for image in images:
        put(tmp_path / "train2017" / image["file_name"], png(image["id"]))
    captions = [
        {"image_id": number, "caption": f"caption {turn} of {number}"} for number in range(6) for turn in range(5)
    ]
    table = json.dumps({"images": images, "annotations": captions})
    put(tmp_path / "annotations" / "captions_train2017.json", table)
    read, looked = [], []
    for module in (folders, tables):
        real = module.read_rows
        monkeypatch.setattr(
            module, "read_rows", lambda file, *rest, real=real: (read.append(file.name), real(file, *rest))[1]
        )
    look = Paths._look
    monkeypatch.setattr(Paths, "_look", lambda self, text, base: (looked.append(text), look(self, text, base))[1])
    source = open_source(str(tmp_path), "given")
    assert read == ["captions_train2017.json"]
    assert sorted(looked) == [image["file_name"] for image in images]
    assert len(source) == 6
    assert [caption.text for caption in source[2].captions] == [f"caption {turn} of 2" for turn in range(5)]


def test_endings_are_those_of_pathlib():
    for name in (
        "a.jpg",
        "a/b.JPG",
        ".b",
        "a/.b",
        "a.",
        "a..jpg",
        "..jpg",
        "...",
        "a.b.c",
        "x/.h.txt",
        "noend",
        "a/b.c/d",
    ):
        assert ending(name) == PurePosixPath(name).suffix.lower(), name


def test_a_path_may_be_said_from_the_root_the_table_the_working_folder_or_in_full(tmp_path, monkeypatch):
    root = tmp_path / "set"
    put(root / "pictures" / "one.png", png(1))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = Paths(root, ["pictures/one.png"])
    tables_in = root / "tables"
    for cell in (
        "pictures/one.png", "./pictures/one.png", "set/pictures/one.png", str(root / "pictures/one.png"), "pictures\\one.png",
        "~/set/pictures/one.png", "one.png", "one",
    ):  # fmt: skip
        assert paths.find(cell, tables_in) == "pictures/one.png", cell
        assert Paths(Path("set"), ["pictures/one.png"]).find(cell, Path("set")) == "pictures/one.png", cell
    for cell in ("two.png", "", None, True, 1.5):
        assert paths.find(cell, tables_in) is None
