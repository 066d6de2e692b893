"""What is said of photos equals brute force: probabilities, the nearest photos, the figures of each class."""

from pathlib import Path

import numpy as np
import pytest

from distill.core.errors import UsageError
from distill.evaluation.evalset import pixels
from distill.evaluation.metrics import per_class, zero_shot, zero_shot_ranks
from distill.evaluation.predict import (
    Scorer,
    best_labels,
    best_photos,
    label_scores,
    photo_files,
    read_photos,
    text_embeddings,
)
from reinforced_data.source import open_source
from tests.distill.verbs.test_demo import colour_model

RANDOM = np.random.default_rng(0)


def _unit(*shape: int) -> np.ndarray:
    rows = RANDOM.normal(size=shape)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    source = open_source("rendered:train=8,eval=5", "eval")
    (tmp_path / "below" / "deeper").mkdir(parents=True)
    for index, place in enumerate(("0.png", "below/1.png", "below/deeper/2.JPG", "3.png", "4.png")):
        (tmp_path / place).write_bytes(source[index].image)
    return tmp_path


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_probabilities_are_those_of_the_model_in_float64(kind):
    image, text = _unit(6, 8), _unit(4, 8)
    scorer = Scorer(colour_model("any"), 20.0, -3.0 if kind == "sigmoid" else 0.0, kind)
    found = best_labels(list("abcdef"), label_scores(scorer, image, text), ["w", "x", "y", "z"], 3)
    for row, photo in zip(found, image, strict=True):
        logits = [20.0 * sum(a * b for a, b in zip(photo, one, strict=True)) + scorer.logit_bias for one in text]
        wanted = (
            [1 / (1 + np.exp(-x)) for x in logits]
            if kind == "sigmoid"
            else [np.exp(x) / sum(map(np.exp, logits)) for x in logits]
        )
        best = sorted(zip(wanted, "wxyz", strict=True), reverse=True)[:3]
        assert [one["label"] for one in row["labels"]] == [name for _, name in best]
        assert [one["probability"] for one in row["labels"]] == pytest.approx([p for p, _ in best], abs=1e-6)


def test_a_label_is_the_mean_of_its_templates():
    class Model:
        texts = staticmethod(lambda captions: np.array([[len(c), c.count("a")] for c in captions], float))

    rows = text_embeddings(Model, ["a", "bb"], ["{}", "{} {}"])
    wanted = np.array([[(1 + 3) / 2, (1 + 2) / 2], [(2 + 5) / 2, 0.0]])
    assert rows == pytest.approx(wanted / np.linalg.norm(wanted, axis=1, keepdims=True))


def test_the_nearest_photos_of_a_sentence():
    image = _unit(9, 5)
    found = best_photos([f"{i}" for i in range(9)], image, image[4], 3)
    order = sorted(range(9), key=lambda i: -sum(image[i] * image[4]))[:3]
    assert [hit["photo"] for hit in found] == [f"{i}" for i in order]
    assert found[0]["cosine"] == pytest.approx(1)


def test_photos_of_files_and_folders_none_twice(photos):
    found = photo_files([str(photos / "3.png"), str(photos), str(photos / "below" / "1.png")])
    assert [str(path.relative_to(photos)) for path in found] == [
        "3.png",
        "0.png",
        "4.png",
        "below/1.png",
        "below/deeper/2.JPG",
    ]
    (photos / "empty").mkdir()
    for place, said in (("nowhere.jpg", "There is no photo"), ("empty", "no pictures below")):
        with pytest.raises(UsageError, match=said):
            photo_files([str(photos / place)])


def test_what_cannot_be_read_is_left_out_and_said(photos):
    (photos / "broken.png").write_bytes((photos / "0.png").read_bytes()[:100])
    files = photo_files([str(photos)])
    model = colour_model("colours")
    read = read_photos(files, model.images, 32, "shortest", "bicubic")
    good = [file for file in files if file.name != "broken.png"]
    assert read.files == [str(file) for file in good]
    assert [*read.rejected] == [str(photos / "broken.png")]
    assert read.rows == pytest.approx(model.images(pixels([(file.name, file.read_bytes()) for file in good], 32)))
    with pytest.raises(UsageError, match=r"broken.png' cannot be read"):
        read_photos([photos / "broken.png"], model.images, 32, "shortest", "bicubic")


def test_the_figures_of_each_class_make_up_the_whole():
    image, text, labels = _unit(40, 6), _unit(5, 6), RANDOM.integers(0, 4, 40)
    each = per_class(zero_shot_ranks(image, text, labels), labels, list("vwxyz"))
    assert [*each] == list("vwxy")  # no picture shows the last
    nearest = (image @ text.T).argmax(1)
    for label, name in enumerate("vwxy"):
        own = [int(nearest[i] == label) for i in range(40) if labels[i] == label]
        assert each[name] == {"images": len(own), "top1": pytest.approx(100 * sum(own) / len(own), abs=1e-3)}
    whole = sum(row["top1"] * row["images"] for row in each.values()) / 40
    assert whole == pytest.approx(zero_shot(image, text, labels)["top1"], abs=1e-2)
