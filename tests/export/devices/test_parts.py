"""What phones and vendors' programs print, read without a phone: against lines of their own documentation and logs."""

import subprocess
import time
from pathlib import Path

import pytest

from distill.core.errors import DistillError
from export.devices.parts.adb import Phone
from export.devices.parts.conditions import TITLE, Conditions, parse_conditions, wait_until_fit
from export.devices.parts.etdump import by_kind, read_etdump
from export.devices.parts.runners import RUNNERS, Call, Timing, runner_of
from export.devices.parts.steady_state import steady, summed_up
from export.settings import ProfileSettings
from export.target import TARGETS

ETDUMPS = Path(__file__).resolve().parents[4] / "shared" / "data" / "etdump"
CALL = Call("model.pte", "input.bin", threads=2, runs=50, warmup_runs=5)

LITERT = """INFO: Loaded model model.tflite
INFO: Initialized session in 119.515ms.
INFO: Running benchmark for at least 5 iterations and at least 0 seconds but terminate if exceeding 150 seconds.
INFO: count=5 first=87112 curr=51629 min=51629 max=87112 avg=58147.4 std=11478 p5=51629 median=51962 p95=87112

INFO: Running benchmark for at least 50 iterations and at least 0 seconds but terminate if exceeding 150 seconds.
INFO: count=50 first=52162 curr=49785 min=49088 max=686105 avg=63743.2 std=60716 p5=49620 median=51891 p95=68628

INFO: Inference timings in us: Init: 119515, First inference: 87112, Warmup (avg): 58147.4, Inference (avg): 63743.2
INFO: Memory footprint delta from the start of the tool (MB): init=55.4961 overall=61.25
"""
OLD_LITERT = """Initialized session in 34.939ms.
count=5 first=130492 curr=111222 min=111222 max=130492 avg=116523 std=7192
count=50 first=112256 curr=111087 min=110425 max=114213 avg=112533 std=778
Inference timings in us: Init: 34939, First inference: 130492, Warmup (avg): 116523, Inference (avg): 112533
"""
ONNX = """Session creation time cost: 0.0102016 s
First inference time cost: 2 ms
Total inference requests: 100
Peak working set size: 36696064 bytes
Min Latency: 0.00183404 s
P50 Latency: 0.00185674 s
P90 Latency: 0.00187215 s
P95 Latency: 0.00187393 s
P99 Latency: 0.00190312 s
P999 Latency: 0.00190312 s
"""


def test_litert() -> None:
    runner = runner_of("litert")
    assert runner is not None
    assert runner.parse(LITERT, CALL) == Timing((), (51.891, None, None), load_ms=119.515, peak_mb=61.25)
    assert runner.parse(OLD_LITERT, CALL).percentiles == (112.533, None, None)  # older ones tell the mean alone
    with pytest.raises(DistillError, match="timed 50 calls, not the 51"):
        runner.parse(LITERT, Call("m", "i", 1, 51, 5))
    command = runner.command("./benchmark_model", CALL, "litert")
    assert {"--graph=model.pte", "--num_threads=2", "--num_runs=50", "--warmup_runs=5"} <= set(command.split())


def test_onnx_runtime() -> None:
    runner = runner_of("onnx-qnn")
    assert runner is not None
    assert runner.parse(ONNX, CALL) == Timing((), (1.85674, 1.87215, 1.90312), load_ms=10.2016, peak_mb=36.696064)
    assert "-e qnn -i 'backend_path|libQnnHtp.so" in runner.command("x", CALL, "onnx-qnn")
    assert " -e cpu " in runner.command("x", CALL, "onnx")


def test_executorch_with_and_without_each_call() -> None:
    runner = runner_of("executorch-xnnpack")
    assert runner is not None
    call = Call("m.pte", "i.bin", 1, runs=2, warmup_runs=1)
    lines = "\n".join(
        f"I 00:00:01.0 executorch:executor_runner.cpp:1] Iteration {i} of 3: {i}.25 ms" for i in (1, 2, 3)
    )
    loading = (
        "I 00:00:00.004000 executorch:executor_runner.cpp:226] Model file m.pte is loaded.\n"
        "I 00:00:01.104500 executorch:executor_runner.cpp:297] Method loaded.\n"
    )
    assert runner.parse(loading + lines, call) == Timing((1.25, 2.25, 3.25), load_ms=1100.5)
    total = "I 00:00:00.9 executorch:executor_runner.cpp:3] Model executed successfully 3 time(s) in 6.000000 ms."
    assert runner.parse(total, call).times_ms == (2.0, 2.0, 2.0)
    with pytest.raises(DistillError, match="printed no times"):
        runner.parse(total.replace("3 time", "2 time"), call)


@pytest.mark.parametrize("runner", RUNNERS, ids=lambda runner: runner.name)
def test_every_runner(runner) -> None:
    assert any(target in TARGETS for target in runner.targets)
    assert runner.how
    with pytest.raises(DistillError, match=f"{runner.name} ended well and printed no times"):
        runner.parse("hello", CALL)


def test_the_steady_state() -> None:
    assert steady((9.0, 5.0, 1.0, 1.01, 1.0, 0.99), 1) == ([1.0, 1.01, 1.0, 0.99], True)
    assert steady((9.0, 1.0, 1.0, 1.0), 1) == ([1.0, 1.0, 1.0], True)
    falling = tuple(float(20 - i) for i in range(16))
    assert steady(falling, 0) == (list(falling), False)


def test_what_a_row_is_summed_up_from() -> None:
    settings = ProfileSettings(runs=4, warmup_runs=1, rounds=2)
    result = summed_up([Timing((9.0, 1.0, 2.0), load_ms=4), Timing((9.0, 3.0, 3.0), load_ms=8)], settings)
    assert result["rounds_p50_ms"] == (1.5, 3.0)
    assert (result["p50_ms"], result["runs"], result["load_ms"]) == (2.5, 4, 6.0)
    assert "rounds differ by 100 %" in result["notes"]
    told = summed_up([Timing(percentiles=(2.0, None, None)), Timing(percentiles=(4.0, None, None))], settings)
    assert (told["p50_ms"], told["p90_ms"]) == (3.0, None)


def test_what_a_phone_does_not_tell_is_none() -> None:
    assert parse_conditions("") == Conditions()
    assert parse_conditions(f"{TITLE}battery\ncmd: Can't find service: battery\n") == Conditions()
    said = parse_conditions(
        f"{TITLE}battery\n  AC powered: false\n  USB powered: false\n  level: 91\n  temperature: 265\n"
        f"{TITLE}thermal\nThermal Status: 1\n{TITLE}power\n  mWakefulness=Dozing\n{TITLE}saver\n1\n"
        f"{TITLE}focus\n  mCurrentFocus=null\n{TITLE}clocks\n1785600\n2841600\n"
    )
    assert said == Conditions(26.5, 1, 91, False, True, False, None, 2841)


def test_the_gate_looks_until_its_time_is_over() -> None:
    now, told = [0.0], []
    settings = ProfileSettings(cool_seconds=12)

    def sleep(seconds: float) -> None:
        now[0] += seconds

    def gate(degrees: list[float]) -> Conditions:
        return wait_until_fit(
            lambda: Conditions(battery_celsius=degrees.pop(0)), settings, told.append, sleep=sleep, clock=lambda: now[0]
        )

    assert gate([39.0, 37.0, 34.0]).battery_celsius == 34.0
    assert len(told) == 1
    hot = [40.0] * 9
    with pytest.raises(DistillError, match=r"battery has 40.0 °C.*12 s of waiting did not change that"):
        gate(hot)
    assert len(hot) == 9 - 4  # at 0, 5, 10 and 12 seconds
    assert gate([35.0]).battery_celsius == 35.0  # at the bar is not above it


@pytest.mark.skipif(not ETDUMPS.is_dir(), reason="the shared ETDumps are not here (../shared/data/etdump)")
def test_an_etdump_of_a_phone_sized_model() -> None:
    """Its delegate's events add up to the time of the delegate's calls, which stand in the same file."""
    found = read_etdump(ETDUMPS / "mci0_image_xnnpack_int8.etdump")
    delegated = sum(operation.p50_ms for operation in found if operation.delegated)
    assert delegated == pytest.approx(12286.8, rel=0.09)  # Method::execute
    kinds = by_kind(found)
    assert kinds[0]["name"] == "Convolution (NHWC, QC8) IGEMM"
    assert sum(int(str(row["count"])) for row in kinds) == len(found)
    assert not any("CALL" in str(row["name"]) or "Method::" in str(row["name"]) for row in kinds)


def test_files_that_are_no_etdump(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "other").write_bytes(b"no flatbuffer at all" * 9)
    with pytest.raises(DistillError, match="EXECUTORCH_ENABLE_EVENT_TRACER"):
        read_etdump(tmp_path / "empty")
    with pytest.raises(DistillError, match="cannot be read as an ETDump"):
        read_etdump(tmp_path / "other")


def test_the_time_that_the_phone_waits_for_is_never_read_half(tmp_path: Path) -> None:
    """Its watch would take an empty file for a time that is over, and remove our folder while we work."""
    (tmp_path / "until").write_text("1")
    write = f"i=0; while [ $i -lt 60 ]; do {Phone._keep_for(60)}; i=$((i+1)); done"
    with subprocess.Popen(["sh", "-c", write], cwd=tmp_path) as writer:
        while writer.poll() is None:
            assert (tmp_path / "until").read_text().strip().isdigit()
    assert int((tmp_path / "until").read_text()) > time.time()
