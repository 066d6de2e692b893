"""`distill reinforce` as it is called: verification of a finished run, calibrated scales, an executor's tasks."""

import importlib.util
import json
import shutil

import pytest

from distill.core import atomic
from tests.command_line import distill

SMALL = [
    "--data", "rendered:train=96,eval=40", "--set", "reinforce.shard_size=32", "--set", "reinforce.batch_size=16",
    "--set", "reinforce.embed_dtype=fp32",
]  # fmt: skip


def call(out, *more, status=0):
    """The call's --json object, or with a status its stderr."""
    result = distill("reinforce", "--out", out, "--json", *more)
    assert result.returncode == status, result.stderr[-3000:]
    return result.stderr if status else json.loads(result.stdout)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_teacher):
    """A run of reinforce with a check of five views."""
    out = tmp_path_factory.mktemp("reinforce") / "run"
    return out, call(out, "--teacher", tiny_teacher, "--verify", 5, *SMALL)


def shards(out):
    return {file.name: file.read_bytes() for file in sorted((out / "reinforced").glob("shard-*"))}


def test_a_finished_run_is_verified_by_its_folder_alone(finished):
    out, facts = finished
    assert facts["verify"]["samples"] == 3  # two views each
    before = {file: file.stat().st_mtime_ns for file in (out / "reinforced").iterdir()}
    again = call(out, "--resume", "--verify", "all")["verify"]
    assert (again["samples"], again["views"], again["asked"], again["passed"]) == (96, 192, "all", True)
    assert min(of["image_min"] for of in again["teachers"].values()) >= 0.99999
    assert atomic.read_json(out / "reinforced-verify.json") == again
    assert {file: file.stat().st_mtime_ns for file in (out / "reinforced").iterdir()} == before


def test_a_set_that_is_not_the_teachers_fails_and_stays_failed(finished, tmp_path, tiny_teacher):
    """The run's teacher is exchanged for one of other weights under the same name."""
    from students.spec import STUDENTS
    from students.student import build_student

    name, out = tmp_path / tiny_teacher.name, tmp_path / "run"
    shutil.copytree(tiny_teacher, name)
    call(out, "--teacher", name, "--verify", 0, *SMALL)
    assert not (out / "reinforced-verify.json").exists()
    shutil.rmtree(name)
    build_student(STUDENTS.get("rendered-teacher"), 1).save(name, {"licence": "Apache-2.0", "commercial": True})
    for _ in range(2):
        message = call(out, "--resume", "--verify", 8, status=1)
        assert "other weights than the one that made the set" in message
        assert "Traceback" not in message
    assert atomic.read_json(out / "reinforced-verify.json")["passed"] is False


def test_bad_counts_of_views_are_refused(tmp_path):
    assert "reinforce.verify" in call(tmp_path / "o", "--verify", "some", *SMALL, status=2)
    assert "cluster.executor" in call(tmp_path / "o", "--executor", "pbs", *SMALL, status=2)


def test_calibrated_scale_is_in_the_manifest_and_survives_a_resume(tmp_path):
    out = tmp_path / "run"
    call(out, "--teacher", "rendered", "--calibrate", "--verify", 0, *SMALL)
    facts = atomic.read_json(out / "reinforced" / "manifest.json")["teachers"][0]
    assert facts["scale"] == {"source": "calibrated", "pairs": 40, "batch_size": 40}
    assert 1 < facts["logit_scale"] <= 100
    kept = shards(out)
    (out / "reinforced" / "manifest.json").unlink()
    (out / "reinforced" / "shard-00001.arrow").unlink()
    call(out, "--resume")
    assert shards(out) == kept


@pytest.mark.process
@pytest.mark.skipif(importlib.util.find_spec("datatrove") is None, reason="the extra `cluster` is not installed")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # datatrove's log files and pools
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_executors_tasks_make_the_same_shards(finished, tmp_path, tiny_teacher):
    out, _ = finished
    other = tmp_path / "run"
    facts = call(
        other, "--teacher", tiny_teacher, "--executor", "local", "--tasks", 3, "--workers", 2, "--verify", 4, *SMALL
    )
    assert facts["verify"]["passed"]
    assert shards(other) == shards(out)
    assert (other / "reinforced" / "manifest.json").read_bytes() == (out / "reinforced" / "manifest.json").read_bytes()
