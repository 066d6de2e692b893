"""What the verbs return: frozen, and as JSON by `.to_json()`, which is what `--json` prints."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.stages.latency.choose import Choice

Row = dict[str, Any]


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        out: the run folder; report.md and report.html lie there.
        student: folder of the trained student, which open_clip loads too.
        table: one row per model (teachers, student, plain student): accuracy in percent, size in MB, latency in ms.
        facts: everything that the report shows, see `distill.reporting.facts.read_run`.
    """

    out: Path
    student: Path
    table: list[Row]
    facts: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The facts."""
        return self.facts


@dataclass(frozen=True)
class ReinforceResult:
    """A reinforced set, or this process's finished share of one.

    Attributes:
        out: folder of the set.
        finished: False when other processes, or a batch system, still work on shards of it.
        facts: counts, licence, check and caption report; of an unfinished set only the number of missing shards.
        selection: folder of the selection that the filters left; None without filters.
    """

    out: Path
    finished: bool
    facts: dict[str, Any]
    selection: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """One flat object; "finished" only where it is false."""
        if not self.finished:
            return {"out": str(self.out), "finished": False, **self.facts}
        selection = None if self.selection is None else str(self.selection)
        return {"out": str(self.out), **self.facts, "selection": selection}


@dataclass(frozen=True)
class CurateResult:
    """What filters chose.

    Attributes:
        out: folder of the selection; None after a dry run.
        kept, samples: how many samples of how many.
        facts: per filter its settings, counts, reasons and histogram; and the draws of an epoch.
    """

    out: Path | None
    kept: int
    samples: int
    facts: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """One flat object."""
        return {"out": None if self.out is None else str(self.out), **self.facts}


@dataclass(frozen=True)
class TrainResult:
    """A trained student, full teacher, or heads over towers.

    Attributes:
        out: its folder.
        parameters: counts by part: image tower, text blocks, token embedding; of heads: image, text.
        heads: whether it is heads over frozen towers.
    """

    out: Path
    parameters: dict[str, int]
    heads: bool = False

    def to_json(self) -> dict[str, Any]:
        """One object."""
        return {"out": str(self.out), "head_parameters" if self.heads else "parameters": self.parameters}


@dataclass(frozen=True)
class EvalResult:
    """Figures of one model, in percent, see `distill.evaluation.metrics`.

    Attributes:
        retrieval, zero_shot: None where the data has no captions, or no labels.
        read_as: how the data was read, see `reinforced_data.read_as.ReadAs`, by its role.
        seen_in_training: how many of the images the run's student was trained on, by their bytes; None = not known.
    """

    model: str
    retrieval: dict[str, Any] | None
    zero_shot: dict[str, Any] | None
    read_as: dict[str, Any] = field(default_factory=dict)
    seen_in_training: int | None = None

    def to_json(self) -> dict[str, Any]:
        """One object."""
        return {
            "model": self.model, "retrieval": self.retrieval, "zero_shot": self.zero_shot, "read_as": self.read_as,
            "seen_in_training": self.seen_in_training,
        }  # fmt: skip


@dataclass(frozen=True)
class PredictResult:
    """What a model says to photos.

    Attributes:
        model: that answered.
        photos: a row per photo: "photo" and its "labels", the most probable first, each with "label" and "probability".
        searches: a row per sentence: "sentence" and its "photos", the nearest first, each with "photo" and "cosine".
        rejected: photo -> why it could not be decoded.
        by: how the numbers came: "softmax" over all labels, "sigmoid" of each alone, "exported classifier", or "cosine".
    """

    model: str
    photos: list[Row]
    searches: list[Row]
    rejected: dict[str, str]
    by: str

    def to_json(self) -> dict[str, Any]:
        """One object."""
        return {
            "model": self.model, "by": self.by, "photos": self.photos, "searches": self.searches, "rejected": self.rejected,
        }  # fmt: skip


@dataclass(frozen=True)
class PushResult:
    """A student that was sent.

    Attributes:
        place: the folder, or the repository's address.
        files: their names there.
    """

    place: str
    files: list[str]

    def to_json(self) -> dict[str, Any]:
        """One object."""
        return {"place": self.place, "files": self.files}


@dataclass(frozen=True)
class ExportResult:
    """Exported files.

    Attributes:
        artifacts: a row per target and tower with good files, as in artifact.json.
        left_out: folder name -> what is wrong with it: it failed parity, was edited, or is of another student.
    """

    out: Path
    artifacts: list[Row]
    left_out: dict[str, str]

    @property
    def table(self) -> list[Row]:
        """What a reader wants of every file at a glance; names say what a number is of, since files have different ones."""
        return [
            {
                "file": _file(row),
                "MB": round(row["size_bytes"] / 1e6, 2),
                "min cosine": _rounded(row["parity"]["cosine_min"], 6),
                "probabilities off": _rounded(row["parity"]["probability_difference"], 5),
                "same top-1": _rounded(row["parity"]["top1_agreement"], 3),
                "R@1 points": _rounded(row["parity"].get("retrieval_drop"), 2, -1),
            }
            for row in self.artifacts
        ]

    def to_json(self) -> dict[str, Any]:
        """One object."""
        return {"out": str(self.out), "artifacts": self.artifacts, "left_out": self.left_out}


def _rounded(value: float | None, digits: int, sign: int = 1) -> float | None:
    return None if value is None else round(0.0 + sign * value, digits)


def _file(row: Row) -> str:
    """Where a tower lies; which one it is, of a file that holds several."""
    place = f"{row['target']}-{row['precision']}/{row['file']}"
    return place if row["file"].startswith(row["tower"]) else f"{place} ({row['tower']})"


@dataclass(frozen=True)
class ProfileResult:
    """Latencies: `profiles` has a row per file and device, each with its source."""

    profiles: list[Row]

    def to_json(self) -> dict[str, Any]:
        """One object."""
        return {"profiles": self.profiles}


@dataclass(frozen=True)
class CalibrateResult:
    """What calibrating a device gave: a row per anchor and tower, and how far predictions of unseen anchors lay off, in percent."""

    device: str
    target: str
    runtime: str
    anchors: list[Row]
    spread_percent: float

    def to_json(self) -> dict[str, Any]:
        """One object."""
        return {
            "device": self.device,
            "target": self.target,
            "runtime": self.runtime,
            "anchors": self.anchors,
            "spread_percent": self.spread_percent,
        }


@dataclass(frozen=True)
class ChooseResult:
    """Which students a budget allows: `choice.chosen` would be trained, the most promising first."""

    choice: "Choice"

    def to_json(self) -> dict[str, Any]:
        """What choice.json of a run holds."""
        return self.choice.to_json()


@dataclass(frozen=True)
class Rows:
    """A table, a row per thing: what `list`, `doctor` and `devices` return. Iterates over its rows."""

    rows: list[Row]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def to_json(self) -> list[Row]:
        """The rows."""
        return self.rows
