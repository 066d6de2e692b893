"""Times exported files on one Android phone: push, wait for a cool phone, run in rounds, compare the output, pull, clean up.

The vendor's runner has a process of its own for each round. What a row needs to be compared later stands in it: the file's
hash, the runner's, the phone's build, and the phone's state before and after. A finished row goes to a journal.
Left out: which phones there are (export.devices.android).
"""

import contextlib
import functools
import shlex
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from distill.core.arrays import Array
from distill.core.errors import DistillError
from distill.core.folders.lock import working_in
from distill.core.packages.environment import cache_folder
from distill.core.progress import Progress
from export.artifacts.precision import PRECISIONS
from export.artifacts.record import ExportArtifact, LatencyProfile
from export.device import DeviceInfo
from export.devices.parts import journal
from export.devices.parts.adb import LostPhoneError, Phone
from export.devices.parts.conditions import Conditions, read_conditions, unfit, wait_until_fit
from export.devices.parts.etdump import by_kind, read_etdump
from export.devices.parts.golden import OUTPUT_COSINE, golden_sample
from export.devices.parts.runners import Call, FoundRunner, PhoneRunner, Timing, runner_of
from export.devices.parts.steady_state import summed_up
from export.settings import ProfileSettings
from export.target import TARGETS, get_target

INPUT, OUTPUT, TRACE, LOG = "input.bin", "output", "trace.etdump", "log"


def measure_phone(
    info: DeviceInfo,
    runners: dict[str, FoundRunner],
    artifacts: dict[Path, list[ExportArtifact]],
    settings: ProfileSettings,
    *,
    resume: bool,
    progress: Progress,
) -> dict[Path, list[LatencyProfile]]:
    """Time every exported folder on the phone `info`; folders that no runner there takes get rows with the reason.

    Args:
        runners: name of a vendor's program -> where it is.
        resume: take rows that the journal has, of the same file, runner, system and protocol.

    Raises:
        DistillError: the phone is too hot, full, gone, or does not run a file. Rows that were finished are in the journal.
        BusyError: another process times on the same phone.
    """
    phone = Phone(info.name)
    rows: dict[Path, list[LatencyProfile]] = {}
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in info.name)
    with contextlib.ExitStack() as stack:
        stack.enter_context(working_in(cache_folder() / "phones" / name, "distill profile"))
        started = False
        for number, (folder, towers) in enumerate(artifacts.items()):
            kind = runner_of(towers[0].target)
            found = runners.get(kind.name) if kind else None
            if kind is None or found is None:
                rows[folder] = [_not_timed(info, item, _why_not(kind, towers[0].target)) for item in towers]
                continue
            progress(number, len(artifacts), f"{info.name}: {folder.name}")
            rows[folder] = []
            for item in towers:
                work = _Work(phone, info, found, folder, item, settings)
                row = journal.finished(folder.parent, work.key) if resume else None
                if row is None:
                    if not started:
                        stack.enter_context(phone.working())
                        started = True
                    row = work.measure(functools.partial(progress, number, len(artifacts)))
                    journal.add(folder.parent, work.key, row)
                rows[folder].append(row)
    progress(len(artifacts), len(artifacts), f"{info.name}: done")
    return rows


class _Work:
    """One tower's file on one phone."""

    def __init__(
        self,
        phone: Phone,
        info: DeviceInfo,
        runner: FoundRunner,
        folder: Path,
        item: ExportArtifact,
        settings: ProfileSettings,
    ) -> None:
        self.phone, self.info, self.runner, self.settings = phone, info, runner, settings
        self.folder, self.item, self.file = folder, item, folder / item.file
        self.target = get_target(item.target, item.precision)

    @property
    def key(self) -> dict[str, Any]:
        """What a row is of; another file, runner, build of the system or protocol is another row."""
        protocol = self.settings.model_dump(mode="json", include={"threads", "runs", "warmup_runs", "rounds"})
        return {
            "device": self.info.name,
            "system": self.info.os,
            "runner": f"{self.runner.kind.name}, {self.runner.identity}",
            "folder": self.folder.name,
            "tower": self.item.tower,
            "file_sha256": self.item.sha256,
            **protocol,
        }

    def measure(self, say: Any) -> LatencyProfile:
        """The whole protocol for this file."""
        words = f"{self.info.name}: {self.folder.name}, {self.item.tower} tower"
        say(f"{words}: copying")
        inputs, expected = golden_sample(self.folder, self.item)
        self._prepare(inputs)
        rounds, states, notes = [], [], []
        for index in range(self.settings.rounds):
            states.append(wait_until_fit(lambda: read_conditions(self.phone), self.settings, say))
            share = self.settings.runs // self.settings.rounds + (index < self.settings.runs % self.settings.rounds)
            say(f"{words}: round {index + 1} of {self.settings.rounds}")
            rounds.append(self._round(max(share, 1)))
            states.append(read_conditions(self.phone))
            if reason := unfit(states[-1], self.settings):
                notes.append(f"after round {index + 1} {reason}")
        cosine = self._check_output(expected)
        peak = next((timing.peak_mb for timing in rounds if timing.peak_mb is not None), None) or self._peak_mb()
        operations, missing = self._operations()
        result = summed_up(rounds, self.settings)
        notes += result.pop("notes") + ([missing] if missing else [])
        if states[0] == Conditions():
            notes.append("the phone tells nothing of its heat, so that throttling cannot be ruled out")
        if self.info.emulated:
            notes.insert(0, "host times: the device runs on this computer")
        return LatencyProfile(
            device=self.info.name,
            runtime=f"{self.target.runtime} ({self.key['runner']})",
            tower=self.item.tower,
            precision=self.target.precision.name,
            source="measured (host times)" if self.info.emulated else "measured",
            threads=self.settings.threads,
            batch=int(self.item.options.get("batch", 1)),
            warmup_runs=self.settings.warmup_runs,
            rounds=self.settings.rounds,
            note="; ".join(notes),
            peak_mb=peak,
            output_cosine=cosine,
            conditions={"system": self.info.os, "before": asdict(states[0]), "after": asdict(states[-1])},
            operations=operations,
            **result,
        )

    def _prepare(self, inputs: Array | None) -> None:
        """The runner, the file and the input lie in the phone's folder, and nothing else of ours."""
        self.phone.run("rm -f model* input.bin output* trace*", seconds=30)
        if self.runner.path is not None:
            self._push_once(self.runner.path, self.runner.kind.name)
            self.phone.run(f"chmod 755 {self.runner.kind.name}", seconds=30)
            for library in self.runner.libraries:
                self._push_once(library, library.name)
        self.phone.push(self.file, self._model)
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / INPUT
            file.write_bytes(b"" if inputs is None else np.ascontiguousarray(inputs).tobytes())
            self.phone.push(file, INPUT)

    def _push_once(self, source: Path, name: str) -> None:
        """Copy a file that all towers of a call need, where it does not lie in the phone's folder yet."""
        there = self.phone.run(f"wc -c < {shlex.quote(name)}", seconds=30)
        if there.out.strip() != str(source.stat().st_size):
            self.phone.push(source, name)

    @property
    def _model(self) -> str:
        return f"model{self.target.suffix}"

    def _call(self, runs: int, *, trace: str = "", warmup_runs: int | None = None) -> tuple[Call, str]:
        warmup = self.settings.warmup_runs if warmup_runs is None else warmup_runs
        call = Call(self._model, INPUT, self.settings.threads, runs, warmup, OUTPUT, trace)
        program = self.runner.there or f"./{self.runner.kind.name}"
        # Where a vendor's libraries lie: beside the program. The second is where Hexagon's own half is looked for.
        beside = shlex.quote(str(PurePosixPath(program).parent))
        paths = f"LD_LIBRARY_PATH={beside} ADSP_LIBRARY_PATH={beside}"
        return call, f"{paths} {self.runner.kind.command(program, call, self.item.target)}"

    def _round(self, runs: int) -> Timing:
        call, command = self._call(runs)
        return self.runner.kind.parse(self._succeed(command), call)

    def _succeed(self, command: str) -> str:
        """What a command printed; its process id is left for the watch. Raises DistillError, with the cause, where it failed."""
        answer = self.phone.run(
            f"{{ {command} >{LOG} 2>&1 & echo $! > pid; wait $!; s=$?; cat {LOG}; (exit $s); }}",
            seconds=self.settings.seconds,
        )
        if answer.status == 0:
            return answer.out
        name, last = self.runner.kind.name, answer.said
        if answer.status == 126 or "not executable" in last or "Exec format" in last:
            why = f"the phone cannot execute it: it must be built for {self.info.abi or 'its processor'}"
        elif "CANNOT LINK" in last or "cannot locate symbol" in last:
            why = f"it was built for a newer Android than {self.info.os}, or lacks a library"
        elif answer.status == 127:
            why = "it is not there any more"
        elif answer.status > 128:
            signal = answer.status - 128
            why = f"it was killed by signal {signal}" + (": the phone had too little memory" if signal == 9 else "")
        else:
            why = f"it ended with status {answer.status}"
        raise DistillError(
            f"{name} does not run {self.folder.name}/{self.item.file} on {self.info.name!r}: {why}. It said: {last}"
        )

    def _check_output(self, expected: Array | None) -> float | None:
        """The cosine of the phone's output to the golden one; None where the runner or the folder has none.

        Raises DistillError below the bar: such a time is of a model that does not work.
        """
        if not self.runner.kind.checks_output or expected is None:
            return None
        call, _ = self._call(1)
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "output.bin"
            self.phone.pull(self.runner.kind.output_file(call), file)
            got = np.frombuffer(file.read_bytes(), np.float32)
        place = f"{self.folder.name}/{self.item.file}"
        if got.shape != expected.shape or not np.isfinite(got).all():
            odd = (
                f"{got.size} numbers for an embedding of {expected.size}"
                if got.size != expected.size
                else "numbers that are not finite"
            )
            raise DistillError(f"{place} gives {odd} on {self.info.name!r}. Its times would say nothing.")
        cosine = float(got @ expected / max(float(np.linalg.norm(got) * np.linalg.norm(expected)), 1e-12))
        bar = OUTPUT_COSINE[PRECISIONS[self.target.precision.name].closeness]
        if cosine < bar:
            raise DistillError(
                f"{place} says something else on {self.info.name!r} than here: cosine {cosine:.4f} to the golden embedding, below "
                f"{bar}. "
                "Its times would say nothing. Is the runner of the exporter's version?"
            )
        return round(cosine, 6)

    def _peak_mb(self) -> float | None:
        """The largest resident size in a pass of its own, looked at while the runner works; None where /proc does not tell."""
        _, command = self._call(1, warmup_runs=1)
        watch = (
            f"{{ {command} >{LOG} 2>&1 & p=$!; echo $p > pid; m=; "
            'while n=$(grep VmHWM /proc/$p/status 2>/dev/null); do m=$n; sleep 0.02; done; wait $p; echo "$m"; }'
        )
        words = self.phone.run(watch, seconds=self.settings.seconds).out.split()
        return round(int(words[1]) * 1024 / 1e6, 1) if len(words) == 3 and words[1].isdigit() else None

    def _operations(self) -> tuple[list[dict[str, Any]], str]:
        """Times per kind of operation, in a pass of its own since tracing slows; or none, and why."""
        if not self.runner.kind.traces:
            return [], ""
        _, command = self._call(3, trace=TRACE, warmup_runs=1)
        scratch = Path(tempfile.mkdtemp())
        try:
            self._succeed(command)
            file = scratch / TRACE
            self.phone.pull(TRACE, file)
            return by_kind(read_etdump(file)), ""
        except LostPhoneError:
            raise
        except DistillError as error:
            return [], f"no times per operation: {str(error).splitlines()[0][:200]}"
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _why_not(kind: PhoneRunner | None, target: str) -> str:
    if kind is None:
        return f"Android runs no files of the target {target}" if target in TARGETS else f"unknown target {target}"
    return f"no {kind.name} for this phone: {kind.how}"


def _not_timed(info: DeviceInfo, item: ExportArtifact, reason: str) -> LatencyProfile:
    target = get_target(item.target, item.precision)
    return LatencyProfile(info.name, target.runtime, item.tower, target.precision.name, "not measured", note=reason)
