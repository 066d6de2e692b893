"""`distill predict` by command lines: what it says is what open_clip says of the same weights, in every form; and refusals."""

import csv
import json
import math

import numpy as np
import pytest
import torch

from distill.core.clip.folder import MERGES_FILE
from distill.core.clip.model import import_open_clip
from reinforced_data.source import open_source
from tests.command_line import distill

CAPTIONS = ("a red circle", "two blue squares", "nothing at all")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with four pictures and a file that is none."""
    folder = tmp_path_factory.mktemp("photos")
    source = open_source("rendered:train=8,eval=4", "eval")
    for index in range(4):
        (folder / f"{index}.png").write_bytes(source[index].image)
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def by_open_clip(tiny_teacher, photos):
    """[4, 3] probabilities of the captions for the pictures, by open_clip's own loading, preprocessing and tokenizer."""
    import_open_clip()
    import open_clip
    from PIL import Image

    model, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{tiny_teacher}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tiny_teacher}", bpe_path=str(tiny_teacher / MERGES_FILE))
    model.eval()
    pictures = torch.stack([prepare(Image.open(photos / f"{i}.png").convert("RGB")) for i in range(4)])
    with torch.no_grad():
        image = model.encode_image(pictures, normalize=True)
        text = model.encode_text(tokenizer(list(CAPTIONS)), normalize=True)
        return (math.exp(model.logit_scale) * image @ text.T).softmax(-1).numpy()


def _answer(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _table(result, labels):
    return np.array(
        [
            [{one["label"]: one["probability"] for one in row["labels"]}[label] for label in labels]
            for row in result["photos"]
        ]
    )


def test_captions_are_told_apart_as_by_open_clip(tiny_teacher, photos, by_open_clip):
    words = [word for caption in CAPTIONS for word in ("--caption", caption)]
    done = distill("predict", tiny_teacher, photos, *words, "--json")
    result = _answer(done)
    assert [row["photo"] for row in result["photos"]] == [str(photos / f"{i}.png") for i in range(4)]
    assert _table(result, CAPTIONS) == pytest.approx(by_open_clip, abs=2e-4)
    assert [*result["rejected"]] == [str(photos / "broken.png")]
    assert f"Left out: {photos / 'broken.png'}" in done.stderr


def test_labels_of_a_file_and_a_table_of_them(tiny_teacher, photos, tmp_path):
    (tmp_path / "labels.txt").write_text("\n".join(CAPTIONS), encoding="utf-8")
    call = ("predict", tiny_teacher, photos / "1.png", "--classes", "labels.txt", "--template", "{}")
    result = _answer(distill(*call, "--top", 2, "--out", "found.csv", "--json", cwd=tmp_path))
    same = _answer(distill("predict", tiny_teacher, photos / "1.png", *_captions(), "--json"))
    assert result["photos"][0]["labels"] == same["photos"][0]["labels"][:2]
    with open(tmp_path / "found.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["label"], float(row["probability"])) for row in rows] == [
        (one["label"], one["probability"]) for one in result["photos"][0]["labels"]
    ]
    again = distill(*call, "--out", "found.csv", cwd=tmp_path)
    assert (again.returncode, "exists" in again.stderr) == (2, True)


def _captions():
    return [word for caption in CAPTIONS for word in ("--caption", caption)]


def test_a_sentence_finds_photos_by_the_same_cosines(tiny_teacher, photos, tmp_path):
    words = ("--search", CAPTIONS[0], "--search", CAPTIONS[1], "--top", 3, "--out", "found.jsonl", "--json")
    result = _answer(distill("predict", tiny_teacher, photos, *words, cwd=tmp_path))
    assert [found["sentence"] for found in result["searches"]] == list(CAPTIONS[:2])
    for found in result["searches"]:
        cosines = [hit["cosine"] for hit in found["photos"]]
        assert len(cosines) == 3
        assert cosines == sorted(cosines, reverse=True)
    lines = (tmp_path / "found.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == result["searches"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "By what are the photos told apart?"),
        (("--caption", "one"), "nothing to be told apart from"),
        (("--caption", "one", "--caption", "one"), "given twice"),
        (("--caption", "one", "--caption", "two", "--search", "three"), "two questions"),
        (("--search", "one", "--top", 0), "asks for nothing"),
        (("--search", "one", "--template", "a {}"), "--template is what labels are put into"),
        (("--search", "one", "--out", "found.txt"), ".csv or .jsonl"),
        (("--classes", "nowhere.txt"), "cannot be read"),
    ],
)
def test_what_cannot_be_answered_is_refused(tiny_teacher, photos, words, said):
    done = distill("predict", tiny_teacher, photos, *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_that_is_not_there_is_what_is_said_first(photos):
    done = distill("predict", "runs/nowhere/export/onnx-fp32", photos)
    assert done.returncode == 2
    assert "Unknown model 'runs/nowhere/export/onnx-fp32'" in done.stderr
