"""The jobs of a first evening, each from an empty folder to its last line; docs/first_evening.md shows them at full size."""

import io
import json
import shlex

import numpy as np
import pytest
from PIL import Image

from benchmarks import first_evening as jobs
from distill.console import Console
from distill.core import atomic
from distill.run_folder import RunFolder
from distill.stages.exporting.stage import of_the_run
from export.settings import ExportSettings
from reinforced_data.source import open_source
from tests import forks
from tests.command_line import distill

pytestmark = pytest.mark.whole

SHORT = (
    "--set", "train.samples=64", "--set", "train.batch_size=16", "--set", "train.checkpoint_every=2", "--set", "reinforce.verify=0",
    "--set", "profile.runs=2", "--set", "profile.warmup_runs=1", "--set", "baseline.enabled=false",
    "--set", "export.parity_samples=4",
)  # fmt: skip
NO_EXPORT = ("--set", "export.targets=[]")  # which test_run has, kills and all
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "yellow_mug": (230, 220, 40)}


class Forked:
    """As `jobs.Terminal`. Runs have processes of their own, all alike: sums depend on the threads of a process, and earlier tests
    may have set this one's."""

    def run(self, words, place):
        if words[0] == "run":
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(place)
                said = forks.finish(forks.start(*words, log=place / "log"), place / "log")
            return (place / "log.err").read_text() + said
        done = distill(*words, cwd=place)
        if done.returncode:
            raise RuntimeError(f"distill {shlex.join(words)} ended with {done.returncode}: {done.stderr}")
        return done.stderr + done.stdout

    def kill(self, words, place, when):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(place)
            process = forks.start(*words, log=place / "killed")
        forks.kill_when(process, when)
        return (place / "killed.err").read_text()


def _picture(colour, random):
    file = io.BytesIO()
    Image.fromarray((np.array(colour) + random.normal(0, 30, (48, 48, 3))).clip(0, 255).astype(np.uint8)).save(
        file, "PNG"
    )
    return file.getvalue()


@pytest.fixture(scope="module")
def evening(tmp_path_factory, tiny_teacher):
    """An empty folder, and small data for the jobs."""
    source, random = open_source("rendered:train=64,eval=8", "train"), np.random.default_rng(0)
    captioned = [(source[i].image, source[i].captions[0].text) for i in range(len(source))]
    classes = {name: [_picture(colour, random) for _ in range(24)] for name, colour in COLOURS.items()}
    data = jobs.Data(captioned, classes)
    words = ("--teacher", str(tiny_teacher))
    return jobs.Evening(tmp_path_factory.mktemp("evening"), data, words, Forked(), SHORT)


def test_a_shop_with_a_table_of_its_own(evening):
    """Its columns are read as the call says, and the last line is the hit of a search."""
    evening.short = (*SHORT, *NO_EXPORT)
    jobs.shop(evening)
    (_, trained), (_, searched) = evening.said["shop"]
    assert "product_name" in trained
    assert searched.count("shop/photos/") == 3
    read = atomic.read_json(evening.place / "runs" / "shop" / "read-as.json")
    for part in ("training", "evaluation"):
        assert read[part]["captions"] == "captions from the column product_name"
    judged = json.loads((evening.place / "runs" / "shop" / "eval" / "student.json").read_text())
    assert judged["seen_in_training"] == 0
    assert len(judged["hits"]["i2t_r1"]) == judged["retrieval"]["images"]
    assert "Verdict: " in trained
    assert f"chance is {100 / judged['retrieval']['images']:.2g} %" in " ".join(trained.split())


def test_a_classifier_of_class_folders(evening):
    """`distill run` on them makes labels, their embeddings, figures of each class and a classifier, which predict uses."""
    evening.short = SHORT  # its files are read
    jobs.things(evening)
    assert "knows its pictures by 4 classes alone" in evening.said["things"][0][1]
    run, place = evening.place / "runs" / "things", evening.place / "things"
    labels = (run / "classes" / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert sorted(labels) == sorted(name.replace("_", " ") for name in COLOURS)
    assert (run / "export" / "onnx-fp32" / "labels.txt").read_text(encoding="utf-8").splitlines() == labels
    figures = json.loads((run / "eval" / "student.json").read_text())["zero_shot"]
    each = figures["per_class"]
    assert sum(row["images"] for row in each.values()) == figures["images"]
    assert "Top-1 of each class" in (run / "report.md").read_text()

    photos = [place / "red" / f"{i}.jpg" for i in range(3)]
    by_student = json.loads(distill("predict", run, *photos, "--json").stdout)
    by_file = json.loads(distill("predict", run / "export" / "onnx-fp32", *photos, "--json").stdout)
    assert by_file["by"] == "exported classifier"
    for one, other in zip(by_student["photos"], by_file["photos"], strict=True):
        probabilities = [{entry["label"]: entry["probability"] for entry in row["labels"]} for row in (one, other)]
        assert probabilities[1] == pytest.approx(probabilities[0], abs=1e-3)
    assert sum(probabilities[0].values()) == pytest.approx(1, abs=1e-4)
    other = distill("predict", run, photos[0], "--template", "no place")
    assert (other.returncode, "has no {}" in other.stderr) == (2, True)
    kept = np.array([row["probability"] for row in _by_kept_embeddings(run, photos[0], labels)])
    assert kept == pytest.approx([_of(by_student["photos"][0], label) for label in labels], abs=1e-3)
    assert distill("push", run, evening.place / "pushed", "--no-exports").returncode == 0
    by_pushed = json.loads(distill("predict", evening.place / "pushed", *photos, "--json").stdout)
    assert by_pushed["photos"] == by_student["photos"]
    assert of_the_run(ExportSettings(classes="none"), RunFolder(run), Console()) is None


def test_a_parquet_file_by_a_verb_each_and_two_students_of_it(evening):
    """What is labelled once serves every student; the comparison has both of them."""
    evening.short = SHORT
    jobs.parquet(evening)
    figures = evening.said["parquet"][2][1]
    assert "text to image" in figures
    assert (evening.place / "runs" / "student" / "export" / "onnx-fp16" / "image.onnx").is_file()
    evening.short = (*SHORT, *NO_EXPORT)
    jobs.two_students(evening, "--set student.text_layers=1")
    compared = evening.said["two students"][2][1]
    assert [line.split()[0] for line in compared.splitlines()].count("one") == 2  # teacher and student
    assert "\nother" in compared
    for name in ("one", "other"):  # neither was labelled again
        assert not (evening.place / "runs" / name / "reinforced").exists()


def test_a_laptop_that_is_closed(evening):
    """The run goes on by its folder alone, and makes what an uninterrupted one makes."""
    evening.short = (*SHORT, *NO_EXPORT)
    jobs.closed_laptop(evening)
    closed, whole = (atomic.read_json(evening.place / "runs" / name / "hashes.json") for name in ("closed", "one"))
    assert closed == whole


def test_the_page_shows_what_was_typed_and_printed(evening):
    page = jobs.document(evening, "By a test.")
    assert page.count("\n## ") == len(evening.said)
    for calls in evening.said.values():
        assert f"$ {calls[0][0]}".replace(evening.words[-1], "TEACHER") in page
    assert evening.words[-1] not in page


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
