import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill.core.errors import DistillError, UsageError
from reinforced_data.pixels.decode import BadImageError
from reinforced_data.source import open_source
from reinforced_data.sources.parts.listing import LABEL_CAPTION_SOURCE, clean_caption
from reinforced_data.sources.parts.splits import held_out_rows
from tests.reinforced_data.stubs import encoded, picture

SHARED = Path(__file__).parents[3].parent / "shared" / "data"


def png(seed):
    return encoded(picture(seed, 8, 8))


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def both(location):
    """Train and eval parts; together they must be everything, once."""
    return open_source(str(location), "train"), open_source(str(location), "eval")


def keys(source):
    return [source[index].key for index in range(len(source))]


def texts(sample):
    return [caption.text for caption in sample.captions]


def write_parquet(path, rows, metadata=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    if metadata:
        table = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
    pq.write_table(table, path, row_group_size=3)


def parquet_rows(count, first=0):
    return [
        {"key": f"k{i}", "image": {"bytes": png(i), "path": None}, "captions": [f"one {i}", f"two {i}"]}
        for i in range(first, first + count)
    ]


def test_parquet_folder_with_named_splits(tmp_path):
    write_parquet(tmp_path / "train-00000-of-00002.parquet", parquet_rows(7))
    write_parquet(tmp_path / "train-00001-of-00002.parquet", parquet_rows(4, 7))
    write_parquet(tmp_path / "validation-00000-of-00001.parquet", parquet_rows(3, 100))
    (tmp_path / "LICENSE").write_text("# CC-BY-4.0\nlong text\n")
    train, evaluation = both(tmp_path)
    assert keys(train) == [f"k{i}" for i in range(11)]
    assert keys(evaluation) == ["k100", "k101", "k102"]
    for index in (10, 0, 6, 7):  # any order, across files and row groups
        assert train[index].image == png(index)
        assert texts(train[index]) == [f"one {index}", f"two {index}"]
    assert train.licence == "CC-BY-4.0"
    assert train.zero_shot() is None
    assert train.fingerprint != evaluation.fingerprint
    assert train.fingerprint == open_source(str(tmp_path), "train").fingerprint
    write_parquet(tmp_path / "train-00001-of-00002.parquet", parquet_rows(4, 8))
    assert train.fingerprint != open_source(str(tmp_path), "train").fingerprint
    with pytest.raises(IndexError):
        train[11]


def test_parquet_of_labels_becomes_a_zero_shot_task_and_captions(tmp_path):
    rows = [{"image": {"bytes": png(i), "path": f"{i}.png"}, "label": i % 2} for i in range(6)]
    info = {"info": {"features": {"label": {"names": ["polar_bear", "tree"], "_type": "ClassLabel"}}}}
    write_parquet(tmp_path / "dev-00000-of-00001.parquet", rows, info)
    source = open_source(str(tmp_path), "eval")
    task = source.zero_shot()
    assert task.class_names == ("polar bear", "tree")
    assert task.labels == (0, 1, 0, 1, 0, 1)
    assert task.images == tuple(png(i) for i in range(6))
    assert all(template.count("{}") == 1 for template in task.templates)
    assert source[2].label == 0
    assert texts(source[2])[0] == "a photo of a polar bear."
    assert {caption.source for caption in source[2].captions} == {LABEL_CAPTION_SOURCE}
    with pytest.raises(UsageError, match="only dev"):
        open_source(str(tmp_path), "train")


def test_parquet_of_paths_and_single_captions(tmp_path):
    for i in range(4):
        put(tmp_path / "img" / f"{i}.png", png(i))
    rows = [{"image_path": f"img/{i // 2}.png", "caption": f"c{i}"} for i in range(8)]
    write_parquet(tmp_path / "pairs.parquet", rows)
    parts = both(tmp_path / "pairs.parquet")
    seen = {
        sample.key: (sample.image, texts(sample))
        for part in parts
        for sample in map(part.__getitem__, range(len(part)))
    }
    assert seen == {f"img/{i}.png": (png(i), [f"c{2 * i}", f"c{2 * i + 1}"]) for i in range(4)}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_text_tables_group_captions_of_one_image(tmp_path, suffix):
    for i in range(4):
        put(tmp_path / "images" / f"{i}.png", png(i))
    rows = [(f"images/{i}.png", f'says "{i}", twice') for i in (0, 1, 2, 0, 3)]
    if suffix == ".jsonl":
        body = "\n".join(json.dumps({"file_name": path, "text": text}) for path, text in rows)
    else:
        tab = "\t" if suffix == ".tsv" else ","
        body = "\n".join([f"file_name{tab}text", *(f'{p}{tab}"{t.replace(chr(34), chr(34) * 2)}"' for p, t in rows)])
    put(tmp_path / f"metadata{suffix}", body + "\n")
    for place in (tmp_path, tmp_path / f"metadata{suffix}"):
        parts = both(place)
        assert sorted(key for part in parts for key in keys(part)) == [f"images/{i}.png" for i in range(4)]
        assert len(parts[1]) == 1
        for part in parts:
            for sample in map(part.__getitem__, range(len(part))):
                number = int(sample.key[-5])
                assert sample.image == png(number)
                assert texts(sample) == [f'says "{number}", twice']


def test_missing_file_of_a_table_costs_that_sample(tmp_path):
    put(tmp_path / "a.png", png(0))
    put(tmp_path / "t.csv", "path,caption\na.png,here\nb.png,gone\nhttps://x.org/c.png,far\n")
    found = {}
    for part in both(tmp_path / "t.csv"):
        for index in range(len(part)):
            try:
                found[part[index].key] = "ok"
            except BadImageError as error:
                found[error.key] = error.reason
    assert found["a.png"] == "ok"
    assert "No such file" in found["b.png"]
    assert "download" in found["https://x.org/c.png"]


def test_images_with_sidecars(tmp_path):
    for i in range(5):
        put(tmp_path / "deep" / f"{i}.jpg", png(i))
    put(tmp_path / "deep" / "0.txt", "first\n\n  second  line \nfirst\n")
    put(tmp_path / "deep" / "1.json", json.dumps({"caption": "from json"}))
    put(tmp_path / "deep" / "2.json", json.dumps(["a", {"text": "b"}]))
    put(tmp_path / "deep" / "3.json", "{broken")
    put(tmp_path / ".hidden" / "x.jpg", png(9))
    got = {s.key: texts(s) for part in both(tmp_path) for s in map(part.__getitem__, range(len(part)))}
    assert got == {
        "deep/0.jpg": ["first", "second line"],
        "deep/1.jpg": ["from json"],
        "deep/2.jpg": ["a", "b"],
        "deep/3.jpg": [],
        "deep/4.jpg": [],
    }


def test_class_named_folders(tmp_path):
    for name in ("red_fox", "train", "cat"):
        for i in range(4):
            put(tmp_path / name / f"{i}.png", png(i))
    train, evaluation = both(tmp_path)
    assert len(train) + len(evaluation) == 12
    assert evaluation.zero_shot().class_names == ("cat", "red fox", "train")
    sample = train[keys(train).index("red_fox/0.png")] if "red_fox/0.png" in keys(train) else train[0]
    assert sample.label == ("cat", "red_fox", "train").index(sample.key.split("/")[0])


def test_split_folders(tmp_path):
    for part, names in (("train", "abc"), ("val", "de"), ("test", "f")):
        for name in names:
            put(tmp_path / part / f"{name}.png", png(ord(name)))
            put(tmp_path / part / f"{name}.txt", name)
    train, evaluation = both(tmp_path)
    assert keys(train) == ["a.png", "b.png", "c.png"]
    assert keys(evaluation) == ["d.png", "e.png"]


def test_hold_out_is_a_tenth_is_disjoint_and_does_not_move_when_data_grows():
    names = [f"key {i}" for i in range(500)]
    held = held_out_rows(names, "eval", "x")
    kept = held_out_rows(names, "train", "x")
    assert len(held) == 50
    assert sorted([*held, *kept]) == list(range(500))
    assert held_out_rows(names, "eval", "x") == held
    shuffled = names[::-1]
    assert {shuffled[row] for row in held_out_rows(shuffled, "eval", "x")} == {names[row] for row in held}
    assert len(held_out_rows([str(i) for i in range(20_000)], "eval", "x")) == 1000
    assert len(held_out_rows(["a", "b"], "eval", "x")) == 1
    assert list(held_out_rows(["a"], "train", "x")) == [0]
    with pytest.raises(UsageError, match="at least 2"):
        held_out_rows(["a"], "eval", "x")


def test_limit_spreads_over_the_split(tmp_path):
    write_parquet(tmp_path / "train-0.parquet", parquet_rows(20))
    write_parquet(tmp_path / "dev-0.parquet", parquet_rows(2, 50))
    assert keys(open_source(str(tmp_path), "train", limit=4)) == ["k0", "k5", "k10", "k15"]
    assert len(open_source(str(tmp_path), "train", limit=400)) == 20
    with pytest.raises(UsageError, match="at least 1"):
        open_source(str(tmp_path), "train", limit=0)


def test_captions_are_made_storable():
    assert clean_caption("  a\x00b\n\tc  ") == "a b c"
    assert clean_caption("x\ud800y").encode("utf-8")
    assert len(clean_caption("word " * 10**6)) <= 4096
    assert clean_caption(" \n ") == ""


def test_places_that_are_not_there(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(UsageError, match="Did you mean 'photos'"):
        open_source(str(tmp_path / "photo"), "train")
    with pytest.raises(UsageError, match="Did you mean 'rendered'"):
        open_source("renderd", "train")
    with pytest.raises(UsageError, match="holds no data"):
        open_source(str(tmp_path / "photos"), "train")
    put(tmp_path / "notes.docx", b"x")
    with pytest.raises(UsageError, match="no table"):
        open_source(str(tmp_path / "notes.docx"), "train")
    with pytest.raises(UsageError, match="split"):
        open_source("rendered", "dev")  # type: ignore[arg-type]


def test_tables_that_cannot_be_read(tmp_path):
    put(tmp_path / "cut.parquet", b"PAR1" + b"\0" * 50)
    with pytest.raises(DistillError, match=r"cut\.parquet"):
        open_source(str(tmp_path / "cut.parquet"), "train")
    for text in ("犬が走っている".encode("shift_jis"), "собака бежит".encode("cp1251"), "café".encode() + b" caf\xe9"):
        put(tmp_path / "old.csv", b"path,caption\na.png," + text + b"\n")
        with pytest.raises(DistillError, match="UTF-8"):
            open_source(str(tmp_path / "old.csv"), "train")
    put(tmp_path / "bad.jsonl", '{"path": "a.png", "caption": "x"}\n{"path": \n')
    with pytest.raises(DistillError, match="line 2"):
        open_source(str(tmp_path / "bad.jsonl"), "train")
    put(tmp_path / "other.csv", "colour,shape\nred,round\n")
    with pytest.raises(UsageError, match="no image column"):
        open_source(str(tmp_path / "other.csv"), "train")


def test_hub_set_from_a_local_copy(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    folder = tmp_path / "set"
    write_parquet(folder / "train-0.parquet", parquet_rows(6))
    write_parquet(folder / "test-0.parquet", parquet_rows(2, 50))
    train, evaluation = both(f"hf:{folder}")
    assert keys(train) == [f"k{i}" for i in range(6)]
    assert keys(evaluation) == ["k50", "k51"]
    assert train[3].image == png(3)
    assert texts(train[3]) == ["one 3", "two 3"]


def test_hub_set_that_cannot_be_had(monkeypatch):
    from reinforced_data.sources import hub

    monkeypatch.setattr(hub, "_hub_answers", lambda: False)
    with pytest.raises(DistillError, match=r"wanted 'nobody/nothing'.*folder") as caught:
        open_source("hf:nobody/nothing", "train")
    assert caught.value.exit_status == 1
    with pytest.raises(UsageError, match="org/set"):
        open_source("hf:", "train")


@pytest.mark.skipif(not (SHARED / "flickr8k").is_dir(), reason="shared data (flickr8k) is not here")
def test_flickr8k():
    train, evaluation = both(SHARED / "flickr8k")
    assert (len(train), len(evaluation)) == (5997, 1000)
    assert len(train[5996].captions) == 5
    assert train[0].image[:2] == b"\xff\xd8"
    assert not set(keys(evaluation)[:100]) & {train._listing.keys[row] for row in range(5997)}


@pytest.mark.skipif(not (SHARED / "caltech101-dev").is_dir(), reason="shared data (caltech101-dev) is not here")
def test_caltech101():
    task = open_source(str(SHARED / "caltech101-dev"), "eval", limit=303).zero_shot()
    assert len(task.class_names) == 101
    assert len(set(task.labels)) == 101  # the limit keeps every class
    assert "car side" in task.class_names


def test_a_registered_name_wins_and_a_dot_reaches_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(3):
        put(tmp_path / "rendered" / f"{i}.png", png(i))
    assert open_source("rendered", "train", limit=5)[0].key.startswith("rendered-train")
    assert len(open_source("./rendered", "train")) == 2


def tagged(sample):
    return [(caption.text, caption.source) for caption in sample.captions]


def test_caption_columns_of_tables_sidecars_and_saved_sets(tmp_path):
    """A column that the user names becomes captions with a source of its own, whatever holds it."""
    import datasets

    datasets.disable_progress_bars()
    rows = [{"key": f"k{i}", "image": {"bytes": png(i), "path": None}, "caption": f"c{i}", "Rewrite": [f"r{i}", f"c{i}"], "text": f"t{i}"}
            for i in range(4)]  # fmt: skip
    write_parquet(tmp_path / "p" / "train.parquet", rows)
    write_parquet(tmp_path / "p" / "dev.parquet", rows)
    plain = [{name: row[name] for name in ("key", "caption", "Rewrite", "text")} for row in rows]
    table = datasets.Dataset.from_list([{**row, "image": png(i)} for i, row in enumerate(plain)])
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(str(tmp_path / "saved"))
    put(tmp_path / "t.jsonl", "\n".join(json.dumps({**row, "path": f"f/train/{i}.png"}) for i, row in enumerate(plain)))
    for i, row in enumerate(plain):
        for part in ("train", "val"):
            put(tmp_path / "f" / part / f"{i}.png", png(i))
            put(tmp_path / "f" / part / f"{i}.json", json.dumps(row))
    columns = {"rewrite": "llm", "text": "real"}
    wanted = [("c0", "real"), ("r0", "synthetic:llm"), ("t0", "real")]
    for place in ("p", "saved", "f", "t.jsonl"):
        source = open_source(str(tmp_path / place), "train", caption_columns=columns)
        first = source[0]
        number = first.key.removeprefix("k").removesuffix(".png")
        assert tagged(first) == [(text.replace("0", number), kind) for text, kind in wanted], place
        with pytest.raises(UsageError, match="rewriet"):
            open_source(str(tmp_path / place), "train", caption_columns={"rewriet": "llm"})
    with pytest.raises(UsageError, match="no single word"):
        open_source(str(tmp_path / "p"), "train", caption_columns={"rewrite": "a b"})
    with pytest.raises(UsageError, match="no caption columns"):
        open_source("rendered", "train", caption_columns={"rewrite": "llm"})


def test_a_set_saved_by_datasets_is_read_as_it_is(tmp_path):
    import datasets

    datasets.disable_progress_bars()
    table = datasets.Dataset.from_dict({"img": [png(i) for i in range(12)], "caption": [f"c{i}" for i in range(12)]})
    table.save_to_disk(str(tmp_path / "one"))
    table.remove_columns("caption").save_to_disk(str(tmp_path / "bare"))
    parts = both(tmp_path / "one")
    assert sorted(texts(sample)[0] for part in parts for sample in map(part.__getitem__, range(len(part)))) == sorted(
        f"c{i}" for i in range(12)
    )
    again = open_source(f"hf:{tmp_path / 'one'}", "train")
    assert keys(again) == keys(parts[0])
    assert [part[0].captions for part in both(tmp_path / "bare")] == [(), ()]  # no captions: the captioner's business
