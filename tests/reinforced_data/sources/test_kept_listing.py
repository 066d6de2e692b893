"""Listings of much data: flat, kept on disk, read by every process, and in order and fingerprint what they always were."""

import hashlib
import multiprocessing
import os
import pickle
import random

import numpy as np
import pytest

from distill.core.errors import DistillError
from reinforced_data.pixels.decode import BadImageError
from reinforced_data.source import open_source
from reinforced_data.sources.parts.kept import compact, shelf
from reinforced_data.sources.parts.kept.compact import AllBut, Column, Names, Picked, mapped
from reinforced_data.sources.parts.listing import _rows_digest
from reinforced_data.sources.parts.same import Digests, Groups
from reinforced_data.sources.parts.splits import held_out_rows
from reinforced_data.sources.parts.tars import index as tar_index
from tests.reinforced_data.sources.tar_tools import make_tar
from tests.reinforced_data.stubs import encoded, picture

# Of the place that `tars` makes, as the code before there were kept listings has found them.
FINGERPRINTS = {
    "train": "08aa2b51779ac03feba34ecd691a1633e959023fa2366c21c0b1c0159637ed46",
    "eval": "4b90a6478caa1a00d276f89524ed64c7b10a7ddc78da77f1c4a0e3d567bbd8c3",
}
KEYS_SHA256 = "949ba6e80a0587edd4de872a7cc2485640b992c589d47ed1adf190675d4c7c54"


@pytest.fixture
def tars(tmp_path):
    """Three tars: keys that come again, images that come again under other keys, members that cannot be read."""
    images = [encoded(picture(number, 20, 20), "BMP") for number in range(7)]  # of one size, so that all are compared
    for tar in range(3):
        members = []
        for number in range(30):
            key = f"{number:03d}" if number < 4 else f"{tar}{number:03d}"
            image = images[number % 7] if number % 3 == 0 else encoded(picture(100 * tar + number, 20, 20), "BMP")
            members += [(f"{key}.bmp", image), (f"{key}.txt", f"caption {number} of {tar}")]
        members += [("twice.txt", "a"), ("twice.txt", "b"), ("nothing", "x"), ("002.json", "{}")]
        make_tar(tmp_path / "tars" / f"{tar}.tar", members)
        os.utime(tmp_path / "tars" / f"{tar}.tar", ns=(10**18, 10**18))
    return tmp_path / "tars"


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Every listing is kept, in a folder of this test, and nothing is known of other tests'."""
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shelf, "KEPT_FROM_BYTES", 1)
    monkeypatch.setattr(tar_index, "_read_by_processes", lambda files: map(tar_index.read_tar, files))
    monkeypatch.setattr(compact, "_FLUSHED_BYTES", 100)
    tar_index._index.cache_clear()
    yield tmp_path / "cache" / "listings"
    tar_index._index.cache_clear()


def all_of(source):
    """Everything that a source says of its samples."""
    found = []
    for index in range(len(source)):
        try:
            found.append(source[index])
        except BadImageError as error:
            found.append((error.key, error.reason))
    return found


def test_order_and_fingerprint_are_those_of_before(tars):
    for split, fingerprint in FINGERPRINTS.items():
        source = open_source(str(tars), split)
        assert source.fingerprint == fingerprint
    keys = [
        open_source(str(tars), split).key(i)
        for split in FINGERPRINTS
        for i in range(len(open_source(str(tars), split)))
    ]
    assert hashlib.sha256("\n".join(keys).encode()).hexdigest() == KEYS_SHA256


def test_what_is_kept_is_what_is_listed(tars, kept, monkeypatch):
    in_memory = pytest.MonkeyPatch()
    in_memory.setattr(shelf, "KEPT_FROM_BYTES", 1 << 60)
    before = {split: open_source(str(tars), split) for split in FINGERPRINTS}
    said = {split: (source.fingerprint, source.read_as, all_of(source)) for split, source in before.items()}
    in_memory.undo()
    assert not kept.exists()
    tar_index._index.cache_clear()
    first = {split: open_source(str(tars), split) for split in FINGERPRINTS}
    assert {split: (source.fingerprint, source.read_as, all_of(source)) for split, source in first.items()} == said
    # Another process lists nothing, compares nothing and hashes no key.
    tar_index._index.cache_clear()
    monkeypatch.setattr(tar_index, "_read_by_processes", None)
    monkeypatch.setattr("reinforced_data.sources.webdataset.digest_of", None)
    monkeypatch.setattr("reinforced_data.sources.parts.splits.heapq", None)
    again = {split: open_source(str(tars), split) for split in FINGERPRINTS}
    assert {split: (source.fingerprint, source.read_as, all_of(source)) for split, source in again.items()} == said


@pytest.mark.process
def test_processes_read_the_tars_in_their_order(tars, kept, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    files = sorted(tars.glob("*.tar"))
    for one, other in zip(tar_index._read_by_processes(files * 4), map(tar_index.read_tar, files * 4), strict=True):
        assert (one.marks == other.marks).all()
        assert list(one.layout.keys) == list(other.layout.keys)
        assert (one.layout.offset == other.layout.offset).all()
    (tars / "3.tar").write_bytes(b"no tar" * 100)
    with pytest.raises(DistillError, match="no tar file"):
        list(tar_index._read_by_processes(sorted(tars.glob("*.tar"))))


def test_a_tar_that_changed_is_listed_again(tars, kept):
    first = open_source(str(tars), "given")
    make_tar(tars / "1.tar", [("new.bmp", encoded(picture(5), "BMP")), ("new.txt", "a caption")])
    second = open_source(str(tars), "given")
    assert "new" in [second.key(index) for index in range(len(second))]
    assert "new" not in [first.key(index) for index in range(len(first))]
    assert len(list(kept.glob("*/index.json"))) == 2


@pytest.mark.parametrize("opened", [False, True])
def test_a_tar_that_changes_while_it_is_read_is_no_other_image(tars, opened):
    source = open_source(str(tars), "given")
    if opened:
        assert source[4].image
    data = (tars / "0.tar").read_bytes()
    with open(tars / "0.tar", "r+b") as tar:  # in place: of the size it had, other images at the offsets that are known
        tar.write(data[5120:] + data[:5120])
    with pytest.raises(BadImageError, match=r"0\.tar has changed since it was listed"):
        source[4]
    assert source[50].image


def test_listings_that_nobody_uses_are_removed(tars, kept):
    open_source(str(tars), "given")
    (old,) = (place for place in kept.iterdir() if place.is_dir())
    os.utime(old, (0, 0))
    make_tar(tars / "1.tar", [("new.bmp", encoded(picture(5), "BMP")), ("new.txt", "a caption")])
    open_source(str(tars), "given")
    assert old not in kept.iterdir()


def test_without_a_place_to_keep_it_a_listing_is_in_memory(tars, kept, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "file"))
    assert open_source(str(tars), "train").fingerprint == FINGERPRINTS["train"]


def _said_by_another(source, results):
    results.put((source.fingerprint, [source.key(index) for index in range(len(source))]))


@pytest.mark.process
def test_a_pickle_of_a_kept_source_holds_no_rows(tars, kept):
    source = open_source(str(tars), "given")
    names = len(pickle.dumps(list(source._listing.index.keys)))
    arrays = [value for value in vars(source._listing.index._layout).values() if isinstance(value, np.ndarray)]
    assert all(isinstance(array, compact.Mapped) and len(pickle.dumps(array)) < 400 for array in arrays)
    assert len(pickle.dumps(source._listing.index.keys)) < names
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=_said_by_another, args=(pickle.loads(pickle.dumps(source)), results))
    process.start()
    assert results.get(timeout=60) == (source.fingerprint, [source.key(index) for index in range(len(source))])
    process.join()


def test_images_of_one_size_are_read_whole_only_where_their_ends_agree(tmp_path, monkeypatch):
    same = b"BM" + bytes(998)
    bodies = {
        "a": same,
        "b": b"BN" + bytes(998),
        "c": same,
        "d": b"BM" + bytes(997) + b"x",
        "e": b"short",
        "f": b"BM" + bytes(997) + b"y",
    }
    members = [entry for key, body in bodies.items() for entry in ((f"{key}.bmp", body), (f"{key}.txt", key))]
    make_tar(tmp_path / "x.tar", members)
    read, real = [], tar_index.TarIndex.end_of

    def end_of(self, row, member, count):
        read.append((self.keys[row], count))
        return real(self, row, member, count)

    monkeypatch.setattr(tar_index.TarIndex, "end_of", end_of)
    source = open_source(str(tmp_path / "x.tar"), "given")
    assert [source.key(index) for index in range(len(source))] == ["a", "b", "d", "e", "f"]
    assert [caption.text for caption in source.captions(0)] == ["a", "c"]
    assert sorted(key for key, count in read if count == 1000) == ["a", "b", "c"]
    assert not [key for key, _ in read if key == "e"]


def test_rows_without_a_few_are_those_of_a_list():
    draws = random.Random(0)
    for _ in range(40):
        count = draws.randrange(1, 60)
        without = sorted(draws.sample(range(count), draws.randrange(count)))
        kept = [row for row in range(count) if row not in without]
        rows = AllBut(count, without)
        assert [rows[place] for place in range(len(rows))] == kept
        assert list(rows) == kept
        assert rows[-1] == kept[-1]
        assert rows[1:7:2] == kept[1:7:2]
        assert _rows_digest(rows) == hashlib.sha256(",".join(map(str, kept)).encode()).hexdigest()
        with pytest.raises(IndexError):
            rows[len(kept)]


def test_names_and_numbers_come_back_from_files(tmp_path, monkeypatch):
    monkeypatch.setattr(compact, "_FLUSHED_BYTES", 16)
    words = ["", "a", "ß" * 20, "\udcff odd", "x" * 500, "last"]
    for folder in (None, tmp_path):
        writer = compact.NamesWriter(folder)
        for word in words:
            writer.append(word)
        assert len(writer) == 6
        names = writer.done()
        assert list(names) == words == [names[place] for place in range(6)] == names[:]
        assert names[-2] == words[-2]
        assert list(Picked(names, np.array([4, 1]))) == [words[4], "a"]
    assert list(compact.names_in(tmp_path)) == words
    assert list(Names.of([])) == []
    column = Column("i4", tmp_path / "numbers")
    for number in range(100):
        column.append(number - 50)
    assert len(column) == 100
    assert column.done().tolist() == list(range(-50, 50)) == mapped(tmp_path / "numbers", "i4").tolist()
    part = pickle.loads(pickle.dumps(mapped(tmp_path / "numbers", "i4")[10:20]))
    assert part.tolist() == list(range(-40, -30))


def test_groups_as_arrays_are_groups_as_lists():
    draws = random.Random(1)
    for _ in range(40):
        marks = [draws.choice([None, *range(5)]) for _ in range(draws.randrange(1, 20))]
        lists = {}
        for row, mark in enumerate(marks):
            lists.setdefault(("alone", row) if mark is None else mark, []).append(row)
        grouped = Digests.of(None if mark is None else bytes([mark]) * 16 for mark in marks).grouped()
        assert (grouped is None) == (len(lists) == len(marks))
        assert [*(grouped or [[row] for row in range(len(marks))])] == [*lists.values()]
        if grouped is not None:
            assert grouped.rows == len(marks)
            assert grouped.firsts.tolist() == [rows[0] for rows in lists.values()]
            assert [grouped.first(group) for group in range(len(grouped))] == grouped.firsts.tolist()
        merged = [(row, rows[0]) for rows in lists.values() for row in rows[1:]]
        groups = Groups(len(marks), np.array(sorted(merged), np.int64).reshape(-1, 2))
        assert [*groups] == [*lists.values()]
        assert groups.rows == len(marks)


def test_what_is_held_out_is_hashed_once():
    found = {}

    def remember(name, find):
        return found[name] if name in found else found.setdefault(name, find())

    keys = [f"key {number}" for number in range(300)]
    by_hash = sorted(range(300), key=lambda row: hashlib.sha256(b"holdout:" + keys[row].encode()).digest())
    assert held_out_rows(keys, "eval", "x", remember) == sorted(by_hash[:30])
    assert list(held_out_rows([None] * 300, "train", "x", remember)) == sorted(by_hash[30:])
