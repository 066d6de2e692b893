"""`Conversion`: one target being converted and checked by `export.children.convert`, seen from the process that waits for it."""

import json
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from distill.core import atomic
from export.app.licence import Notice
from export.artifacts.record import Tower
from export.children.process import failure, spawn
from export.target import Target
from export.towers.programs import CALIBRATION_FILE, REFERENCE_FILE


@dataclass(frozen=True, eq=False)
class Conversion:
    """A running child process and where it writes.

    Attributes:
        target: what it converts to.
        folder: where it leaves the towers' files.
        result_file: JSON with each tower's parity report and seconds, written last.
        log_file: everything that the child prints.
        started: monotonic seconds at which it was started.
    """

    target: Target
    folder: Path
    result_file: Path
    log_file: Path
    log: IO[bytes]
    process: "subprocess.Popen[bytes]"
    started: float

    @classmethod
    def start(
        cls, target: Target, programs: "dict[Tower, str]", notice: Notice, work: Path, log_file: Path, threads: int
    ) -> "Conversion":
        """Start converting `programs` (tower -> path of a saved torch.export program).

        Args:
            notice: what is written into the files.
            work: folder that holds the reference embeddings; everything the child makes goes inside.
            log_file: overwritten.
            threads: intra-op threads of the child.
        """
        folder = work / target.folder
        folder.mkdir()
        result_file = work / f"{target.folder}-result.json"
        job = {
            "target": target.folder,
            "options": target.options,
            "folder": str(folder),
            "notice": asdict(notice),
            "programs": programs,
            "reference": str(work / REFERENCE_FILE),
            "calibration": str(work / CALIBRATION_FILE),
            "result": str(result_file),
            "threads": threads,
        }
        job_file = work / f"{target.folder}.json"
        job_file.write_text(json.dumps(job), encoding="utf-8")
        log_file.parent.mkdir(exist_ok=True)
        log = open(log_file, "wb")  # noqa: SIM115  # closed when the process has ended
        arguments = ["-m", "export.children.convert", str(job_file)]
        process = spawn(arguments, threads=threads, log=log, python=target.python())
        return cls(target, folder, result_file, log_file, log, process, time.monotonic())

    @property
    def ended(self) -> bool:
        """Whether the child process is over, well or not."""
        return self.process.poll() is not None

    def result(self) -> dict[str, Any]:
        """tower -> {"parity", "convert_s", "check_s"} of a child that has ended. Raises DistillError when it failed."""
        self.log.close()
        assert self.process.stdin is not None
        self.process.stdin.close()
        if self.process.returncode != 0 or not self.result_file.exists():
            raise failure(f"Exporting to {self.target.name}", self.process.returncode, self.log_file)
        result: dict[str, Any] = atomic.read_json(self.result_file)
        return result

    def stop(self) -> None:
        """Kill the child."""
        self.process.kill()
        self.process.wait()
        self.log.close()
