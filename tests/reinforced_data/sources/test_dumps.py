"""Tables and folders as shops, old tools and network disks leave them."""

import json

import pytest

from distill.core.errors import DistillError
from reinforced_data.pixels.decode import BadImageError, decode_rgb
from reinforced_data.source import ColumnNames, open_source
from tests.reinforced_data.sources.tar_tools import make_tar
from tests.reinforced_data.sources.test_sources import keys, png, put, texts


def images(place, *names):
    for number, name in enumerate(names):
        put(place / name, png(number))


def test_paths_absolute_relative_and_of_windows_are_all_named(tmp_path):
    images(tmp_path, "pics/a.jpg", "pics/b.JPG", "pics/c d.jpg", "pics/spare.jpg")
    put(tmp_path / "pics" / "e.heic", b"\0\0\0\x18ftypheic" + bytes(40))
    cells = (str(tmp_path / "pics" / "a.jpg"), "pics\\b.JPG", "./pics/c d.jpg", "pics\\e.heic")
    put(
        tmp_path / "artikel.csv",
        b"\xef\xbb\xbf" + "\r\n".join(["bild;title", *(f"{cell};x" for cell in cells)]).encode(),
    )
    source = open_source(str(tmp_path), "given")
    assert [source[row].image for row in range(3)] == [png(0), png(1), png(2)]
    assert source.read_as.unread["images that no table names"] == 1
    with pytest.raises(BadImageError, match="HEIC, which is read with: pip install pillow-heif"):
        decode_rgb(source[3].image, source.key(3))


@pytest.mark.parametrize(
    ("start", "said"),
    [(b"\0\0\0\x1cftypmp42", "a video"), (b'\xef\xbb\xbf<?xml version="1.0"?><svg width="1">', "an SVG"), (b"<!DOCTYPE html>", "a web page"),
     (b"%PDF-1.7", "a PDF"), (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"), (b"hello", "no|not an image")],
)  # fmt: skip
def test_what_a_file_is_that_is_no_image(start, said):
    with pytest.raises(BadImageError, match=said):
        decode_rgb(start + bytes(100), "x.jpg")


def test_a_western_table_that_is_not_utf8_is_read_and_said(tmp_path):
    images(tmp_path, "a.jpg", "b.jpg")
    put(tmp_path / "export.csv", "bild;caption\r\na.jpg;Größe XL für 9€\r\nb.jpg;Käse\r\n".encode("cp1252"))
    source = open_source(str(tmp_path), "given")
    assert [texts(source[0]), texts(source[1])] == [["Größe XL für 9€"], ["Käse"]]
    assert "export.csv is not UTF-8 and read as cp1252" in source.read_as.line()


@pytest.mark.parametrize(
    ("row", "asked"),
    [({"image": {"path": "{}", "width": 3}, "captions": ["one", "two"]}, None),
     ({"picture": {"file_name": "{}"}, "text": ["one", "two"]}, None),
     ({"meta": {"where": {"image_path": "{}"}}, "annotations": [{"caption": "one"}, {"caption": "two"}]}, "annotations"),
     ({"photo": "{}", "texts": {"en": ["one", "two"], "de": ["eins"]}}, "texts.en"),
     ({"image": "{}", "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "one"},
                                        {"from": "gpt", "value": "two"}]}, None)],
)  # fmt: skip
def test_objects_in_rows_of_json(tmp_path, row, asked):
    images(tmp_path, "im/0.jpg", "im/1.jpg")
    rows = [json.dumps(row).replace("{}", f"im/{number}.jpg") for number in range(2)]
    columns = ColumnNames(None, (asked,)) if asked else None
    for name, text in (("data.jsonl", "\n".join(rows)), ("data.json", f"[{','.join(rows)}]")):
        put(tmp_path / name, text)
        for place in (tmp_path, tmp_path / name):
            source = open_source(str(place), "given", columns=columns)
            assert [(source[at].image, texts(source[at])) for at in range(2)] == [
                (png(at), ["one", "two"]) for at in range(2)
            ]
        (tmp_path / name).unlink()


def test_a_table_of_these_images_without_known_captions_lists_its_columns(tmp_path):
    images(tmp_path, "im/0.jpg", "im/1.jpg")
    put(tmp_path / "data.tsv", "image\tcaption_en\tcaption_de\nim/0.jpg\tdog\tHund\nim/1.jpg\tcat\tKatze\n")
    put(tmp_path / "notes.txt", "bought in May\n")
    line = open_source(str(tmp_path), "given").read_as.line()
    assert "data.tsv is of these images; which of its columns (caption_en, caption_de) has captions" in line
    source = open_source(str(tmp_path), "given", columns=ColumnNames(None, ("caption_de",)))
    assert [texts(source[row]) for row in range(2)] == [["Hund"], ["Katze"]]


def test_flickr8ks_own_captions_are_meant_not_their_lemmas(tmp_path):
    images(tmp_path / "Flicker8k_Dataset", "0.jpg", "1.jpg")
    put(tmp_path / "Flickr8k.token.txt", "0.jpg#0\tTwo dogs run .\n1.jpg#0\tA cat .\n")
    put(tmp_path / "Flickr8k.lemma.token.txt", "0.jpg#0\ttwo dog run .\n1.jpg#0\ta cat .\n")
    put(tmp_path / "Flickr_8k.trainImages.txt", "0.jpg\n")
    put(tmp_path / "Flickr_8k.devImages.txt", "1.jpg\n")
    source = open_source(str(tmp_path), "train")
    assert texts(source[0]) == ["Two dogs run ."]
    assert source.read_as.unread == {"./Flickr8k.lemma.token.txt": 1}


def test_folders_of_systems_are_no_classes_and_empty_ones_are_said(tmp_path):
    images(
        tmp_path,
        "red fox/1.jpg",
        "dog/2.jpg",
        "@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg",
        "__MACOSX/dog/2.jpg",
        ".thumbnails/3.jpg",
    )
    (tmp_path / "bird").mkdir()
    source = open_source(str(tmp_path), "given")
    assert keys(source) == ["dog/2.jpg", "red fox/1.jpg"]
    assert source.zero_shot().class_names == ("dog", "red fox")
    assert source.read_as.unread == {"system folders": 2, "empty folders": 1}


def test_a_table_that_is_no_text_says_how_to_save_it(tmp_path):
    put(tmp_path / "old.csv", b"path,caption\na.png," + "犬".encode("euc_jp") + b"\n")
    with pytest.raises(DistillError, match="Save it as UTF-8"):
        open_source(str(tmp_path / "old.csv"), "train")


@pytest.mark.parametrize("ending", ["{}.txt", "caption{}.txt", "text_{}.txt"])
def test_several_texts_of_an_image_in_a_tar(tmp_path, ending):
    members = [(f"{image}.{ending.format(n)}", f"{n} of {image}") for image in "78" for n in (0, 1, 10, 2)]
    make_tar(
        tmp_path / "a.tar",
        [("7.jpg", png(7)), *members, ("8.jpg", png(8)), ("v2.0.jpg", png(2)), ("v2.0.txt", "a dot")],
    )
    source = open_source(str(tmp_path / "a.tar"), "given")
    found = {sample.key: (sample.image, texts(sample)) for sample in map(source.__getitem__, range(len(source)))}
    assert found == {
        **{image: (png(int(image)), [f"{n} of {image}" for n in (0, 1, 2, 10)]) for image in "78"},
        "v2.0": (png(2), ["a dot"]),
    }


def test_a_tar_of_class_folders_has_classes_and_parts(tmp_path):
    names = [
        f"pets/{part}/{name}/{n}.jpg" for part in ("train", "val") for name in ("red_fox", "dog") for n in range(2)
    ]
    make_tar(tmp_path / "pets.tar", [(name, png(at)) for at, name in enumerate(names)])
    source = open_source(str(tmp_path / "pets.tar"), "eval")
    assert keys(source) == [name.removesuffix(".jpg") for name in names[4:]]
    assert source.zero_shot().class_names == ("dog", "red fox")
    assert source.zero_shot().labels == (1, 1, 0, 0)
    assert texts(source[0])[0] == "a photo of a red fox."
    make_tar(tmp_path / "mixed.tar", [("2021/1.jpg", png(1)), ("dog/2.jpg", png(2)), ("dog/3.jpg", png(3))])
    source = open_source(str(tmp_path / "mixed.tar"), "given")
    assert source.zero_shot() is None
    assert "not taken for classes: dog could be, and 2021 are no words" in source.read_as.line()
    make_tar(tmp_path / "numbers.tar", [m for n in range(3) for m in ((f"{n}.jpg", png(n)), (f"{n}.cls", str(n)))])
    assert (
        "classnames.txt beside the tars gives their names"
        in open_source(str(tmp_path / "numbers.tar"), "given").read_as.line()
    )
