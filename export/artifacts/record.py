"""What is known of an exported file: `ExportArtifact`, `ParityReport`, `Operations`, `LatencyProfile`. Imports no torch.

Left out: the folder that holds the files and these records (`export.artifacts.folder`).
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Tower = Literal["image", "text", "classifier"]  # what one exported file holds
PAIR: tuple[Tower, ...] = ("image", "text")  # the two that embed
TOWERS: tuple[Tower, ...] = (*PAIR, "classifier")  # all, in the order of every list


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
