"""What the delegates of ExecuTorch for phones' and boards' own accelerators share: no machine here runs their files.

A delegate whose tools are in package registries has an environment of its own. One whose vendor hands its tools out after a login
says what to fetch; its lowering is the vendor's published way, and is not tried here. Left out: the partitioners and quantizers.
"""

from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from distill.core.errors import DistillError
from export.artifacts.record import Operations, Tower
from export.target import NotCheckedError, Runner
from export.targets.parts.executorch import ExecuTorch

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from distill.core.arrays import Array
    from export.settings import ExportSettings

POOR = 0.9  # mean-centred cosine of a quantized program in torch, below which the record says that it has collapsed


class Npu(ExecuTorch):
    """A target whose files only its own accelerator runs.

    Attributes:
        accelerator: in words, for messages.
        chip: which one a file is compiled for when nobody says.
        chip_setting: name of the setting under `export.chips` that says another.
    """

    accelerator: ClassVar[str]
    chip: ClassVar[str]
    chip_setting: ClassVar[str]
    reasons = {}  # noqa: RUF012

    @override
    def own_options(self, settings: "ExportSettings") -> dict[str, Any]:
        chosen = getattr(settings.chips, self.chip_setting)
        return {} if chosen == self.chip else {"chip": chosen}

    @property
    def chosen_chip(self) -> str:
        """Which one the files are for."""
        return str(self.options.get("chip", self.chip))

    @property
    def unrun(self) -> str:
        """Why nothing here runs the files."""
        return f"only {self.accelerator} runs it: compare the golden samples there"

    @property
    @override
    def runs_on(self) -> str:
        return f"ExecuTorch 1.4 with {self.accelerator}, compiled for {self.chosen_chip}"

    @property
    @override
    def checked_by(self) -> str:
        return f"nothing on this machine: {self.unrun}"

    @property
    @override
    def no_latency(self) -> str | None:
        return self.unrun

    @override
    def load(self, path: Path, threads: int = 1) -> Runner:
        raise NotCheckedError(f"not checked: {self.unrun}")

    def quantizer(self) -> Any:
        """The vendor's quantizer at this precision."""
        raise NotImplementedError(f"{self.name} quantizes nothing")

    @override
    def prepared(self, program: "ExportedProgram", tower: Tower, calibration: "Array | None") -> "ExportedProgram":
        if calibration is None:
            return program
        from export.targets.parts.pt2e import quantized

        return quantized(program, self.quantizer(), calibration)

    @override
    def convert(
        self, program: "ExportedProgram", tower: Tower, path: Path, *, calibration: "Array | None" = None
    ) -> Operations:
        made = super().convert(program, tower, path, calibration=calibration)
        if calibration is None:
            return made
        # The file itself cannot be run, but what it was lowered from can: the one way to see here that int8 has wrecked a tower.
        found = agreement(program, self.prepared(program, tower, calibration), calibration)
        collapsed = " It has collapsed: another precision or target is needed." if not found >= POOR else ""
        told = f"before it was lowered, in torch, on what it was calibrated on: mean-centred cosine {found:.3f}.{collapsed}"
        print(f"{self.folder}, {tower}: {told}")
        return replace(made, why={**made.why, "quantized": told})


class NeedsSdk(Npu):
    """One whose vendor's tools are in no package registry.

    Attributes:
        sdk: what to fetch and to set, as instructions.
    """

    sdk: ClassVar[str]

    @abstractmethod
    def lacks(self) -> bool:
        """Whether the vendor's tools are not here. Must not import what fetches them."""

    @override
    def missing(self) -> str | None:
        return super().missing() or (self.sdk if self.lacks() else None)

    @override
    def require_packages(self) -> None:
        line = super().missing()
        if line:
            raise DistillError(f"The target {self.name!r} needs packages that are not installed. Run: {line}")
        if self.lacks():
            raise DistillError(f"The target {self.name!r} needs its vendor's tools, which are not here. {self.sdk}")


def agreement(program: "ExportedProgram", quantized: "ExportedProgram", samples: "Array") -> float:
    """The mean-centred cosine of two programs' outputs, in the mean over `samples` [n, ...]; 1.0 where all are the same."""
    import numpy as np
    import torch

    from export.app.form import batches

    outputs = []
    for made in (program.module(), quantized.module()):
        with torch.no_grad():
            size = len(program.example_inputs[0][0])
            rows = [made(torch.from_numpy(np.ascontiguousarray(part))).numpy() for part in batches(samples, size)]
        outputs.append(np.concatenate(rows).astype(np.float64))
    mean = outputs[0].mean(0)
    eager, got = outputs[0] - mean, outputs[1] - mean
    lengths = np.linalg.norm(eager, axis=1) * np.linalg.norm(got, axis=1)
    if not np.linalg.norm(eager, axis=1).max() > 1e-6:
        return 1.0
    return float(((eager * got).sum(1) / np.where(lengths > 0, lengths, np.inf)).mean())
