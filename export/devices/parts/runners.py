"""The vendors' own programs that time a file on an Android phone: what each is called, takes and prints.

A runner is a path that the user gives, or lies in a known place: `RUNNERS_FOLDER`/<abi>/<name> in the cache, or /data/local/tmp of
the phone, where the vendors' own instructions put it. Their sources are in no package registry, so none is shipped. Left out:
running them (measure.py).
"""

import re
import shlex
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from distill.core import atomic
from distill.core.errors import DistillError
from distill.core.packages.environment import cache_folder

RUNNERS_FOLDER = "runners"


@dataclass(frozen=True)
class Timing:
    """What one call of a runner printed.

    Attributes:
        times_ms: of every call, warm-up first; empty where the runner prints none.
        percentiles: (p50, p90, p99) of the calls behind the warm-up, where the runner counts itself; p90 and p99 None
            where it does not tell them.
        load_ms: until the model was ready; None = not told.
        peak_mb: of the process; None = not told.
    """

    times_ms: tuple[float, ...] = ()
    percentiles: tuple[float, float | None, float | None] | None = None
    load_ms: float | None = None
    peak_mb: float | None = None


@dataclass(frozen=True)
class Call:
    """What is asked of a runner, with names of files in the phone's folder.

    Attributes:
        model: the exported file.
        inputs: raw little-endian inputs of one sample.
        threads, runs, warmup_runs: as of `distill profile`.
        output: stem of the file that the embedding is written to.
        trace: name of the file for times per operation; "" = without.
    """

    model: str
    inputs: str
    threads: int
    runs: int
    warmup_runs: int
    output: str = "output"
    trace: str = ""


class PhoneRunner(ABC):
    """One vendor's program.

    Attributes:
        name: of the program's file.
        backend: what it times, in words.
        targets: the targets whose files it runs.
        how: where the vendor tells how to get it.
        checks_output: whether it takes our input and writes the output, so that the embedding is compared.
        traces: whether it can write times per operation.
    """

    name: ClassVar[str]
    backend: ClassVar[str]
    targets: ClassVar[tuple[str, ...]]
    how: ClassVar[str]
    checks_output: ClassVar[bool] = False
    traces: ClassVar[bool] = False

    @abstractmethod
    def command(self, program: str, call: Call, target: str) -> str:
        """The shell command line; `program`: how the runner is called there."""

    @abstractmethod
    def parse(self, printed: str, call: Call) -> Timing:
        """What it printed. Raises DistillError where the times are not in it."""

    def output_file(self, call: Call) -> str:
        """The file that holds the output afterwards."""
        return call.output


def _words(*parts: str) -> str:
    return " ".join(shlex.quote(part) for part in parts)


def _absent(name: str, printed: str) -> DistillError:
    return DistillError(
        f"{name} ended well and printed no times. Its last words: {' '.join(printed.split())[-300:] or '(nothing)'}. "
        "Is it the program that its name says, of a version of 2025 or later?"
    )


class ExecutorRunner(PhoneRunner):
    """ExecuTorch's executor_runner (examples/portable/executor_runner of pytorch/executorch)."""

    name = "executor_runner"
    backend = "ExecuTorch"
    targets = ("executorch-xnnpack", "executorch-vulkan", "executorch-qnn", "executorch-mediatek", "executorch-samsung")
    how = (
        "ExecuTorch's documentation, 'Building from Source', for Android: cmake with the NDK's toolchain file, target "
        "executor_runner (with EXECUTORCH_BUILD_XNNPACK=ON, and EXECUTORCH_BUILD_DEVTOOLS=ON, EXECUTORCH_ENABLE_EVENT_TRACER=ON "
        "for times per operation)"
    )
    checks_output = True
    traces = True

    @override
    def command(self, program: str, call: Call, target: str) -> str:
        options = {
            "model_path": call.model,
            "inputs": call.inputs,
            "output_file": call.output,
            "num_executions": str(call.warmup_runs + call.runs),
            "cpu_threads": str(call.threads),
        } | ({"etdump_path": call.trace} if call.trace else {})
        return _words(program, *(f"--{name}={value}" for name, value in options.items()))

    @override
    def parse(self, printed: str, call: Call) -> Timing:
        """Lines "Iteration 3 of 8: 1.25 ms" where its version prints them, else the one of all calls' sum."""
        each = [float(ms) for ms in re.findall(r"Iteration \d+ of \d+: ([\d.]+) ?ms", printed)]
        load = _between(printed, r"is loaded\.", r"Method loaded\.")
        if len(each) == call.warmup_runs + call.runs:
            return Timing(tuple(each), load_ms=load)
        total = re.search(r"executed successfully (\d+) time\(s\) in ([\d.]+) ms", printed)
        if total is None or int(total[1]) != call.warmup_runs + call.runs:
            raise _absent(self.name, printed)
        mean = float(total[2]) / int(total[1])
        return Timing((mean,) * int(total[1]), load_ms=load)

    @override
    def output_file(self, call: Call) -> str:
        return f"{call.output}-0.bin"


def _between(printed: str, first: str, last: str) -> float | None:
    """Milliseconds between two lines of ExecuTorch's log, each with its time: "I 00:00:00.012345 executorch:..."."""
    stamps = []
    for pattern in (first, last):
        found = re.search(rf"^[A-Z] (\d+):(\d+):(\d+\.\d+) .*{pattern}", printed, re.MULTILINE)
        if found is None:
            return None
        stamps.append((int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])) * 1e3)
    return round(stamps[1] - stamps[0], 3)


class BenchmarkModel(PhoneRunner):
    """LiteRT's benchmark_model (tensorflow/lite/tools/benchmark)."""

    name = "benchmark_model"
    backend = "LiteRT"
    targets = ("litert",)
    how = (
        "LiteRT's documentation, 'Performance measurement', 'Native benchmark binary': the ready-made android_aarch64 program, or "
        "bazel build -c opt --config=android_arm64 //tensorflow/lite/tools/benchmark:benchmark_model"
    )

    @override
    def command(self, program: str, call: Call, target: str) -> str:
        options = {
            "graph": call.model,
            "num_threads": str(call.threads),
            "num_runs": str(call.runs),
            "min_secs": "0",
            "warmup_runs": str(call.warmup_runs),
            "warmup_min_secs": "0",
            "report_peak_memory_footprint": "true",
        }
        return _words(program, *(f"--{name}={value}" for name, value in options.items()))

    @override
    def parse(self, printed: str, call: Call) -> Timing:
        """The last "count=50 first=... p5=... median=... p95=..." is of the counted calls, in microseconds."""
        counts = re.findall(r"count=(\d+) [^\n]*?avg=([\d.e+]+)([^\n]*)", printed)
        if not counts or not re.search(r"Inference timings in us", printed):
            raise _absent(self.name, printed)
        count, average, rest = counts[-1]
        if int(count) < call.runs:
            raise DistillError(f"{self.name} timed {count} calls, not the {call.runs} that it was asked for.")
        median = re.search(r"median=([\d.e+]+)", rest)
        init = re.search(r"Init: ([\d.e+]+)", printed)
        peak = re.search(r"[Pp]eak memory footprint \(MB\):?.*?([\d.]+)|overall=([\d.]+)", printed)
        return Timing(
            percentiles=(float(median[1] if median else average) / 1e3, None, None),
            load_ms=float(init[1]) / 1e3 if init else None,
            peak_mb=float(peak[1] or peak[2]) if peak else None,
        )


class PerfTest(PhoneRunner):
    """ONNX Runtime's onnxruntime_perf_test (onnxruntime/test/perftest), with QNN's libraries beside it for Hexagon."""

    name = "onnxruntime_perf_test"
    backend = "ONNX Runtime"
    targets = ("onnx", "ort", "onnx-qnn")
    how = (
        "ONNX Runtime's documentation, 'Build for Android' (build.sh --android --android_abi arm64-v8a, with --use_qnn and "
        "--qnn_home for Hexagon); for it, libQnnHtp.so "
        "with its stub and skeleton, from Qualcomm's AI Runtime SDK, lies beside the program, as libonnxruntime.so does"
    )

    @override
    def command(self, program: str, call: Call, target: str) -> str:
        provider = (
            ["-e", "qnn", "-i", "backend_path|libQnnHtp.so htp_performance_mode|burst enable_htp_fp16_precision|1"]
            if target == "onnx-qnn"
            else ["-e", "cpu"]
        )
        counted = ["-m", "times", "-r", str(call.runs), "-x", str(call.threads), "-I", "-s"]
        return _words(program, *provider, *counted, call.model)

    @override
    def parse(self, printed: str, call: Call) -> Timing:
        """Lines "P50 Latency: 0.0012 s"; it warms up by one call of its own."""
        found = {
            name: re.search(rf"^{name} Latency: ([\d.e-]+) s", printed, re.MULTILINE) for name in ("P50", "P90", "P99")
        }
        if found["P50"] is None:
            raise _absent(self.name, printed)
        p50, p90, p99 = (float(item[1]) * 1e3 if item else None for item in found.values())
        load = re.search(r"Session creation time cost: ([\d.e-]+) s", printed)
        peak = re.search(r"Peak working set size: (\d+) bytes", printed)
        assert p50 is not None
        return Timing(
            percentiles=(p50, p90, p99),
            load_ms=float(load[1]) * 1e3 if load else None,
            peak_mb=int(peak[1]) / 1e6 if peak else None,
        )


RUNNERS: tuple[PhoneRunner, ...] = (ExecutorRunner(), BenchmarkModel(), PerfTest())


@dataclass(frozen=True)
class FoundRunner:
    """A vendor's program for one phone: on this computer (`path`), or on the phone (`there`, an absolute path)."""

    kind: PhoneRunner
    path: Path | None = None
    there: str = ""

    @property
    def libraries(self) -> list[Path]:
        """The shared libraries beside the program on this computer, which go to the phone with it."""
        return sorted(self.path.parent.glob("*.so")) if self.path else []

    @property
    def identity(self) -> str:
        """What tells versions apart: the vendors' programs print none."""
        if self.path is None:
            return f"on the phone, {self.there}"
        with_it = {library.name: atomic.sha256_file(library) for library in self.libraries}
        also = f", its libraries {atomic.sha256_json(with_it)[:12]}" if with_it else ""
        return f"sha256 {atomic.sha256_file(self.path)[:12]}{also}"


def runner_of(target: str) -> PhoneRunner | None:
    """The runner for a target's files; None where phones with Android run none of them."""
    return next((runner for runner in RUNNERS if target in runner.targets), None)


def runners_folder(abi: str) -> Path:
    """Where runners for an ABI ("arm64-v8a") are looked for on this computer."""
    return cache_folder() / RUNNERS_FOLDER / abi
