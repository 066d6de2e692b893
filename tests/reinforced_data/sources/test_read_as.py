"""How places are read: layouts as people have them, what is said of them, and what is left aside."""

import json

import pytest

from distill.core.errors import UsageError
from reinforced_data.source import open_source
from reinforced_data.sources.parts.words import folder_words
from tests.reinforced_data.sources.test_sources import keys, png, put, texts, write_parquet


def all_of(place):
    source = open_source(str(place), "given")
    return source, {sample.key: texts(sample) for sample in map(source.__getitem__, range(len(source)))}


@pytest.mark.parametrize(
    ("name", "words"),
    [("red_fox", "red fox"), ("001.Black_footed_Albatross", "Black footed Albatross"), ("n01440764", "tench"), ("mayfly", "mayfly"),
     ("octopus", "octopus"), ("train", "train"), ("猫", "猫"), ("train2017", None), ("val2014", None), ("2021", None),
     ("2021-05-03", None), ("Jan 2020", None), ("100APPLE", None), ("DCIM", None), ("IMG_0012", None), ("images", None),
     ("masks", None), ("n99999999", None), ("test_set", None), ("a3f09bc2d1", None)],
)  # fmt: skip
def test_which_folder_names_are_words(name, words):
    assert folder_words(name) == words


def test_class_folders_that_are_words_and_those_that_are_not(tmp_path):
    for name in ("2021/05", "2022/06"):
        put(tmp_path / "dates" / name / "a.jpg", png(1))
    source, found = all_of(tmp_path / "dates")
    assert found == {"2021/05/a.jpg": [], "2022/06/a.jpg": []}
    assert source.zero_shot() is None
    assert "no words: 2021, 2022" in source.read_as.line()
    for name in ("n01440764", "n01443537"):
        put(tmp_path / "birds" / "images" / name / "a.jpg", png(1))
    source, found = all_of(tmp_path / "birds")
    assert source.zero_shot().class_names == ("tench", "goldfish")
    assert "class folders (2 classes), captions made from templates" in source.read_as.line()
    for name in ("cat", "dog", "2021"):
        put(tmp_path / "mixed" / name / "a.jpg", png(1))
    with pytest.raises(UsageError, match=r"Are the sub-folders .* 2021 is no word.*classes:.*images:"):
        open_source(str(tmp_path / "mixed"), "train")
    assert open_source(f"images:{tmp_path / 'mixed'}", "given")[0].captions == ()
    assert [open_source(f"classes:{tmp_path / 'mixed'}", "given")[row].label for row in range(3)] == [0, 1, 2]


def test_parts_below_one_folder_and_masks(tmp_path):
    for part in ("train", "val"):
        for name in "ab":
            put(tmp_path / "images" / part / f"{name}.jpg", png(1))
            put(tmp_path / "labels" / part / f"{name}.txt", "0 0.1 0.2 0.3 0.4\n")
            put(tmp_path / "masks" / part / f"{name}.png", png(2))
    source = open_source(str(tmp_path), "train")
    assert keys(source) == ["images/train/a.jpg", "images/train/b.jpg"]
    assert source[0].captions == ()
    assert source.read_as.unread[".png"] == 4


def test_boxes_beside_images_are_no_captions(tmp_path):
    for name, text in (("a", "0 0.5 0.5 0.1 0.1\n"), ("b", ""), ("c", "1 0.2 0.2 0.3 0.3\n2 0.1 0.1 0.2 0.2")):
        put(tmp_path / f"{name}.jpg", png(1))
        put(tmp_path / f"{name}.txt", text)
    source, found = all_of(tmp_path)
    assert set(map(tuple, found.values())) == {()}
    assert "boxes" in source.read_as.line()
    put(tmp_path / "a.txt", "4 people at 12 tables")
    assert all_of(tmp_path)[1]["a.jpg"] == ["4 people at 12 tables"]


CAPTIONS = {f"{i}.jpg": [f"one {i}", f"two, {i}"] for i in range(4)}
PAIRS = [(name, text) for name, texts in CAPTIONS.items() for text in texts]
COCO = {
    "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(4)],
    "annotations": [{"id": n, "image_id": n // 2, "caption": text} for n, (_, text) in enumerate(PAIRS)],
}
KARPATHY = {"images": [{"filepath": "images", "filename": name, "split": "restval" if name[0] < "3" else "test",
                        "sentences": [{"raw": text, "tokens": text.split()} for text in texts]} for name, texts in CAPTIONS.items()]}  # fmt: skip
TABLES = {
    "captions.txt": "image,caption\n" + "".join(f'{name},"{text}"\n' for name, text in PAIRS),
    "results.csv": "image_name| comment_number| comment\n" + "".join(f"{name}| 0| {text}\n" for name, text in PAIRS),
    "Flickr8k.token.txt": "".join(f"{name}#{n % 2}\t{text}\n" for n, (name, text) in enumerate(PAIRS)),
    "annotations/captions_all.json": json.dumps(COCO),
    "dataset_flickr8k.json": json.dumps(KARPATHY),
    "results_20130124.token": "".join(f"{name}#{n % 2}\t{text}\n" for n, (name, text) in enumerate(PAIRS)),
    "ids.csv": "image_id,caption\n" + "".join(f'{name[0]},"{text}"\n' for name, text in PAIRS),
    "captions.tsv": "".join(f"{name}\t{text}\n" for name, text in PAIRS),
    "middle.csv": "filename,caption,note\n" + "".join(f"{name},{text},x\n" for name, text in PAIRS),
    "captions.json": json.dumps({name: {"captions": texts} for name, texts in CAPTIONS.items()}),
    "deep/metadata.json": json.dumps([{"id": i, "image": name, "caption": texts} for i, (name, texts) in enumerate(CAPTIONS.items())]),
    "names.json": json.dumps(CAPTIONS),
    "images/metadata.jsonl": "".join(json.dumps({"file_name": name, "text": text}) + "\n" for name, text in PAIRS),
    "surplus.csv": "filename, caption\n" + "".join(f"images\\{name}, {text}\n" for name, text in PAIRS),
    "lists.csv": "filename;caption\n" + "".join(f"{name};{list(texts)}\n" for name, texts in CAPTIONS.items()),
    "wide.csv": "\ufefffilename\tcaption\n" + "".join(f"{name}\t{text}\n" for name, text in PAIRS),
}  # fmt: skip


@pytest.mark.parametrize("table", TABLES)
def test_tables_of_captions_as_sets_bring_them(tmp_path, table):
    for name in CAPTIONS:
        put(tmp_path / "images" / name, png(int(name[0])))
    put(tmp_path / table, TABLES[table].encode("utf-16-le" if table == "wide.csv" else "utf-8"))
    source = open_source(str(tmp_path), "given" if table != "dataset_flickr8k.json" else "named:train")
    found = {sample.key: texts(sample) for sample in map(source.__getitem__, range(len(source)))}
    wanted = {f"images/{name}": texts for name, texts in CAPTIONS.items()}
    if table == "dataset_flickr8k.json":
        wanted.pop("images/3.jpg")
    assert {key if "/" in key else f"images/{key}.jpg": value for key, value in found.items()} == wanted
    assert all(sample.image == png(int(sample.key[-5] if "." in sample.key else sample.key)) for sample in map(source.__getitem__, range(len(source))))  # fmt: skip
    said = source.read_as.line()
    assert {
        "results.csv": "separated by '|'",
        "lists.csv": "separated by ';'",
        "surplus.csv": "4 lines have more cells",
        "middle.csv": "4 lines have more cells",
        "captions.tsv": "no header",
    }.get(table, "") in said


def test_parts_of_a_table_and_a_named_part(tmp_path):
    rows = "".join(f"{i}.jpg,text {i},{('train', 'val', 'test')[i % 3]}\n" for i in range(9))
    put(tmp_path / "t.csv", "filename,caption,split\n" + rows)
    for i in range(9):
        put(tmp_path / f"{i}.jpg", png(i))
    place = str(tmp_path / "t.csv")
    assert keys(open_source(place, "train")) == ["0.jpg", "3.jpg", "6.jpg"]
    assert keys(open_source(place, "eval")) == keys(open_source(place, "given")) == ["1.jpg", "4.jpg", "7.jpg"]
    assert keys(open_source(place, "named:test")) == ["2.jpg", "5.jpg", "8.jpg"]
    with pytest.raises(UsageError, match="no part 'dev'"):
        open_source(place, "named:dev")
    with pytest.raises(UsageError, match="no part 'test'"):
        put(tmp_path / "u.csv", "filename,caption\n0.jpg,a\n")
        open_source(str(tmp_path / "u.csv"), "named:test")


def test_parts_in_a_column_of_parquet_and_in_flickr8ks_lists(tmp_path):
    rows = [
        {"image": {"bytes": png(i), "path": None}, "caption": str(i), "split": ("train", "test")[i % 2]}
        for i in range(6)
    ]
    write_parquet(tmp_path / "p.parquet", rows)
    for split, wanted in (("train", "024"), ("eval", "135"), ("named:test", "135")):
        source = open_source(str(tmp_path / "p.parquet"), split)
        assert [texts(source[row]) for row in range(3)] == [[number] for number in wanted]
    place = tmp_path / "flickr8k"
    for name in CAPTIONS:
        put(place / "Flicker8k_Dataset" / name, png(int(name[0])))
    put(place / "Flickr8k_text" / "Flickr8k.token.txt", TABLES["Flickr8k.token.txt"])
    put(place / "Flickr8k_text" / "Flickr_8k.trainImages.txt", "0.jpg\n2.jpg\n")
    put(place / "Flickr8k_text" / "Flickr_8k.testImages.txt", "1.jpg\n3.jpg\n")
    assert keys(open_source(str(place), "train")) == [f"Flicker8k_Dataset/{i}.jpg" for i in (0, 2)]
    assert keys(open_source(str(place), "eval")) == [f"Flicker8k_Dataset/{i}.jpg" for i in (1, 3)]


def test_what_is_left_aside_is_counted_by_kind(tmp_path, monkeypatch):
    from reinforced_data.sources.parts import files

    monkeypatch.setattr(files, "IMAGE_SUFFIXES", tuple(s for s in files.IMAGE_SUFFIXES if s not in files.HEIC_SUFFIXES))
    put(tmp_path / "a.jpg", png(1))
    for name in ("x.HEIC", "y.heic", "film.mov", "table.csv", ".DS_Store", "LICENSE"):
        put(tmp_path / name, "x,y\n1,2\n")
    (tmp_path / "far").symlink_to(tmp_path.parent, target_is_directory=True)
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    source, _ = all_of(tmp_path)
    heic = ".HEIC (read with: pip install pillow-heif)"
    assert source.read_as.to_json()["not_read"] == {
        "./table.csv": 1,
        heic: 2,
        ".mov": 1,
        "linked folders": 1,
        "broken links": 1,
    }
    assert "table.csv, 2 .HEIC" in source.read_as.line()
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(UsageError, match=r"holds no data.*left aside: .*2 \.HEIC .*pillow-heif"):
        open_source(str(tmp_path), "train")
