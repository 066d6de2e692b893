"""Data as people have it: columns of any name, said by the user or found by what they hold; one table of any name in a folder."""

import io
import json

import pytest

from distill.core.errors import UsageError
from distill.recipe import load_recipe
from distill.stages.evaluate import open_evaluation
from distill.stages.label import column_names, open_data
from reinforced_data.source import ColumnNames, open_source
from reinforced_data.store.manifest import SourceFacts
from tests.reinforced_data.sources.tar_tools import make_tar
from tests.reinforced_data.sources.test_sources import png, put, write_parquet

SAID = ColumnNames("photo", ("product_name",))
COUNT = 12


def rows(image):
    return [
        {"sku": f"S{i}", "photo": image(i), "product_name": f"name {i}", "title": f"title {i}", "price": 9.5}
        for i in range(COUNT)
    ]


def csv_text(separator=","):
    lines = [list(row.values()) for row in rows(lambda i: f"{i}.png")]
    return "\n".join(separator.join(map(str, line)) for line in [list(rows(str)[0]), *lines])


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The same twelve photos with their product names, as each kind of place holds them."""
    import datasets

    datasets.disable_progress_bars()
    root = tmp_path_factory.mktemp("columns")
    cells = rows(lambda i: {"bytes": png(i), "path": f"{i}.png"})
    write_parquet(root / "parquet" / "items.parquet", cells)
    datasets.Dataset.from_list(cells).cast_column("photo", datasets.Image()).save_to_disk(str(root / "saved"))
    datasets.Dataset.from_list(rows(png)).save_to_disk(str(root / "saved-bytes"))
    for i in range(COUNT):
        for place in ("shop", "shop;", "jsonl", "json-sidecars", "endings"):
            put(root / place / "img" / f"{i}.png", png(i))
        put(
            root / "json-sidecars" / "img" / f"{i}.json",
            json.dumps({"product_name": f"name {i}", "title": f"title {i}"}),
        )
        put(root / "endings" / "img" / f"{i}.product_name", f"name {i}")
        put(root / "endings" / "img" / f"{i}.txt", f"title {i}")
    put(root / "shop" / "products.csv", csv_text())
    put(root / "shop;" / "products.csv", csv_text(";"))
    put(root / "jsonl" / "items.jsonl", "\n".join(json.dumps(row) for row in rows(lambda i: f"img/{i}.png")))
    members = [(f"{i:03d}.{kind}", data) for i in range(COUNT) for kind, data in
               (("photo.png", png(i)), ("mask.png", png(i + 50)), ("product_name", f"name {i}"), ("txt", f"title {i}"))]  # fmt: skip
    (root / "tars").mkdir()
    make_tar(root / "tars" / "00000.tar", [(name.replace("photo.png", "photo"), data) for name, data in members])
    return root


PLACES = {
    "parquet": SAID, "saved": SAID, "saved-bytes": SAID, "shop": SAID, "shop/products.csv": SAID, "shop;": SAID, "jsonl": SAID, "tars": SAID,
    "json-sidecars": ColumnNames(None, ("product_name",)), "endings": ColumnNames(None, ("product_name",)),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_columns_that_are_named_are_read_and_no_others(places, place):
    found = {}
    for part in ("train", "eval"):
        source = open_source(str(places / place), part, columns=PLACES[place])
        for index in range(len(source)):
            (caption,) = source[index].captions  # not the title beside it
            assert caption.source == "real"
            found[caption.text] = source[index].image
    assert found == {f"name {i}": png(i) for i in range(COUNT)}


@pytest.mark.parametrize("place", ["parquet", "saved", "saved-bytes", "shop", "shop/products.csv", "shop;", "jsonl"])
def test_the_column_of_images_is_found_by_what_it_holds_and_said(places, place):
    columns = ColumnNames(None, ("product_name",))
    source = open_source(str(places / place), "given", columns=columns)
    assert {source[index].captions[0].text: source[index].image for index in range(COUNT)} == {
        f"name {i}": png(i) for i in range(COUNT)
    }
    assert "images from the column photo, by what it holds" in source.read_as.line()


@pytest.mark.parametrize("place", ["parquet", "saved", "shop", "jsonl", "tars", "json-sidecars", "endings"])
def test_a_name_that_is_not_there_is_an_error_that_names_it(places, place):
    with pytest.raises(UsageError, match="product_nam"):
        open_source(str(places / place), "train", columns=ColumnNames(None, ("product_nam",)))
    with pytest.raises(UsageError, match="foto"):
        open_source(str(places / place), "train", columns=ColumnNames("foto"))


def test_a_place_of_which_they_were_not_said_may_lack_them(places, tmp_path):
    for i in range(3):
        put(tmp_path / f"{i}.png", png(i))
    put(tmp_path / "captions.csv", "image,caption\n" + "\n".join(f"{i}.png,usual {i}" for i in range(3)))
    lenient = ColumnNames("photo", ("product_name",), lenient=True)
    source = open_source(str(tmp_path), "given", columns=lenient)
    assert [source[index].captions[0].text for index in range(3)] == [f"usual {i}" for i in range(3)]
    assert open_source("rendered:eval=2", "given", columns=lenient)[0].captions
    assert open_source(str(places / "shop"), "given", columns=lenient)[0].captions[0].text.startswith("name")


def test_a_table_without_known_captions_says_its_columns_and_the_flag(tmp_path):
    put(tmp_path / "0.png", png(0))
    put(tmp_path / "wares.csv", "photo,product_name\n0.png,a cup\n")
    line = open_source(str(tmp_path / "wares.csv"), "given").read_as.line()
    assert "photo, product_name" in line
    assert "--caption-column" in line
    assert "--caption-column" in open_source(str(tmp_path), "given").read_as.line()


def test_several_tables_of_the_same_images_are_asked_about(tmp_path):
    for i in range(3):
        put(tmp_path / f"{i}.png", png(i))
    for name in ("one", "other"):
        put(tmp_path / f"{name}.csv", "photo,text\n" + "\n".join(f"{i}.png,{name} {i}" for i in range(3)))
    with pytest.raises(UsageError, match=r"one\.csv, other\.csv.*--data"):
        open_source(str(tmp_path), "given")
    assert open_source(str(tmp_path / "one.csv"), "given")[0].captions[0].text == "one 0"
    (tmp_path / "other.csv").unlink()
    assert open_source(str(tmp_path), "given")[0].captions[0].text == "one 0"  # alone, whatever its name


def test_no_column_is_taken_for_images_where_two_may_be_or_none_is(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, cells in (
        ("two", {"front": [png(0)], "back": [png(1)], "text": ["a"]}),
        ("none", {"embedding": [b"\0" * 64], "text": ["a"]}),
    ):
        pq.write_table(pa.table(cells), tmp_path / f"{name}.parquet")
        with pytest.raises(UsageError, match="--image-column"):
            open_source(str(tmp_path / f"{name}.parquet"), "given")
    source = open_source(str(tmp_path / "two.parquet"), "given", columns=ColumnNames("back"))
    assert source[0].image == png(1)


def test_a_list_of_addresses_or_names_beside_tars_is_not_the_data(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    make_tar(tmp_path / "00000.tar", [("a.png", png(0)), ("a.txt", "in the tar"), ("b.png", png(1)), ("b.txt", "too")])
    for cells in (["https://x.org/a.jpg", "https://x.org/b.jpg"], ["a.jpg", "b.jpg"]):
        pq.write_table(pa.table({"where": cells, "caption": ["x", "y"]}), tmp_path / "listing.parquet")
        assert open_source(str(tmp_path), "given")[0].captions[0].text == "in the tar"
    put(tmp_path / "links.csv", "where,caption\nhttps://x.org/a.jpg,x\n")
    with pytest.raises(UsageError, match="--image-column"):
        open_source(str(tmp_path / "links.csv"), "given")


def test_a_job_reads_both_of_its_parts_by_them(places):
    recipe = load_recipe(None, {"reinforce.caption_columns": {"title": "llm"}},
                         {"data": str(places / "shop"), "image_column": "photo", "caption_column": ["product_name"]})  # fmt: skip
    assert column_names(recipe) == ColumnNames("photo", ("product_name",), {"title": "llm"})
    trained = open_data(recipe)
    assert {caption.source for caption in trained[0].captions} == {"real", "synthetic:llm"}
    (_, _, judged), = open_evaluation(recipe)  # fmt: skip
    assert len(trained) + len(judged) == COUNT
    assert [caption.text.split()[0] for caption in judged[0].captions] == ["name"]
    other = load_recipe(
        recipe, {"eval.data": str(places / "tars"), "eval.caption_column": "txt", "eval.image_column": "mask.png"}
    )
    (_, _, judged), = open_evaluation(other)  # fmt: skip
    assert (judged[0].captions[0].text, judged[0].image) == ("title 0", png(50))


def test_a_run_is_judged_on_more_of_its_own_kind_by_its_own_columns(places, tmp_path, monkeypatch):
    import distill
    from distill.core.existing import Existing
    from distill.run_folder import RunFolder
    from distill.stages import evaluate
    from distill.stages.opening import open_run

    class Opened(Exception):
        pass

    def opening(recipe):
        raise Opened(open_evaluation(recipe)[0][2][0].captions[0].text)

    monkeypatch.setattr(evaluate, "open_evaluation", opening)
    run = RunFolder(tmp_path / "run")
    said = {"data": str(places / "shop"), "image_column": "photo", "caption_column": "product_name"}
    open_run(run, load_recipe(None, said), Existing.REFUSE)
    with pytest.raises(Opened, match="name 0"):
        distill.eval(run.path, data=places / "shop;")
    with pytest.raises(Opened, match="title 0"):
        distill.eval(run.path, data=places / "tars", image_column="mask.png", caption_column="txt")


def test_a_set_remembers_them_and_one_without_is_recorded_as_before():
    facts = {"name": "shop", "location": "shop", "licence": "unknown", "fingerprint": "f", "samples": 2}
    assert SourceFacts(**facts).model_dump(mode="json") == facts
    said = SourceFacts(**facts, columns=SAID.to_json()).model_dump(mode="json")["columns"]
    assert ColumnNames.of(json.load(io.StringIO(json.dumps(said)))) == SAID
