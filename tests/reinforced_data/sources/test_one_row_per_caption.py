"""Sets with a row per caption: the rows of one image are one sample, whatever holds them."""

import datasets
import pytest

from reinforced_data.source import open_source
from tests.reinforced_data.sources.tar_tools import make_tar
from tests.reinforced_data.sources.test_sources import png, put, texts, write_parquet

datasets.disable_progress_bars()
ROWS = [(image, f"caption {k} of {image}") for k in range(3) for image in range(4)]  # never two of an image in a row
WANTED = {png(image): [f"caption {k} of {image}" for k in range(3)] for image in range(4)}


def cells(ids):
    return [{**({ids: image if ids == "image_id" else row} if ids else {}), "image": {"bytes": png(image), "path": None}, "caption": text}
            for row, (image, text) in enumerate(ROWS)]  # fmt: skip


def write(place, kind, ids):
    if kind == "parquet":
        write_parquet(place / "a.parquet", cells(ids))
    elif kind == "saved":
        datasets.Dataset.from_list(cells(ids)).save_to_disk(str(place))
    else:
        make_tar(place / "x.tar", [m for row, (image, text) in enumerate(ROWS)
                                   for m in ((f"{row}.png", png(image)), (f"{row}.txt", text))])  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "ids"),
    [
        ("parquet", None),
        ("parquet", "id"),
        ("parquet", "image_id"),
        ("saved", None),
        ("saved", "image_id"),
        ("tar", None),
    ],
)
def test_rows_of_one_image_are_one_sample(tmp_path, kind, ids):
    (tmp_path / "set").mkdir()
    write(tmp_path / "set", kind, ids)
    source = open_source(str(tmp_path / "set"), "given")
    samples = [source[row] for row in range(len(source))]
    assert {sample.image: texts(sample) for sample in samples} == WANTED
    assert len(samples) == len({sample.key for sample in samples}) == 4
    assert "12 rows of 4 images are one sample each" in source.read_as.line()
    train, held = open_source(str(tmp_path / "set"), "train"), open_source(str(tmp_path / "set"), "eval")
    assert (len(train), len(held)) == (3, 1)
    assert held[0].image not in {train[row].image for row in range(3)}  # no caption's image is on both sides


def test_equal_ids_of_different_images_and_a_photo_that_is_there_twice_lose_nothing(tmp_path):
    rows = [{"id": row % 2, "image": {"bytes": png(row), "path": None}, "caption": str(row)} for row in range(6)]
    write_parquet(tmp_path / "ids.parquet", rows)
    assert len(open_source(str(tmp_path / "ids.parquet"), "given")) == 6
    rows = [{"id": row, "image": {"bytes": png(row % 5), "path": None}, "caption": str(row)} for row in range(6)]
    write_parquet(tmp_path / "twice.parquet", rows)
    assert len(open_source(str(tmp_path / "twice.parquet"), "given")) == 6


def test_tars_of_clip_benchmark(tmp_path):
    """https://github.com/LAION-AI/CLIP_benchmark, datasets/builder.py: retrieval captions are split by line."""
    put(tmp_path / "dataset_type.txt", "retrieval\n")
    (tmp_path / "test").mkdir()
    make_tar(
        tmp_path / "test" / "0.tar",
        [m for i in range(3) for m in ((f"s{i}.png", png(i)), (f"s{i}.txt", f"one {i}\ntwo {i}"))],
    )
    source = open_source(str(tmp_path), "given")
    assert [texts(source[row]) for row in range(3)] == [[f"one {i}", f"two {i}"] for i in range(3)]
    zero = tmp_path / "zero"
    put(zero / "classnames.txt", "tench\n3D printer\n")
    put(zero / "zeroshot_classification_templates.txt", "a bad photo of a {c}.\na {c} in a video game.\n")
    (zero / "test").mkdir()
    make_tar(zero / "test" / "0.tar", [m for i in range(4) for m in ((f"s{i}.png", png(i)), (f"s{i}.cls", str(i % 2)))])
    task = open_source(str(zero), "given").zero_shot()
    assert (task.class_names, task.labels) == (("tench", "3D printer"), (0, 1, 0, 1))
    assert task.templates == ("a bad photo of a {}.", "a {} in a video game.")


def test_dots_in_names_of_tar_members(tmp_path):
    members = [m for i in range(3) for m in ((f"photo 2.{i}.png", png(i)), (f"photo 2.{i}.txt", f"text {i}"))]
    members += [("b.x.png", png(8)), ("b.x.txt", "final"), ("b.y.png", png(9)), ("b.y.txt", "draft")]
    make_tar(tmp_path / "x.tar", [*members, ("a.left.png", png(7)), ("a.txt", "seen from the left")])
    source = open_source(str(tmp_path / "x.tar"), "given")
    found = {sample.key: texts(sample) for sample in map(source.__getitem__, range(len(source)))}
    assert found == {
        **{f"photo 2.{i}": [f"text {i}"] for i in range(3)},
        "a": ["seen from the left"],
        "b.x": ["final"],
        "b.y": ["draft"],
    }
