"""The jobs of a first evening, each from an empty folder to its last line; docs/first_evening.md shows them at full size."""

import json

import numpy as np
import pytest
from PIL import Image

from distill.console import Console
from distill.run_folder import RunFolder
from distill.stages.exporting.stage import of_the_run
from export.settings import ExportSettings
from tests.command_line import distill

pytestmark = pytest.mark.whole

SHORT = [
    "--set", "train.steps=6", "--set", "train.batch_size=32", "--set", "reinforce.verify=0", "--set", "profile.runs=2",
    "--set", "profile.warmup_runs=1", "--set", "baseline.enabled=false", "--target", "onnx",
]  # fmt: skip
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "yellow mug": (230, 220, 40)}


@pytest.fixture(scope="module")
def evening(tmp_path_factory):
    """An empty folder with data as people have it: things/ with a folder per class."""
    place = tmp_path_factory.mktemp("evening")
    random = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        folder = place / "things" / name.replace(" ", "_")
        folder.mkdir(parents=True)
        for index in range(24):
            noise = random.normal(0, 30, (48, 48, 3))
            Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(folder / f"{index}.png")
    return place


def test_a_classifier_of_class_folders(evening):
    """`distill run` on them makes labels, their embeddings, figures of each class and a classifier, which predict uses."""
    done = distill("run", "--data", "things", "--out", "sorter", *SHORT, "--json", cwd=evening)
    assert done.returncode == 0, done.stderr
    assert "knows its pictures by 4 classes alone" in done.stderr
    run = evening / "sorter"
    labels = (run / "classes" / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert sorted(labels) == sorted(COLOURS)
    assert (run / "export" / "onnx-fp32" / "labels.txt").read_text(encoding="utf-8").splitlines() == labels
    figures = json.loads((run / "eval" / "student.json").read_text())["zero_shot"]
    each = figures["per_class"]
    assert sum(row["images"] for row in each.values()) == figures["images"]
    assert "Top-1 of each class" in (run / "report.md").read_text()

    photos = [evening / "things" / "red" / f"{i}.png" for i in range(3)]
    by_student = json.loads(distill("predict", run, *photos, "--json").stdout)
    by_file = json.loads(distill("predict", run / "export" / "onnx-fp32", *photos, "--json").stdout)
    assert by_file["by"] == "exported classifier"
    for one, other in zip(by_student["photos"], by_file["photos"], strict=True):
        probabilities = [{entry["label"]: entry["probability"] for entry in row["labels"]} for row in (one, other)]
        assert probabilities[1] == pytest.approx(probabilities[0], abs=1e-3)
    assert sum(probabilities[0].values()) == pytest.approx(1, abs=1e-4)
    kept = np.array([row["probability"] for row in _by_kept_embeddings(run, photos[0], labels)])
    assert kept == pytest.approx([_of(by_student["photos"][0], label) for label in labels], abs=1e-3)

    assert of_the_run(ExportSettings(classes="none"), RunFolder(run), Console()) is None


def _by_kept_embeddings(run, photo, labels):
    """Probabilities as an app would compute them from out/classes/ and the image tower alone."""
    import onnxruntime
    from safetensors.numpy import load_file

    from distill.evaluation.evalset import pixels

    about = json.loads((run / "classes" / "classes.json").read_text())
    text = load_file(run / "classes" / "embeddings.safetensors")["labels"]
    session = onnxruntime.InferenceSession(str(run / "export" / "onnx-fp32" / "image.onnx"))
    given = session.get_inputs()[0]
    image = session.run(None, {given.name: pixels([("p", photo.read_bytes())], given.shape[2])})[0][0]
    logits = np.exp(about["logit_scale"] * (text @ image))
    return [{"label": label, "probability": value} for label, value in zip(labels, logits / logits.sum(), strict=True)]


def _of(row, label):
    return next(entry["probability"] for entry in row["labels"] if entry["label"] == label)
