"""Timing: the arithmetic against hand-made figures, the interleaving against a record, and one real measurement."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import distill
from distill.core.errors import DistillError, UsageError
from distill.core.strict import parse
from export.artifacts.folder import read_artifacts
from export.artifacts.record import ExportArtifact
from export.children.bench import time_runs
from export.device import list_devices
from export.latency.measure import INPUTS, profile, timing_inputs
from export.settings import ProfileSettings


@pytest.fixture(scope="module")
def exported(exported: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A copy for this file, whose tests write latencies beside the files."""
    return shutil.copytree(exported[0], tmp_path_factory.mktemp("timed") / "export"), exported[1]


def _profile(exported: tuple[Path, Any], student_dir: Path, **changes: Any) -> list[Any]:
    folders = [exported[0] / name for name in ("coreml-fp16", "executorch-xnnpack-fp32", "onnx-fp32")]
    given = {"devices": ("host",), "threads": 1, "runs": 10, "warmup_runs": 2, "rounds": 3, **changes}
    return profile(folders, student_dir, ProfileSettings(**given))


def test_times_are_milliseconds_without_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is the test's: it goes on only inside the timed callable, 50 ms in each of two first calls and 5 ms in others."""
    seen: list[float] = []
    now_ns = 123

    def slow_at_first(value: np.ndarray) -> np.ndarray:
        nonlocal now_ns
        seen.append(float(value[0, 0]))
        now_ns += 50_000_000 if len(seen) <= 2 else 5_000_000
        return value

    monkeypatch.setattr("export.children.bench.time.perf_counter_ns", lambda: now_ns)
    times = time_runs(slow_at_first, np.arange(3.0).reshape(3, 1), runs=4, warmup_runs=2)
    assert times == [5.0, 5.0, 5.0, 5.0]
    assert seen == [0, 1, 0, 1, 2, 0]  # each call gets the next input


@pytest.mark.process
def test_the_host_is_measured(exported: tuple[Path, list[ExportArtifact]], student_dir: Path) -> None:
    rows = _profile(exported, student_dir)
    measured = [row for row in rows if row.source == "measured"]
    assert [(row.runtime.split(" (")[0], row.tower) for row in measured] == [
        (runtime, tower)
        for runtime in ("PyTorch eager", "ExecuTorch XNNPACK", "ONNX Runtime")
        for tower in ("image", "text")
    ]
    for row in measured:
        assert 0 < row.p50_ms <= row.p90_ms <= row.p99_ms
        assert (row.device, row.threads, row.runs, row.warmup_runs, row.rounds) == ("host", 1, 10, 2, 3)
    others = [row for row in rows if row.source != "measured"]
    assert {(row.runtime, row.source) for row in others} == {("Core ML", "not measured")}
    record = json.loads((exported[0] / "onnx-fp32" / "profile-host.json").read_text())
    assert record["device"]["model"]
    assert [row["runtime"].split(" (")[0] for row in record["profiles"]] == ["ONNX Runtime"] * 2 + ["PyTorch eager"] * 2


@pytest.mark.process
def test_phones_get_a_reason_and_no_number(exported: tuple[Path, Any], student_dir: Path) -> None:
    rows = _profile(exported, student_dir, devices=("pixel-9", "apple"))
    assert len(rows) == 2 * 3 * 2
    for row in rows:
        assert row.source == "not measured"
        assert row.p50_ms is row.p90_ms is row.p99_ms is row.threads is None
        assert row.runs == 0
        assert row.note
    assert "'pixel-9' is attached" in rows[0].note
    assert (exported[0] / "onnx-fp32" / "profile-pixel-9.json").exists()


class _FakeRuntime:
    record: list[str] = []  # noqa: RUF012

    def __init__(self, label: str, job: dict[str, Any], folder: Path, python: Path | None = None) -> None:
        self.label = label
        self.times: dict[str, list[float]] = {"image": [], "text": []}

    def answer(self) -> None:
        return None

    def measure(self, tower: str, runs: int, warmup_runs: int) -> None:
        self.record.append(f"{self.label} {tower} {runs}")
        self.times[tower] += [float(len(self.times[tower]) + k + 1) for k in range(runs)]

    def close(self) -> None:
        return None


@pytest.mark.process
def test_rounds_alternate_and_percentiles(
    exported: tuple[Path, Any], student_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.latency.measure.Runtime", _FakeRuntime)
    _FakeRuntime.record.clear()
    told: list[tuple[int, int, str]] = []
    rows = profile(
        [exported[0] / "onnx-fp32"], student_dir, ProfileSettings(devices=("host",), runs=100, rounds=3),
        progress=lambda *step: told.append(step),
    )  # fmt: skip
    assert [step[:2] for step in told] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert _FakeRuntime.record[:4] == [
        "0-eager image 34",
        "1-onnx-fp32 image 34",
        "0-eager text 34",
        "1-onnx-fp32 text 34",
    ]
    assert _FakeRuntime.record[4:6] == ["1-onnx-fp32 image 33", "0-eager image 33"]  # backwards
    # 1..100 ms: with linear interpolation the q-th percentile lies at 1 + 0.99 q.
    assert (rows[0].p50_ms, rows[0].p90_ms, rows[0].p99_ms) == (50.5, 90.1, 99.01)


@pytest.mark.process
def test_a_runtime_that_dies(exported: tuple[Path, Any], tmp_path: Path, student_dir: Path) -> None:
    folder = tmp_path / "onnx-fp32"
    folder.mkdir()
    (folder / "artifact.json").write_text((exported[0] / "onnx-fp32" / "artifact.json").read_text())
    for tower in ("image", "text"):
        (folder / f"{tower}.onnx").write_bytes(b"no model")
    with pytest.raises(DistillError, match=r"Running 1-onnx-fp32 failed(.|\n)*Protobuf") as died:
        profile([folder], student_dir, ProfileSettings(devices=("host",), runs=1, rounds=1))
    log = Path(str(died.value).rpartition("The whole log: ")[2])
    assert "Protobuf" in log.read_text()  # it outlives the call that names it
    shutil.rmtree(log.parent)


@pytest.mark.process
def test_a_copied_folder_is_timed_without_the_student(
    exported: tuple[Path, Any], student_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Of one folder, of a copied export/, and of one beside which another student happens to lie."""
    monkeypatch.setattr("export.latency.measure.Runtime", _FakeRuntime)
    settings = {"profile.runs": 3, "profile.rounds": 1}
    one, other = tmp_path / "phone" / "onnx-fp32", tmp_path / "other" / "export" / "onnx-fp32"
    for place in (one, other):
        shutil.copytree(exported[0] / "onnx-fp32", place)
    shutil.copytree(student_dir, tmp_path / "other" / "student")
    with open(tmp_path / "other" / "student" / "open_clip_config.json", "a") as file:
        file.write(" ")  # another one
    for named in (one, one.parent):
        result = distill.profile(named, device="host", settings=settings)
        assert [(row["runtime"].split(" (")[0], row["source"]) for row in result.profiles] == [
            ("ONNX Runtime", "measured")
        ] * 2
        assert "Eager rows are left out" in capsys.readouterr().err
    with pytest.raises(UsageError, match="another student"):
        distill.profile(other, device="host", settings=settings)
    with open(one / "image.onnx", "ab") as file:
        file.write(b" ")
    for named in (one, one.parent):
        with pytest.raises(UsageError, match=r"is not timed: image.onnx|Nothing is exported"):
            distill.profile(named, device="host", settings=settings)


@pytest.mark.process
def test_inputs_have_the_shapes_that_the_files_say(exported: tuple[Path, Any], student_dir: Path) -> None:
    from students.student import load_student

    student = load_student(student_dir)
    made = timing_inputs(read_artifacts(exported[0] / "onnx-fp32"))
    assert made["pixels"].shape == (INPUTS, 3, student.image_size, student.image_size)
    assert made["tokens"].shape == (INPUTS, student.context_length)
    assert made["tokens"].max() < student.clip.token_embedding.num_embeddings


@pytest.mark.parametrize("wrong", ["runs", "threads", "rounds", "warmup_runs"])
def test_bad_counts(wrong: str) -> None:
    with pytest.raises(UsageError, match=f"'{wrong}': input should be greater than or equal to 1"):
        parse(ProfileSettings, {wrong: 0}, "profile")


def test_the_host_is_listed_first() -> None:
    first = list_devices()[0]
    assert (first.name, first.kind, first.ready) == ("host", "host", True)
    assert set(first.runtimes) == {"torch", "onnxruntime", "executorch"}
    assert all(info.ready or info.missing for info in list_devices())
