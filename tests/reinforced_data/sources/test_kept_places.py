"""Listings of folders, tables and saved sets: the same in memory and kept, the same as before there were kept ones, never stale."""

import os
import pickle
import shutil

import numpy as np
import pytest

from distill.core.errors import DistillError
from reinforced_data.pixels.decode import BadImageError
from reinforced_data.source import open_source
from reinforced_data.sources import hub, table
from reinforced_data.sources.parts import files, images
from reinforced_data.sources.parts.kept import compact, digest, shelf
from reinforced_data.sources.parts.kept.compact import Coded, Marks, Numbers
from reinforced_data.sources.parts.tables import text
from tests.reinforced_data.sources.places import PLACES, a_csv, all_of, digest_of, parquet, sidecars, write, write_csv

# What the code of before there were kept listings says of these places, in all that `all_of` asks of it. Parquet's footers
# and the marks of `datasets` change with their versions, so of those two only fingerprints of one run are compared.
BEFORE = {
    "sidecars": {"train": "ea2c77590ffbb2c6", "eval": "4d215702912a0d4b", "given": "dc0a581c45672950"},
    "sidecars with a key": {"train": "afb68892ef3d595e", "eval": "9a19f18dcb420047", "given": "b0abd556881085e9"},
    "classes": {
        "train": "72ce414684a2c147",
        "eval": "c99739ff3b183bf9",
        "given": "0f90f84e2305d256",
        "named:val": "21530fe896eaaac1",
    },
    "plain": {"train": "e9725a3058d57023", "eval": "39b23f53b2ff58c8", "given": "fdc614e613a05485"},
    "parted": {"train": "98622117607e3762", "eval": "0cc619552ad725e0", "given": "616b677bf6ab9c51"},
    "csv": {"train": "b27a23361166a1d4", "eval": "b89adfe7b06e05c6", "given": "4fd0da33b3a1f4b1"},
    "tsv": {"train": "7356b70e72a94c61", "eval": "747bf8e3b0f76937", "given": "90ef50bc8b97508c"},
    "jsonl": {"train": "804b776d52578628", "eval": "9b22fc44b8a4352d", "given": "1c4e8783eef63943"},
    "coco": {"eval": "d2d068725e535bee"},
    "tables": {
        "train": "a111de01e8dfe4fc",
        "eval": "95368c01e5ea64e2",
        "given": "074de336785bcca7",
        "named:test": "982722ebb7eec5a6",
    },
}


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Every listing is kept, in a folder of this test."""
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shelf, "KEPT_FROM_BYTES", 1)
    monkeypatch.setattr(shelf, "KEPT_FROM_ROWS", 1)
    monkeypatch.setattr(compact, "_FLUSHED_BYTES", 100)
    monkeypatch.setattr(text, "HELD_BYTES", 0)  # as of large tables, which are read again for each look
    table._sheets.clear()
    return tmp_path / "cache" / "listings"


@pytest.fixture
def photos(tmp_path):
    """Images with captions, a few of them in a folder of their own."""
    return write(
        tmp_path / "photos",
        {f"{n}.jpg": f"image {n}" for n in range(9)}
        | {f"{n}.txt": f"caption {n}" for n in range(9)}
        | {"more/9.jpg": "image 9", "more/9.txt": "caption 9"},
    )


def said(place, columns, splits):
    """What a place says of each of these parts of it."""
    return {split: all_of(open_source(str(place), split, caption_columns=columns)) for split in splits}


@pytest.mark.parametrize("name", PLACES)
def test_a_kept_listing_says_what_one_in_memory_says(name, tmp_path, kept, monkeypatch):
    make, columns, splits = PLACES[name]
    (tmp_path / "place").mkdir()
    place = make(tmp_path / "place")
    with pytest.MonkeyPatch.context() as small:
        small.setattr(shelf, "KEPT_FROM_BYTES", 1 << 60)
        small.setattr(shelf, "KEPT_FROM_ROWS", 1 << 60)
        in_memory = said(place, columns, splits)
        assert not kept.exists()
    table._sheets.clear()
    for split, before in BEFORE.get(name, {}).items():
        assert digest_of(in_memory[split], tmp_path / "place") == before
    assert said(place, columns, splits) == in_memory
    assert [*kept.glob("*/index.json")]
    table._sheets.clear()
    monkeypatch.setattr(images, "list_images", None)  # another process lists nothing again
    monkeypatch.setattr("reinforced_data.sources.parts.splits.heapq", None)
    for module in (table, hub):
        monkeypatch.setattr(module, "TableWriter", None)
    assert said(place, columns, splits) == in_memory


def keys(place):
    """The keys of a whole place."""
    source = open_source(str(place), "given")
    return [source.key(index) for index in range(len(source))]


def test_what_came_went_or_changed_in_a_folder_is_noticed(photos, kept):
    before = keys(photos)
    assert before == [*(f"{n}.jpg" for n in range(9)), "more/9.jpg"]
    write(photos, {"more/10.jpg": "image 10"})
    assert keys(photos) == [*before[:-1], "more/10.jpg", "more/9.jpg"]
    (photos / "3.jpg").unlink()
    assert keys(photos) == [*before[:3], *before[4:-1], "more/10.jpg", "more/9.jpg"]
    (photos / "more/10.jpg").unlink()
    write(photos, {"3.jpg": "image 3"})
    assert keys(photos) == before
    (photos / "5.txt").unlink()  # a caption's file
    assert open_source(str(photos), "given").captions(5) == ()
    first = open_source(str(photos), "given").fingerprint
    write(photos, {"6.txt": "longer than before"})
    assert open_source(str(photos), "given").fingerprint != first


def test_a_file_of_the_size_it_had_is_looked_at_again(tmp_path, kept):
    """Whether texts are boxes is read from them: the time of a file's change says that they are others now."""
    place = write(
        tmp_path / "p", {f"{n}.jpg": f"image {n}" for n in range(4)} | {f"{n}.txt": "1 2 3 4" for n in range(4)}
    )
    assert "numbers" in open_source(str(place), "given").read_as.line()
    for n in range(4):
        write(place, {f"{n}.txt": "a fox,a"})
        os.utime(place / f"{n}.txt", ns=(1, 1))
    assert open_source(str(place), "given").captions(0)[0].text == "a fox,a"


def test_a_file_that_vanishes_costs_its_sample(photos, kept):
    source = open_source(str(photos), "given")
    (photos / "4.jpg").unlink()
    (photos / "5.jpg").rename(photos / "5b.jpg")
    (photos / "6.txt").unlink()
    shutil.rmtree(photos / "more")
    for index, key in ((4, "4.jpg"), (5, "5.jpg"), (9, "more/9.jpg")):
        with pytest.raises(BadImageError, match="cannot be read") as error:
            source[index]
        assert error.value.key == key
    assert source[6].image == b"image 6"
    assert source[6].captions == ()
    assert source[7].captions[0].text == "caption 7"


def test_a_folder_that_changes_while_it_is_listed_is_listed_again_or_refused(photos, kept, monkeypatch):
    real, looks = files._Look._entries, []

    def entries(self, below):
        looks.append(below)
        if below == "" and len(looks) == changing:
            write(photos, {f"new-{len(looks)}.jpg": "n"})
        return real(self, below)

    monkeypatch.setattr(files._Look, "_entries", entries)
    changing = 3  # the second look: it does not fit the first
    assert "new-3.jpg" in keys(photos)

    def always(self, below):
        looks.append(below)
        write(photos, {f"new-{len(looks)}.jpg": "n"})
        return real(self, below)

    monkeypatch.setattr(files._Look, "_entries", always)
    with pytest.raises(DistillError, match="change while they are listed"):
        keys(photos)


def test_a_table_that_changed_is_listed_again(tmp_path, kept):
    place = a_csv(tmp_path)
    before = keys(place)
    place.write_text(place.read_text().replace("0.jpg", "9.jpg", 1))
    assert keys(place) != before
    place = parquet(tmp_path, files=1) / "00000.parquet"
    first = open_source(str(place), "train").fingerprint
    shutil.copy(parquet(tmp_path / "other", files=2) / "00001.parquet", place)
    assert open_source(str(place), "train").fingerprint != first


def test_images_that_came_beside_a_table_are_found_by_it(tmp_path, kept):
    """A cell that leads to no file is looked for by its name, also by those who find a listing that was kept before."""
    rows = [{"image": f"{n}.jpg", "caption": f"caption {n}"} for n in range(4)]
    place = write_csv(tmp_path / "t" / "all.csv", rows)
    write(tmp_path / "t", {f"{n}.jpg": f"image {n}" for n in range(3)})
    assert keys(place) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    with pytest.raises(BadImageError, match="cannot be read"):
        open_source(str(place), "given")[3]
    write(tmp_path / "t", {"more/3.jpg": "image 3"})
    assert open_source(str(place), "given")[3].image == b"image 3"
    assert keys(place)[3] == "more/3.jpg"
    (tmp_path / "t" / "more" / "3.jpg").rename(tmp_path / "t" / "3.jpg")
    assert open_source(str(place), "given")[3].image == b"image 3"
    (tmp_path / "t" / "1.jpg").unlink()
    with pytest.raises(BadImageError, match=r"1\.jpg.*cannot be read"):
        open_source(str(place), "given")[1]


def test_a_parquet_file_that_changes_while_it_is_read_is_no_other_image(tmp_path, kept):
    place = parquet(tmp_path, files=2)
    source = open_source(str(place), "train")
    shutil.copy(place / "00001.parquet", place / "00000.parquet")
    with pytest.raises(BadImageError, match="has changed since it was opened"):
        source[0]
    (place / "00001.parquet").unlink()
    with pytest.raises(BadImageError, match="has changed since it was opened"):
        source[len(source) - 1]
    assert source.captions(0)  # they are kept


def test_a_damaged_line_of_a_large_table_is_named(tmp_path, kept):
    place = (
        write(tmp_path, {"t/all.jsonl": '{"image": "a.jpg", "caption": "a"}\n' * 300 + "{damaged\n"})
        / "t"
        / "all.jsonl"
    )
    with pytest.raises(DistillError, match="at or after line 301"):
        open_source(str(place), "given")
    assert not [*kept.glob("*/index.json")]


def test_a_pickle_of_a_kept_table_holds_no_rows(tmp_path, kept):
    sizes = []
    for count in (20, 2000):
        rows = [{"image": f"{n // 2}.jpg", "caption": f"caption {n}", "label": "fox"} for n in range(count)]
        place = write_csv(tmp_path / str(count) / "all.csv", rows)
        source = open_source(str(place), "given")
        sizes.append(len(pickle.dumps(source)))
        copy = pickle.loads(pickle.dumps(source))
        assert len(copy) == count // 2
        assert [caption.text for caption in copy.captions(count // 2 - 1)] == [
            f"caption {count - 2}",
            f"caption {count - 1}",
        ]
    assert abs(sizes[1] - sizes[0]) < 100


def test_a_pickle_of_a_kept_folder_holds_no_rows(tmp_path, kept):
    sizes = []
    for count in (10, 400):
        place = write(
            tmp_path / str(count),
            {f"{n:05d}.jpg": "x" for n in range(count)} | {f"{n:05d}.txt": "y" for n in range(count)},
        )
        source = open_source(str(place), "train")
        sizes.append(len(pickle.dumps(source)))
        copy = pickle.loads(pickle.dumps(source))
        assert [copy.key(index) for index in range(len(copy))] == [source.key(index) for index in range(len(source))]
        assert isinstance(copy._listing._texts, compact.Mapped)
    assert abs(sizes[1] - sizes[0]) < 39 * 24  # of the rows that are held out


def test_a_walk_is_in_the_order_of_sorted_paths(tmp_path):
    names = [
        "a/x",
        "a.b/x",
        "a-b/x",
        "a0",
        "a.txt",
        "ab",
        "a/x/y" * 1,
        "B/c",
        "é/1",
        "日/1",
        "\udcff/1",
        "a/z.d/q",
        "a/z/q",
        "a/z-/q",
    ]
    place = write(tmp_path / "p", {name: name.encode("utf-8", "surrogatepass") for name in names if name != "a/x"})
    (place / "linked").symlink_to(place / "a")
    found = files.walk(place)
    by_path = sorted(
        path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file() and "linked" not in path.parts
    )
    assert list(found.names) == by_path
    assert found.sizes.tolist() == [(place / name).stat().st_size for name in by_path]
    assert dict(found.aside) == {"linked folders": 1}


def test_files_are_found_by_their_names_in_any_case(tmp_path):
    found = files.walk(sidecars(tmp_path / "p"))
    from reinforced_data.sources.parts.image_list import _ByName

    lower = {name.lower(): row for row, name in reversed([*enumerate(found.names)])}
    wanted = [name.swapcase() for name in found.names] + ["nothing.txt", ""]
    table = _ByName(found, (".txt", ".png"))
    assert table.find(wanted) == [
        lower.get(name.lower(), -1) if name.lower().endswith((".txt", ".png")) else -1 for name in wanted
    ]


def test_flat_columns_are_what_lists_are():
    words = ["b", None, "a", "b", None, "c"]
    column = Coded.of(words)
    assert list(column) == words == [column[row] for row in range(6)] == column[:]
    assert column.values == ["b", None, "a", "c"]
    rows = Numbers(np.array([5, 1, 3]))
    assert list(rows) == [5, 1, 3] == rows[:]
    assert type(rows[0]) is int
    assert not Numbers(np.zeros(0, np.int64))
    marks = Marks(["a", "b"])
    assert ["a" in marks, "c" in marks, "a" in Marks([])] == [True, False, False]
    for count in (0, 1, 5000):
        values = [[f"ü {n}", n] for n in range(count)]
        assert digest.sha256_json_list(iter(values)) == shelf.sha256_json(values)
