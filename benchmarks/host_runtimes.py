"""How fast the runtimes of exported files are on this host, as a ratio to eager torch; and what of a file its delegate leaves.

    python -m benchmarks.host_runtimes runs/default [--target onnx --target onnx-int8 ...] [--threads 1 --threads 2] [--out FOLDER]
    python -m benchmarks.host_runtimes tinyclip-vit8m16 --out FOLDER

A run, or the name of a published shape (random but lively weights, benchmarks/lively_models.py), written and exported under --out.
Targets that are not exported yet are exported first; one whose packages are missing is told and left out. Each runtime has a process
of its own, kept loaded; one works at a time, rounds go forwards and backwards, and the first answers of a round are not counted. A
round's ratio is its median time over eager's median in the same round: below 1 the file is faster. Shown are the median of the ratios
and their range over rounds, then what a file is made of that is slower than eager or far behind the fastest file. It says nothing about a phone.
"""

import argparse
import datetime
import platform
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.lively_models import write
from distill.core.errors import DistillError
from distill.core.machine import usable_cores
from distill.reporting.terminal import cell
from export.artifacts.folder import read_artifacts
from export.artifacts.record import TOWERS, ExportArtifact
from export.children.timing import Runtime
from export.devices.host import cpu_model
from export.latency.measure import EAGER, timing_inputs
from export.target import get_target

TARGETS = ("onnx-fp32", "onnx-int8", "executorch-xnnpack-fp32", "executorch-xnnpack-int8", "litert-fp32", "litert-int8")
BEHIND = 1.2  # times the fastest file: from there on it is told what a file is made of
Ratios = dict[tuple[str, str, int], list[float]]  # (runtime, tower, threads) -> a ratio to eager per round


def exported(model: Path, out: Path, targets: list[str]) -> tuple[Path, dict[str, list[ExportArtifact]]]:
    """The student's folder and what was exported of it, by folder name; exports what is not there."""
    import distill

    own = (model / "resolved.json").exists()
    place, found = model if own else out, {}
    for name in targets:
        folder = place / "export" / get_target(name).folder
        try:
            get_target(name).require_packages()
            distill.export(model, target=name, out=None if own else out)
            found[folder.name] = read_artifacts(folder)
        except DistillError as error:
            print(f"{folder.name} is left out: {error}")
    return place, found


def measure(
    place: Path, artifacts: dict[str, list[ExportArtifact]], threads: int, given: argparse.Namespace
) -> tuple[Ratios, dict[str, float]]:
    """Ratios of all runtimes at one count of threads, and eager's median milliseconds by tower."""
    times: dict[tuple[str, str], list[float]] = {}  # median of each round
    with tempfile.TemporaryDirectory(prefix="distill-host-") as name, ExitStack() as stack:
        scratch = Path(name)
        np.savez(scratch / "inputs.npz", **timing_inputs(next(iter(artifacts.values()))))
        jobs: dict[str, dict[str, Any]] = {EAGER: {"source": str(place / "student")}}
        for folder, towers in artifacts.items():
            files = {artifact.tower: artifact.file for artifact in towers}
            jobs[folder] = {"source": str(place / "export" / folder), "files": files}
        runtimes = []
        for label, job in jobs.items():
            request = {"runtime": label, "threads": threads, "inputs": str(scratch / "inputs.npz"), **job}
            python = None if label == EAGER else get_target(label).python()
            runtimes.append(stack.enter_context(closing(Runtime(label, request, scratch, python))))
            runtimes[-1].answer()  # loaded and ready
        for index in range(given.rounds):
            for tower in TOWERS:
                for runtime in runtimes if index % 2 == 0 else runtimes[::-1]:
                    before = len(runtime.times[tower])
                    runtime.measure(tower, given.runs, given.warmup_runs)
                    times.setdefault((runtime.label, tower), []).append(median(runtime.times[tower][before:]))
    ratios = {
        (label, tower, threads): [own / eager for own, eager in zip(rounds, times[EAGER, tower], strict=True)]
        for (label, tower), rounds in times.items()
        if label != EAGER
    }
    return ratios, {tower: median(times[EAGER, tower]) for tower in TOWERS}


def made_of(artifact: ExportArtifact) -> str:
    """The operations of a file in a line, and what its delegate leaves."""
    made = artifact.operations
    if made.delegated is None:
        most = sorted(made.counts.items(), key=lambda item: -item[1])
        told = ", ".join(f"{count} {name}" for name, count in most[:6])
        return f"{sum(made.counts.values())} operations: {told}" + (", ..." if len(most) > 6 else "")
    left = ", ".join(
        f"{count} {name}" + (f" ({made.why[name]})" if name in made.why else "") for name, count in made.left.items()
    )
    return f"{made.delegated} of {sum(made.counts.values())} operations delegated in {made.subgraphs} pieces; left: {left or 'none'}"


def show(
    artifacts: dict[str, list[ExportArtifact]],
    ratios: Ratios,
    eager: dict[int, dict[str, float]],
    given: argparse.Namespace,
) -> None:
    """The tables in markdown."""
    import torch

    print(
        f"\n{cpu_model()}, {usable_cores()} cores, {platform.platform()}, {datetime.date.today()}; torch {torch.__version__}; {given.model},"
    )
    print(
        f"{given.rounds} rounds of {given.runs} calls at batch 1; time over eager's (range over rounds), below 1 is faster\n"
    )
    heads = [f"{tower}, {threads} thread{'s' * (threads > 1)}" for tower in TOWERS for threads in eager]
    print("| runtime | " + " | ".join(heads) + " |\n|---|" + "---:|" * len(heads))
    for folder in artifacts:
        rounds = [ratios.get((folder, tower, threads)) for tower in TOWERS for threads in eager]
        figures = [f"{median(own):.2f} ({min(own):.2f} to {max(own):.2f})" if own else cell(None) for own in rounds]
        print(f"| {folder} | " + " | ".join(figures) + " |")
    absolute = [f"{eager[threads][tower]:.2f} ms" for tower in TOWERS for threads in eager]
    print("| eager itself | " + " | ".join(absolute) + " |\n")
    for tower in TOWERS:
        medians = {(folder, threads): median(own) for (folder, of, threads), own in ratios.items() if of == tower}
        fastest = {threads: min(own for (_, at), own in medians.items() if at == threads) for threads in eager}
        for folder, towers in artifacts.items():
            lost = [f"slower than eager at {t}" for t in eager if medians[folder, t] > 1]
            lost += [f"{medians[folder, t] / fastest[t]:.1f} of the fastest file's time at {t}" for t in eager
                     if medians[folder, t] > BEHIND * fastest[t]]  # fmt: skip
            if lost:
                artifact = next(artifact for artifact in towers if artifact.tower == tower)
                print(f"- {folder}, {tower}: {', '.join(lost)} threads. {made_of(artifact)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a run, or the name of a published shape")
    parser.add_argument("--target", action="append", help=f"none = {', '.join(TARGETS)}")
    parser.add_argument("--threads", action="append", type=int, help="none = 1 and 2")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--warmup-runs", type=int, default=5)
    parser.add_argument("--out", type=Path, help="where a published shape is written and exported")
    given = parser.parse_args()
    model = Path(given.model)
    if not (model / "resolved.json").exists():
        if given.out is None:
            parser.error(f"{given.model!r} is no run; to write a model of that shape, give --out")
        model = given.out / "model"
        if not model.is_dir():
            write(given.model, model)
    place, artifacts = exported(model, given.out, given.target or list(TARGETS))
    if not artifacts:
        raise SystemExit("Nothing is exported, so there is nothing to time.")
    ratios: Ratios = {}
    eager: dict[int, dict[str, float]] = {}
    for threads in given.threads or (1, 2):
        found, eager[threads] = measure(place, artifacts, threads, given)
        ratios |= found
    show(artifacts, ratios, eager, given)


if __name__ == "__main__":
    main()
