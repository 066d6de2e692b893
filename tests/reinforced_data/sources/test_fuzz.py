"""Malformed inputs through every reader: no crash, no hang, every sample served or rejected with a reason.

Readers may raise UsageError or DistillError when a place is opened, and BadImageError for a sample; nothing else.
"""

import contextlib
import gzip
import json
import os
import re
import signal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill.core.errors import DistillError
from reinforced_data.pixels.decode import BadImageError, decode_rgb
from reinforced_data.published.imported import PublishedSet
from reinforced_data.source import open_source
from reinforced_data.sources.parts.listing import MAX_CAPTION_CHARS, MAX_CAPTIONS
from reinforced_data.store.row import Row
from teachers.spec import TeacherSpec
from tests.reinforced_data.sources import fuzz_corpus as corpus
from tests.reinforced_data.sources.tar_tools import make_tar, npz, pth_gz, published_members, unit_rows
from tests.reinforced_data.stubs import encoded, picture

SECONDS = 20  # no case takes one; a shared machine may
GOOD = encoded(picture(7, 12, 10))
IMAGES, CAPTIONS, TABLES, TARS = corpus.images(), corpus.captions(), corpus.tables(), corpus.tars()


class Hang(BaseException):
    """Not an Exception, so that no reader can swallow it."""


@contextlib.contextmanager
def alarm(name):
    def ring(*_):
        raise Hang(name)

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def consume(source):
    """(keys served, key -> reason) of a source; every sample is one or the other, and all text can be stored."""
    served, rejected = [], {}
    for index in range(len(source)):
        with alarm(f"sample {index}"):
            try:
                raw = source[index]
                assert decode_rgb(raw.image, raw.key).mode == "RGB"
            except BadImageError as error:
                rejected[f"{error.key}#{index}"] = error.reason
                continue
            check_text(raw.key)
            assert len(raw.captions) <= MAX_CAPTIONS
            for caption in raw.captions:
                check_text(caption.text)
                assert 0 < len(caption.text) <= MAX_CAPTION_CHARS
            served.append(raw.key)
    assert len(served) + len(rejected) == len(source)
    for key, reason in rejected.items():
        check_text(key)
        check_text(reason)
        assert reason
    return served, rejected


def check_text(text):
    assert "\0" not in text
    assert text.encode("utf-8").decode() == text


def opened(location):
    """Both parts of a place consumed; (None, reason) when it cannot be opened."""
    served, rejected = [], {}
    for split in ("train", "eval"):
        try:
            with alarm(str(location)):
                source = open_source(str(location), split)
        except DistillError as error:
            words = str(error)
        else:
            words = ""
        if words:
            check_text(words)
            return None, words
        good, bad = consume(source)
        served += good
        rejected.update({f"{split} {key}": reason for key, reason in bad.items()})
    return served, rejected


def test_there_are_200_of_them():
    assert len(IMAGES) + len(CAPTIONS) + len(TABLES) + len(TARS) + len(RECORDS) > 400
    assert len(IMAGES) >= 100
    assert min(map(len, (CAPTIONS, TABLES, TARS, RECORDS))) > 25


def key_of(name):
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


@pytest.fixture(scope="module")
def image_outcomes(tmp_path_factory):
    """Reader -> (keys served, keys rejected) for the same damaged images."""
    root = tmp_path_factory.mktemp("images")
    names = {key_of(name): name for name in IMAGES}
    assert len(names) == len(IMAGES)
    (root / "folder").mkdir()
    for key, name in names.items():
        (root / "folder" / f"{key}.{name.rpartition('.')[2]}").write_bytes(IMAGES[name])
    make_tar(root / "x.tar", [(f"{key}.{name.rpartition('.')[2]}", IMAGES[name]) for key, name in names.items()])
    table = pa.table({"key": list(names), "image": [IMAGES[name] for name in names.values()]})
    pq.write_table(table, root / "x.parquet", row_group_size=7)
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset(table).save_to_disk(str(root / "saved"))
    outcomes = {}
    for reader, place in (("folder", "folder"), ("tar", "x.tar"), ("parquet", "x.parquet"), ("saved", "saved")):
        served, rejected = opened(root / place)
        assert served is not None, rejected
        outcomes[reader] = (
            {key.partition(".")[0] for key in served},
            {key.split(" ")[1].partition("#")[0].partition(".")[0] for key in rejected},
        )
    return names, outcomes


def test_images_come_out_the_same_through_every_reader(image_outcomes):
    names, outcomes = image_outcomes
    for served, rejected in outcomes.values():
        assert served | rejected == set(names)
        assert not served & rejected
    assert len({frozenset(served) for served, _ in outcomes.values()}) == 1


def test_unusual_images_are_served_and_broken_ones_are_not(image_outcomes):
    names, outcomes = image_outcomes
    served, _ = outcomes["folder"]
    for key, name in names.items():
        if name.startswith(corpus.MUST_SERVE):
            assert key in served, name
        if name.startswith(corpus.MUST_REJECT):
            assert key not in served, name


@pytest.mark.parametrize("ending", ["txt", "json"])
def test_caption_files(tmp_path, ending):
    """No caption file costs an image, in a folder or in a tar."""
    (tmp_path / "folder").mkdir()
    for name, data in CAPTIONS.items():
        (tmp_path / "folder" / f"{key_of(name)}.png").write_bytes(GOOD)
        (tmp_path / "folder" / f"{key_of(name)}.{ending}").write_bytes(data)
    make_tar(
        tmp_path / "x.tar",
        [
            m
            for number, (name, data) in enumerate(CAPTIONS.items())  # equal images would be one sample
            for m in ((f"{key_of(name)}.png", encoded(picture(number, 12, 10))), (f"{key_of(name)}.{ending}", data))
        ],
    )
    for place in ("folder", "x.tar"):
        served, rejected = opened(tmp_path / place)
        assert len(served) == len(CAPTIONS)
        assert not rejected


@pytest.mark.parametrize("name", TABLES)
def test_tables(tmp_path, name):
    (tmp_path / "a.png").write_bytes(GOOD)
    os.mkfifo(tmp_path / "pipe")
    place = tmp_path / ("t" + name[name.rindex(".") :])
    place.write_bytes(TABLES[name])
    served, rejected = opened(place)
    if name.startswith(("path ", "cell ")):
        assert served in ([], None)
        assert rejected


@pytest.mark.parametrize("name", TARS)
def test_tars(tmp_path, name):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x.tar").write_bytes(TARS[name])
    served, _ = opened(tmp_path / "sub" / "x.tar")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["sub", "x.tar"]
    if name.startswith("open "):
        assert served is None
    if name.startswith(("name ", "type ", "twice", "empty image")):
        assert "zz" in served


WIDTHS = (4, 8)
TEACHERS = {
    TeacherSpec(f"t{width}", "stub", "stub", width, 224, None, "softmax", "MIT", True): 50.0 for width in WIDTHS
}


def records():
    """Members of a published sample, damaged: name -> (member ending, bytes)."""
    rng = np.random.default_rng(8)
    arrays = {"image_emb": unit_rows(rng, 2, WIDTHS), "text_emb": unit_rows(rng, 3, WIDTHS)}
    whole_npz, whole_pth = npz(arrays), pth_gz(arrays)
    found = {f"npz flips {seed}": (".npz", corpus.flipped(whole_npz, seed, 4)) for seed in range(8)}
    found |= {f"pth flips {seed}": (".pth.gz", corpus.flipped(whole_pth, seed, 2, 10)) for seed in range(6)}
    inside = gzip.decompress(whole_pth)
    found |= {
        f"pth inner flips {seed}": (".pth.gz", gzip.compress(corpus.flipped(inside, seed, 6))) for seed in range(8)
    }
    found |= {f"npz cut {part}": (".npz", whole_npz[: len(whole_npz) * part // 5]) for part in range(5)}
    found |= {f"pth cut {part}": (".pth.gz", whole_pth[: len(whole_pth) * part // 5]) for part in range(5)}
    shapes = {"flat": (8,), "deep": (2, 1, 12), "none": (0, 12), "narrow": (2, 1), "scalar": ()}
    found |= {f"npz {word}": (".npz", npz({**arrays, "image_emb": np.zeros(shape, np.float32)})) for word, shape in shapes.items()}  # fmt: skip
    for kind in ("syn.json", "paug.json", "json"):
        found |= {f"{kind} {name}": (f".{kind}", data) for name, data in CAPTIONS.items()}
    views = {"words": [["a"] * 4, []], "short": [[1], []], "floats": [[0.5, 0, 1, 1], []], "negative": [[-1, 0, 5, 5], []], "big": [[0, 0, 10**30, 1], []], "op": [[0, 0, 5, 5], [3]], "nan": [[0, 0, 5, 5], [[1, float("nan")]]]}  # fmt: skip
    found |= {f"view {word}": (".paug.json", json.dumps({"param_aug": [view] * 2}).encode()) for word, view in views.items()}  # fmt: skip
    return found


RECORDS = records()


@pytest.mark.filterwarnings("error")
def test_published_records(tmp_path):
    rng = np.random.default_rng(9)
    members, names = [], {}
    view = [[0, 0, 8, 8], [[0, 0.0], [5, 9.0]]]
    for number, (name, (ending, data)) in enumerate(RECORDS.items()):
        arrays = {"image_emb": unit_rows(rng, 2, WIDTHS), "text_emb": unit_rows(rng, 3, WIDTHS)}
        kind = "pth.gz" if ending == ".pth.gz" else "npz"
        mine = published_members(
            f"{number:04d}", arrays, [view] * 2, {"syn_text": ["a", "b"]}, kind=kind, image=GOOD, text="real"
        )
        for member, body in mine:
            exact = member == f"{number:04d}{ending}"
            members.append((member, data if exact else body))
        names[f"{number:04d}"] = name
    published = PublishedSet([make_tar(tmp_path / "x.tar", members)], TEACHERS)
    outcomes = {}
    for index in range(len(published)):
        with alarm(index):
            item = published.row(index)
        outcomes[item.key] = item
        if isinstance(item, Row):
            for embeds in (*item.image_embeds.values(), *item.text_embeds.values()):
                assert np.isfinite(embeds).all()
            for caption in item.captions:
                check_text(caption.text), check_text(caption.source)
        else:
            check_text(item.reason)
            assert item.reason
    assert set(outcomes) == set(names)
    broken = (
        "npz cut",
        "pth cut",
        "npz flat",
        "npz deep",
        "npz none",
        "npz narrow",
        "npz scalar",
        "view ",
        "paug.json ",
    )
    for key, name in names.items():
        if name.startswith(broken):
            assert not isinstance(outcomes[key], Row), name


@pytest.mark.parametrize("case", ["state", "info", "gone", "cut", "dict", *(f"flips {n}" for n in range(8))])
def test_saved_sets(tmp_path, case):
    import datasets

    datasets.disable_progress_bars()
    place = tmp_path / "set"
    rows = {"image": [GOOD] * 4, "caption": ["a", "b", "c", "d"], "label": [1, 2, 3, 4]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(place))
    arrow = next(place.glob("*.arrow"))
    whole = arrow.read_bytes()
    if case == "state":
        (place / "state.json").write_text("{")
    elif case == "info":
        (place / "dataset_info.json").write_text('{"features": {"image": {"_type": "Nothing"}}}')
    elif case == "gone":
        arrow.unlink()
    elif case == "cut":
        arrow.write_bytes(whole[: len(whole) // 2])
    elif case == "dict":
        (place / "dataset_dict.json").write_text('{"splits": ["train", "../up"]}')
    else:
        arrow.write_bytes(corpus.flipped(whole, int(case[-1]), 12))
    served, _ = opened(place)
    if case in ("state", "info", "gone"):
        assert served is None
