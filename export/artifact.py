"""What an export leaves behind: `ExportArtifact`, `ParityReport`, `LatencyProfile`, and the folder that holds them.

The one writer and reader of exported folders, and the one place for the names in them. Imports no torch.
"""

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from distill.core import atomic
from distill.core.clip.folder import CONFIG_FILE, MERGES_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from distill.core.errors import UsageError

Tower = Literal["image", "text", "classifier"]  # what one exported file holds
PAIR: tuple[Tower, ...] = ("image", "text")  # the two that embed
TOWERS: tuple[Tower, ...] = (*PAIR, "classifier")  # all, in the order of every list

# Names in an export: <target>-<precision>/ for each target, with its towers' files and, last, the artifact's; logs/.
ARTIFACT_FILE = "artifact.json"
LOGS = "logs"
FAILED_PARITY = ".failed-parity"  # appended to the folder's name
STUDENT_KEY = "student_sha256"  # of an artifact's provenance, see `student_digest`
IMAGE_MODEL_FILE = "config.json"  # of a timm model alone, in place of CONFIG_FILE
# What decides a student's embeddings.
STUDENT_FILES = (WEIGHTS_FILE, CONFIG_FILE, IMAGE_MODEL_FILE, MERGES_FILE, TOKENIZER_FILE)


def tower_file(tower: Tower, suffix: str) -> str:
    """Name of a tower's file or package in its folder; `suffix` with the dot."""
    return f"{tower}{suffix}"


def profile_file(device: str) -> str:
    """Name of the file in an exported folder that holds its latencies on a device."""
    return f"profile-{''.join(c if c.isalnum() or c in '._-' else '-' for c in device)}.json"


@dataclass(frozen=True)
class ParityReport:
    """How near the embeddings of an exported file are to the eager student's on the same inputs.

    Attributes:
        checked_by: how, in words for the report ("executorch runtime", "onnxruntime", "MIL program run in torch, not
            Core ML itself", ...), or "not checked: <reason>".
        cosine_min, cosine_mean: over samples, between exported and eager embeddings; None when not checked.
        top1_agreement: share of samples whose nearest embedding of the other tower is the same; None when not checked.
        samples: how many real images or captions were run.
        cosine_p1: the first percentile over samples.
        centred_cosine_min, centred_cosine_mean: as the plain ones, after the mean of the eager embeddings is taken off both.
            What tells inputs apart is left, which a plain cosine hides where all embeddings point the same way; None where
            there is one sample, or all are the same.
        snr_db: decibels, of what tells the eager embeddings apart over what the file adds to them; None as before.
        probability_difference: of a classifier, the largest absolute difference between a probability of the file and the eager
            model's; None for other towers, and when not checked. `top1_agreement` is then the share of images with the same
            most probable label, or one that the eager model holds for as probable, within 0.01 and a tenth.
        retrieval_drop, retrieval_drop_low, retrieval_drop_high: points of recall at 1 that are lost with this tower's file beside
            the eager other tower, and the ends of their 95 % interval, see `export.towers.retrieval`; of prompts of classes, of
            top-1. None where it is not known which caption belongs to which image.
        retrieval_pairs: on how many pairs.
        diverges: of a file that agrees poorly, the operation at which its numbers first leave those of fp32; "" else.
        order_cosine_min: the smallest cosine between the file's embeddings and those of the same program where sums are
            added in other orders; None = not measured.
        fragile: whether that is below the bar: what the file says then hangs on the order of its sums, and a phone has one
            of its own.
    """

    checked_by: str
    cosine_min: float | None
    cosine_mean: float | None
    top1_agreement: float | None
    samples: int
    order_cosine_min: float | None = None
    fragile: bool = False
    cosine_p1: float | None = None
    centred_cosine_min: float | None = None
    centred_cosine_mean: float | None = None
    snr_db: float | None = None
    probability_difference: float | None = None
    retrieval_drop: float | None = None
    retrieval_drop_low: float | None = None
    retrieval_drop_high: float | None = None
    retrieval_pairs: int = 0
    diverges: str = ""

    @property
    def checked(self) -> bool:
        """Whether the file was run and compared."""
        return self.cosine_min is not None or self.probability_difference is not None


@dataclass(frozen=True)
class Operations:
    """What an exported file is made of.

    Attributes:
        counts: operation -> how many, in the format's own words.
        delegated: how many of them a delegate takes; None where the format has one runtime for all.
        subgraphs: in how many pieces the delegate takes them: each end of a piece costs time.
        left: operation -> how many are left to the runtime's own kernels.
        why: operation -> the reason, where it is known.
    """

    counts: dict[str, int] = field(default_factory=dict)
    delegated: int | None = None
    subgraphs: int | None = None
    left: dict[str, int] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)


LatencySource = Literal[
    "measured",
    "measured (host times)",
    "measured (browser)",
    "measured (published)",
    "transferred",
    "measured anchors",
    "predicted",
    "uncalibrated",
    "not measured",
]


@dataclass(frozen=True)
class LatencyProfile:
    """One latency, with its source. `measured` carries figures; `not measured` carries none, only the reason.

    Attributes:
        precision: of the timed file; "fp32" for the eager student.
        source: "measured" | "measured (host times)" (through adb, on this computer) |
            "measured (browser)" | "measured (published)" (by others, of the same architecture) | "transferred" | "measured anchors"
            (predicted for a device calibrated here) | "predicted" | "uncalibrated" | "not measured".
        p50_ms, p90_ms, p99_ms: milliseconds per call.
        predicted_ms, low_ms, high_ms: of a latency that was not measured here, and the ends of its 90 % interval; never beside
            the measured ones.
        threads: intra-op threads of the runtime.
        batch: inputs at a call.
        runs, warmup_runs, rounds: how it was measured; rounds of the compared runtimes alternate.
        note: what the reader must know ("no phone is attached").
        rounds_p50_ms: of each round: how far they lie apart is how far the figure can be trusted.
        load_ms: until the model was ready; None = not told.
        peak_mb: of the process that ran it; None = not told.
        output_cosine: of the device's embedding to the golden one; None = not compared.
        conditions: of a phone: its system, and its heat, battery and screen before and after.
        operations: milliseconds per kind of operation, the most expensive first: traced where the runner can, else shares of a
            prediction, with the place where each is known to run.
    """

    device: str
    runtime: str
    tower: str
    precision: str
    source: LatencySource
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    predicted_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    threads: int | None = None
    batch: int = 1
    runs: int = 0
    warmup_runs: int = 0
    rounds: int = 0
    note: str = ""
    rounds_p50_ms: tuple[float, ...] = ()
    load_ms: float | None = None
    peak_mb: float | None = None
    output_cosine: float | None = None
    conditions: dict[str, Any] = field(default_factory=dict)
    operations: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class ExportArtifact:
    """One exported tower.

    Attributes:
        target, precision, tower: names as of `export.target`; one of `TOWERS`.
        file: path relative to the artifact's folder; of a package with a function per tower, the same for all.
        sha256: of the file (of the sorted content hashes for a package folder, ids made at random left out).
        inputs: name -> shape and dtype, for example {"pixels": "float32[1,3,64,64] RGB in [0, 1]"}.
        options: the choices of the target that the file was made with, as `export.target.Target` has them.
        output: name, shape, meaning.
        versions: package -> version that made it.
        licence, provenance: carried from student, teachers and data.
        preprocess, tokenizer, kind, logit_scale, logit_bias, classes: what an app needs to turn a photo and captions into
            probabilities, see `export.app.kit.AppKit`; of the model, so the same for all towers.
        runs_on: the runtime, and the oldest systems that have it, in words.
        operations: what the file is made of, and what a delegate left.
        beside: files in the folder that its towers share (tokenizer, golden samples) -> hex SHA-256.
        towers: all that the folder holds, this one among them.
    """

    target: str
    precision: str
    tower: Tower
    file: str
    size_bytes: int
    sha256: str
    inputs: dict[str, str]
    output: dict[str, str]
    seconds: float
    versions: dict[str, str]
    parity: ParityReport
    licence: str = "unknown"
    provenance: dict[str, Any] = field(default_factory=dict)
    preprocess: dict[str, Any] = field(default_factory=dict)
    tokenizer: dict[str, Any] = field(default_factory=dict)
    kind: str = "softmax"
    logit_scale: float | None = None
    logit_bias: float | None = None
    classes: dict[str, Any] = field(default_factory=dict)
    runs_on: str = ""
    operations: Operations = field(default_factory=Operations)
    beside: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    towers: tuple[Tower, ...] = PAIR

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "ExportArtifact":
        """The artifact that `to_json` wrote."""
        nested = {"parity": ParityReport(**value["parity"]), "operations": Operations(**value.get("operations", {}))}
        return cls(**{**value, **nested, "towers": tuple(value.get("towers", PAIR))})


def hash_path(path: Path) -> str:
    """Hex SHA-256 of a file; of a package folder, over its sorted relative paths and their contents' hashes."""
    if path.is_file():
        return atomic.sha256_file(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{atomic.sha256_file(file)}\n".encode())
    return digest.hexdigest()


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a package folder."""
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def write_artifacts(folder: Path, artifacts: list[ExportArtifact]) -> None:
    """Write artifact.json, which makes the folder whole."""
    atomic.write_json(folder / ARTIFACT_FILE, [artifact.to_json() for artifact in artifacts])


@dataclass(frozen=True)
class Examined:
    """An exported folder and what is wrong with it: "" when its files are whole, passed, and are the student's."""

    folder: Path
    artifacts: list[ExportArtifact]
    wrong: str


def student_digest(student_dir: Path) -> str:
    """Hex SHA-256 over the files that decide what a student computes. Raises UsageError without weights."""
    if not (student_dir / WEIGHTS_FILE).is_file():
        raise UsageError(
            f"{str(student_dir)!r} is not a student folder: {WEIGHTS_FILE} is missing. Give the student/ of a run."
        )
    present = [name for name in STUDENT_FILES if (student_dir / name).is_file()]
    return atomic.sha256_json({name: atomic.sha256_file(student_dir / name) for name in present})


def examine(export: Path, student_dir: Path) -> list[Examined]:
    """Every exported folder in `export`, sorted by name, read and checked against its own record and the student.

    A file is taken for good only when its hash is the recorded one and its record names the student in `student_dir`: it
    may have been edited, copied from elsewhere, or made before the student was trained again.
    """
    student = student_digest(student_dir) if (student_dir / WEIGHTS_FILE).is_file() else ""
    folders = sorted(file.parent for file in export.glob(f"*/{ARTIFACT_FILE}"))
    return [_examine(folder, student) for folder in folders if not folder.name.startswith(atomic.PARTIAL)]


def examine_alone(folder: Path) -> Examined:
    """One exported folder checked against its own record, wherever it lies; whose student it is of nobody asks."""
    return _examine(folder, None)


def student_of(artifacts: list[ExportArtifact], student_dir: Path) -> bool:
    """Whether the student in `student_dir` is there and is the one that the files were made from."""
    if not (student_dir / WEIGHTS_FILE).is_file():
        return False
    student = student_digest(student_dir)
    return all(artifact.provenance.get(STUDENT_KEY) == student for artifact in artifacts)


def _examine(folder: Path, student: str | None) -> Examined:
    try:
        artifacts = read_artifacts(folder)
    except UsageError:
        return Examined(folder, [], f"its {ARTIFACT_FILE} cannot be read: export again")
    if folder.name.endswith(FAILED_PARITY):
        return Examined(
            folder, artifacts, "failed parity: it does not say what the student says, and is kept to look at"
        )
    if not _all_there(artifacts):
        return Examined(folder, artifacts, "a tower is missing: export again")
    changed = changed_files(folder, artifacts)
    if changed:
        return Examined(folder, artifacts, f"{changed[0]} is missing or not the file that was checked: export again")
    if student is not None and any(artifact.provenance.get(STUDENT_KEY) != student for artifact in artifacts):
        return Examined(folder, artifacts, "it is of another student than the one in this run: export again")
    return Examined(folder, artifacts, "")


def changed_files(folder: Path, artifacts: list[ExportArtifact]) -> list[str]:
    """Names of the files that are missing or are not what their records say, the towers' first."""
    recorded = {artifact.file: artifact.sha256 for artifact in artifacts}
    for artifact in artifacts:
        recorded |= artifact.beside
    return [
        name for name, digest in recorded.items() if not (folder / name).exists() or hash_path(folder / name) != digest
    ]


def read_artifacts(folder: Path) -> list[ExportArtifact]:
    """The artifacts of all towers in an exported folder. Raises UsageError when it is none or is damaged."""
    try:
        return [ExportArtifact.from_json(value) for value in atomic.read_json(folder / ARTIFACT_FILE)]
    except FileNotFoundError:
        raise UsageError(
            f"{str(folder)!r} is not an exported folder: {ARTIFACT_FILE} is missing. Give export/<target>-<precision>, "
            "or export again."
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{str(folder / ARTIFACT_FILE)!r} cannot be read ({error}). Export again.") from None


def read_if_whole(folder: Path, request: str) -> list[ExportArtifact] | None:
    """The artifacts of a folder that answers the same request with unchanged files, else None.

    Args:
        request: hash of everything the export depends on, as stored in each artifact's provenance.
    """
    if not (folder / ARTIFACT_FILE).is_file():
        return None
    try:
        artifacts = read_artifacts(folder)
    except UsageError:
        return None
    if any(artifact.provenance.get("export_request") != request for artifact in artifacts):
        return None
    if changed_files(folder, artifacts):
        return None
    return artifacts if _all_there(artifacts) else None


def _all_there(artifacts: list[ExportArtifact]) -> bool:
    """Whether the record has every tower that it says its folder holds."""
    return bool(artifacts) and [artifact.tower for artifact in artifacts] == list(artifacts[0].towers)
