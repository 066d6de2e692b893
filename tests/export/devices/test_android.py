"""Timing on phones, through the real adb: the protocol as a whole with a runner that runs the file, then each thing that goes wrong."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import distill
from distill.core.errors import DistillError, UsageError
from export.artifacts.record import ExportArtifact
from export.device import list_devices
from export.devices.parts.journal import JOURNAL
from export.latency.measure import profile
from export.settings import ProfileSettings
from tests.export.devices.conftest import StandIn

pytestmark = pytest.mark.process
ETDUMP = Path(__file__).resolve().parents[4] / "shared" / "data" / "etdump" / "mci0_image_xnnpack_fp32.etdump"
XNNPACK = "executorch-xnnpack-fp32"


@pytest.fixture
def exports(exported: tuple[Path, list[ExportArtifact]], tmp_path: Path) -> Path:
    """A copy of the exported folders, so that what is written beside them is this test's."""
    for name in (XNNPACK, "coreml-fp16"):
        shutil.copytree(exported[0] / name, tmp_path / "export" / name)
    return tmp_path / "export"


def _settings(phone: StandIn, **changes: Any) -> ProfileSettings:
    given = {"devices": (phone.serial,), "runs": 4, "warmup_runs": 1, "rounds": 2, "cool_seconds": 0, "seconds": 60}
    return ProfileSettings(**{**given, **changes})


def _runner(folder: Path, exports: Path, *, then: str = "") -> Path:
    """A runner without a runtime: it says times and writes the golden embedding of the tower; `then` runs at its end."""
    from safetensors.numpy import load_file

    golden = load_file(exports / XNNPACK / "golden.safetensors")
    folder.mkdir(exist_ok=True)
    for tower in ("image", "text"):
        (folder / f"{tower}.bin").write_bytes(golden[f"{tower}_embeddings"][0].tobytes())
    sizes = {tower: (exports / XNNPACK / f"{tower}.pte").stat().st_size for tower in ("image", "text")}
    path = folder / "executor_runner"
    path.write_text(
        "#!/bin/sh\n"
        f'for a in "$@"; do case "$a" in --num_executions=*) n=${{a#*=}};; esac; done\n'
        f'tower=text; [ "$(wc -c < model.pte)" = {sizes["image"]} ] && tower=image\n'
        'i=0; while [ $i -lt $n ]; do i=$((i+1)); echo "Iteration $i of $n: $i.5 ms"; done\n'
        f"cp {folder}/$tower.bin output-0.bin\n{then}\n"
    )
    path.chmod(0o755)
    return path


def test_a_phone_is_listed_timed_and_left_clean(
    plug_in: Callable[..., StandIn], exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The .pte is run by ExecuTorch, through adb, with the trace of a larger model for the times per operation."""
    monkeypatch.setattr("export.devices.parts.measure._Work._peak_mb", lambda self: None)  # two more starts of a Python
    phone = plug_in()
    standin = Path(__file__).with_name("runner_on_host.py")
    script = tmp_path / "executor_runner"
    if ETDUMP.exists():
        shutil.copy(ETDUMP, tmp_path / "standin.etdump")
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -W ignore {standin} {tmp_path}/standin.etdump "$@"\n')
    (info,) = [info for info in list_devices(ProfileSettings(runners=(str(script),))) if info.name == phone.serial]
    assert (info.ready, info.emulated, info.model, info.abi) == (True, True, "Stand-in 8 (SX1)", "arm64-v8a")
    assert info.os == "Android 15 stand/in/8:15/AB1/77:user"
    assert set(info.runtimes) == {"ExecuTorch"}
    result = distill.profile(
        exports,
        device=phone.serial,
        runner=script,
        settings={"profile.runs": 3, "profile.warmup_runs": 1, "profile.rounds": 1},
    )
    rows = {(row["precision"], row["tower"]): row for row in result.profiles}
    assert len(rows) == 4
    assert {rows["fp16", tower]["note"] for tower in ("image", "text")} == {
        "Android runs no files of the target coreml"
    }
    for tower in ("image", "text"):
        row = rows["fp32", tower]
        assert row["source"] == "measured (host times)"
        assert row["note"].startswith("host times")
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["output_cosine"] > 0.99999
        assert row["load_ms"] == 42.5
        before = row["conditions"]["before"]
        assert (before["battery_celsius"], before["throttling"], before["screen_on"]) == (30.0, 0, True)
        assert (before["charging"], before["power_saving"], before["foreground"]) == (True, False, "com.example.camera")
        if ETDUMP.exists():
            assert row["operations"][0]["name"].startswith("Fully Connected")
            assert any(not operation["delegated"] for operation in row["operations"])
    assert phone.left() == []
    assert (exports / XNNPACK / f"profile-{phone.serial.replace(':', '-')}.json").exists()


def test_the_figures_are_those_of_the_runner(plug_in: Callable[..., StandIn], exports: Path, tmp_path: Path) -> None:
    phone = plug_in()
    runner = _runner(tmp_path / "r", exports, then="sleep 0.2")  # long enough to be looked at
    rows = profile([exports / XNNPACK], None, _settings(phone, runners=(str(runner),), runs=5, warmup_runs=2))
    # Two rounds of three and two calls behind two of warm-up; the runner says 1.5, 2.5, 3.5 ... ms.
    assert rows[0].rounds_p50_ms == (4.5, 4.0)
    assert (rows[0].p50_ms, rows[0].runs, rows[0].rounds) == (4.5, 5, 2)
    assert "rounds differ by 12 %" in rows[0].note
    assert "no times per operation" in rows[0].note
    assert rows[0].peak_mb is not None
    assert 0.5 < rows[0].peak_mb < 20  # a shell


def test_two_phones_are_told_apart(plug_in: Callable[..., StandIn], exports: Path, tmp_path: Path) -> None:
    first, second = (
        plug_in(),
        plug_in(**{"ro.product.model": "Other 9", "ro.build.version.sdk": "22", "ro.build.version.release": "5.1"}),
    )
    runner = str(_runner(tmp_path / "r", exports))
    known = {info.name: info for info in list_devices(ProfileSettings(runners=(runner,)))}
    assert known[first.serial].ready
    assert not known[second.serial].ready
    assert "Android 5.1 (API 22)" in known[second.serial].missing
    rows = profile(
        [exports / XNNPACK], None, _settings(first, devices=(first.serial, second.serial), runners=(runner,))
    )
    assert [(row.device, row.source) for row in rows] == [
        (first.serial, "measured (host times)"),
        (first.serial, "measured (host times)"),
        (second.serial, "not measured"),
        (second.serial, "not measured"),
    ]
    assert first.left() == second.left() == []


def test_pulled_in_the_middle_then_resumed(plug_in: Callable[..., StandIn], exports: Path, tmp_path: Path) -> None:
    """The daemon dies while the text tower runs: the image tower's row is kept, and the phone tidies up by itself."""
    phone = plug_in()
    runner = _runner(
        tmp_path / "r", exports, then=f"if [ $tower = text ]; then kill -9 {phone.daemon.pid}; sleep 1; fi"
    )
    with pytest.raises(DistillError, match=r"is gone \(adb: .*Plug it in again") as gone:
        profile([exports / XNNPACK], None, _settings(phone, runners=(str(runner),)))
    assert "removes our files" in str(gone.value)
    (line,) = (exports / JOURNAL).read_text().splitlines()
    assert json.loads(line)["key"]["tower"] == "image"
    (left,) = phone.left()
    (phone.root / "data/local/tmp" / left / "until").write_text("0")  # as if the minutes had passed
    end = time.monotonic() + 10
    while phone.left() and time.monotonic() < end:
        time.sleep(0.1)
    assert phone.left() == []


def test_a_finished_row_is_not_measured_twice(plug_in: Callable[..., StandIn], exports: Path, tmp_path: Path) -> None:
    phone = plug_in()
    runner = _runner(tmp_path / "r", exports, then=f"echo run >> {tmp_path}/runs")
    settings = _settings(phone, runners=(str(runner),))
    first = profile([exports / XNNPACK], None, settings)
    runs = (tmp_path / "runs").read_text()
    again = profile([exports / XNNPACK], None, settings, resume=True)
    assert [row.p50_ms for row in again] == [row.p50_ms for row in first]
    assert (tmp_path / "runs").read_text() == runs
    other = profile([exports / XNNPACK], None, _settings(phone, runners=(str(runner),), threads=2), resume=True)
    assert (other[0].threads, len((tmp_path / "runs").read_text())) == (2, 2 * len(runs))


def _fails(phone: StandIn, exports: Path, runner: Path, **changes: Any) -> str:
    with pytest.raises(DistillError) as failed:
        profile([exports / XNNPACK], None, _settings(phone, runners=(str(runner),), **changes))
    assert phone.left() == []
    return str(failed.value)


def test_what_goes_wrong_is_said(plug_in: Callable[..., StandIn], exports: Path, tmp_path: Path) -> None:
    phone = plug_in()

    def runner(then: str) -> Path:
        return _runner(tmp_path / "r", exports, then=then)

    assert "killed by signal 9: the phone had too little memory" in _fails(phone, exports, runner("kill -9 $$"))
    unknown = _fails(phone, exports, runner("echo 'unknown flag' >&2; exit 3"))
    assert "ended with status 3" in unknown
    assert unknown.endswith("unknown flag")
    linker = runner('echo "CANNOT LINK EXECUTABLE: cannot locate symbol android_x"; exit 1')
    assert "built for a newer Android than Android 15" in _fails(phone, exports, linker)
    wrong = runner("head -c 128 /dev/zero | tr '\\0' '\\077' > output-0.bin")  # 32 numbers of about 0.75
    assert "says something else" in _fails(phone, exports, wrong)
    assert "numbers for an embedding of 32" in _fails(phone, exports, runner("printf abcd > output-0.bin"))
    assert "copying output-0.bin from it" in _fails(phone, exports, runner("rm output-0.bin"))
    assert "no answer in 1 seconds" in _fails(phone, exports, runner("sleep 3"), seconds=1)
    foreign = tmp_path / "r" / "executor_runner"
    foreign.write_bytes(b"\x7fELF of another processor")
    assert "must be built for arm64-v8a" in _fails(phone, exports, foreign)


def test_a_full_phone_and_one_that_may_not_be_written(
    plug_in: Callable[..., StandIn], exports: Path, tmp_path: Path
) -> None:
    phone, runner = plug_in(), _runner(tmp_path / "r", exports)
    head = "#!/bin/sh\necho 'Filesystem 1K-blocks Used Available Use% Mounted'\n"
    phone.program("df", f"{head}echo '/dev/x 1000 990 10 99% /data'\n")
    assert "has 0 MB free" in _fails(phone, exports, runner)
    phone.program("df", f"{head}echo '/dev/x 9000000 10 8999990 1% /data'\n")
    scratch = phone.root / "data/local/tmp"
    quota = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(scratch)], check=False, capture_output=True
    )
    if quota.returncode == 0:  # only root may mount
        try:
            phone.program(
                "df",
                f'{head}[ -e {scratch}/distill-*/model.pte ] && free=0 || free=8999990\necho "/dev/x 9 9 $free 1% /data"\n',
            )
            assert "ran out of room while" in _fails(phone, exports, runner)
        finally:
            subprocess.run(["umount", "-l", str(scratch)], check=True)
    phone.program("mkdir", "#!/bin/sh\necho 'mkdir: Permission denied' >&2\nexit 1\n")
    assert "does not let adb write to /data/local/tmp: mkdir: Permission denied" in _fails(phone, exports, runner)


def test_a_hot_phone_is_waited_for_then_refused(
    plug_in: Callable[..., StandIn], exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at the battery cools it by five degrees; a run that heats it is said; one that stays hot is refused."""
    monkeypatch.setattr("export.devices.parts.conditions.LOOK_S", 0.05)
    phone = plug_in()
    runner = _runner(tmp_path / "r", exports)
    cooling = 't=$(cat {root}/tenths); echo "  temperature: $t"; [ $t -gt 340 ] && echo $((t - 50)) > {root}/tenths;;'
    script = (phone.root / ".bin" / "dumpsys").read_text()
    phone.program(
        "dumpsys",
        script.replace(f'echo "  temperature: $(cat {phone.root}/tenths)";;', cooling.format(root=phone.root)),
    )
    (phone.root / "tenths").write_text("410")
    told: list[str] = []
    rows = profile(
        [exports / XNNPACK],
        None,
        _settings(phone, runners=(str(runner),), cool_seconds=60),
        progress=lambda *step: told.append(step[2]),
    )
    assert [words for words in told if "waiting for the phone to cool down: its battery has 41.0 °C" in words]
    assert rows[0].conditions["before"]["battery_celsius"] <= 35
    (phone.root / "throttling").write_text("3")
    assert "it slows itself down (Android's thermal status 3), and 0 s of waiting" in _fails(phone, exports, runner)
    (phone.root / "throttling").write_text("0")
    heats = _runner(tmp_path / "r", exports, then=f"echo 2 > {phone.root}/throttling")
    message = _fails(phone, exports, heats)
    assert "thermal status 2" in message
    phone.program("settings", "#!/bin/sh\necho 1\n")
    (phone.root / "throttling").write_text("0")
    assert "battery saver" in _fails(phone, exports, runner)


def test_a_phone_that_nobody_named_does_not_stop_the_rest(
    plug_in: Callable[..., StandIn], exports: Path, tmp_path: Path
) -> None:
    phone, runner = plug_in(), _runner(tmp_path / "r", exports, then="exit 3")
    shutil.rmtree(exports / "coreml-fp16")
    rows = profile([exports / XNNPACK], None, _settings(phone, devices=(), runners=(str(runner),), runs=1, rounds=1))
    mine = [row for row in rows if row.device == phone.serial]
    assert {row.source for row in mine} == {"not measured"}
    assert "ended with status 3" in mine[0].note
    assert {row.source for row in rows if row.device == "host"} == {"measured"}


def test_libraries_beside_a_runner_go_along(plug_in: Callable[..., StandIn], exports: Path, tmp_path: Path) -> None:
    """A vendor's program finds its libraries where it looks for them, and they leave with it."""
    phone = plug_in()
    says = f'echo "$LD_LIBRARY_PATH $ADSP_LIBRARY_PATH $(cat libvendor.so)" >> {tmp_path}/said'
    runner = _runner(tmp_path / "r", exports, then=says)
    (tmp_path / "r" / "libvendor.so").write_text("vendor")
    rows = profile([exports / XNNPACK], None, _settings(phone, runners=(str(runner),), runs=1, warmup_runs=1, rounds=1))
    assert ", its libraries " in rows[0].runtime  # another release of them is another runtime
    assert set((tmp_path / "said").read_text().splitlines()) == {". . vendor"}  # timing, memory and trace alike
    assert phone.left() == []


def test_a_wrong_runner_is_said_without_a_phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no adb either
    with pytest.raises(UsageError, match="executor_runner' is no file"):
        list_devices(ProfileSettings(runners=(str(tmp_path / "executor_runner"),)))


def test_runners_are_found_where_they_lie(plug_in: Callable[..., StandIn], exports: Path, tmp_path: Path) -> None:
    phone = plug_in()

    def runtimes(*given: str) -> dict[str, str]:
        return next(info for info in list_devices(ProfileSettings(runners=given)) if info.name == phone.serial).runtimes

    assert runtimes() == {}
    missing = next(info for info in list_devices() if info.name == phone.serial).missing
    assert "executor_runner (ExecuTorch), benchmark_model (LiteRT)" in missing
    there = phone.root / "data/local/tmp/benchmark_model"
    there.write_text("#!/bin/sh\n")
    there.chmod(0o755)
    assert list(runtimes()) == ["LiteRT"]
    known = tmp_path / "cache" / "runners" / "arm64-v8a"
    known.mkdir(parents=True)
    (known / "onnxruntime_perf_test").write_text("x")
    assert set(runtimes()) == {"LiteRT", "ONNX Runtime"}
    assert "sha256" in runtimes(str(_runner(tmp_path / "r", exports)))["ExecuTorch"]
    for wrong in (str(tmp_path / "nowhere" / "executor_runner"), str(known / "other")):
        with pytest.raises(UsageError, match="Its name must hold one of"):
            list_devices(ProfileSettings(runners=(wrong,)))
