"""`Runtime`: one runtime kept loaded by `export.children.bench`, seen from the process that asks it for times or embeddings."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from distill.core.arrays import Array
from export.children.process import failure, spawn


class Runtime:
    """A running bench process. Its methods raise DistillError with the process's last lines when it dies.

    Attributes:
        label: what it is called in messages and in the names of its files.
        times: tower -> milliseconds of every counted call so far.
    """

    def __init__(self, label: str, job: dict[str, Any], folder: Path, python: Path | None = None) -> None:
        """Start it with the job that `export.children.bench` describes; its files go to `folder`. `python`: as of `spawn`."""
        self.label = label
        self.times: dict[str, list[float]] = {tower: [] for tower in job.get("files", job.get("towers", ()))}
        self.log_file = folder / f"{label}.log"
        job_file = folder / f"{label}.json"
        job_file.write_text(json.dumps(job), encoding="utf-8")
        with open(self.log_file, "wb") as log:
            self.process = spawn(
                ["-m", "export.children.bench", str(job_file)],
                threads=job["threads"],
                log=log,
                stdout=subprocess.PIPE,
                python=python,
            )

    def answer(self) -> Any:
        """Wait for its next answer: the first says that the models are loaded."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise failure(f"Running {self.label}", self.process.wait(), self.log_file)
        return json.loads(line)

    def measure(self, tower: str, runs: int, warmup_runs: int) -> None:
        """Add the times of `runs` calls of a tower, after `warmup_runs` that are not counted."""
        self.times[tower] += self._ask({"tower": tower, "runs": runs, "warmup_runs": warmup_runs})["ms"]

    def embed(self, tower: str, inputs: Array) -> Array:
        """The embeddings [n, D] of the inputs [n, ...] of a tower, each run alone."""
        given, made = (self.log_file.with_name(f"{self.label}-{name}.npy") for name in ("inputs", "embeddings"))
        np.save(given, inputs)
        self._ask({"tower": tower, "embed": str(given), "to": str(made)})
        return np.asarray(np.load(made, allow_pickle=False))

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise failure(f"Running {self.label}", self.process.wait(), self.log_file) from None
        return self.answer()

    def close(self) -> None:
        """Kill it."""
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.process.wait()
