"""What a caller can choose about exporting, timing and budgets: the tables `export`, `profile` and `choose` of a recipe.

Imports nothing heavy.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from distill.core.strict import Strict

NO_CLASSES = "none"  # of `ExportSettings.classes`: no classifier, where a run would make one by itself


class CoreMlSettings(Strict):
    """What an app may want of Core ML files."""

    minimum_ios: Literal[16, 17, 18] = Field(
        17, description="the oldest system that must load them; palettes of 16 values need 18"
    )
    batches: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="several numbers of inputs that one file takes at a call, for example [1, 4, 16]"
    )
    multifunction: bool = Field(
        False, description="all towers as functions of one package, which shares their weights; needs iOS 18"
    )


class OnnxSettings(Strict):
    """What an app may want of ONNX files."""

    ir_version: int = Field(
        9,
        ge=9,
        le=13,
        description="of the file's frame; 10 and later shut out older runtimes, and add nothing to these graphs",
    )


class ChipSettings(Strict):
    """Which accelerator files for one are compiled for."""

    ethos_u: str = Field(
        "ethos-u85-256",
        pattern=r"^ethos-u(55-(32|64|128|256)|65-(256|512)|85-(128|256|512|1024|2048))$",
        description="executorch-ethos-u: Arm's name of the accelerator and its multipliers",
    )
    vgf: str = Field(
        "TOSA-1.0+FP+INT",
        pattern=r"^TOSA-1\.0(\+\w+)+$",
        description="executorch-vgf: the profiles of Arm's TOSA that it has",
    )
    qualcomm: str = Field(
        "SM8650", pattern=r"^[A-Z]+\d+P?$", description="executorch-qnn: Qualcomm's name of the Snapdragon"
    )
    mediatek: Literal["mt6989", "mt6991", "mt6993"] = Field("mt6991", description="executorch-mediatek: the Dimensity")
    samsung: Literal["E9955", "E9965"] = Field("E9955", description="executorch-samsung: the Exynos")


class ExportSettings(Strict):
    """Which files are made, and the parity below which an export fails."""

    targets: tuple[str, ...] = Field(
        ("executorch-xnnpack", "coreml", "onnx"),
        description='names of distill list targets, with a precision behind ("coreml-w8") or without',
    )
    precisions: tuple[str, ...] = Field(
        (), description="for the targets that name none: every one of these; empty = each target's usual one"
    )
    input: Literal["float", "uint8"] = Field(
        "float",
        description="pixels as floats in [0, 1], or as the bytes of a decoded photo; of Core ML, as a picture",
    )
    batch: int = Field(1, ge=1, description="inputs that every file takes at a call")
    max_drop: float = Field(
        0.5,
        ge=0,
        description='with precision "auto": points of R@1 and top-1 that a file may lose to the eager student',
    )
    max_mb: float | None = Field(
        None,
        gt=0,
        description='with precision "auto": megabytes of both towers; the most exact that fits; None = the smallest',
    )
    auto_samples: int = Field(
        500, ge=16, description='with precision "auto": evaluation images that files are judged on'
    )
    min_cosine: float = Field(
        0.999, ge=-1, le=1, description="of every sample, for fp16; fp32 must come a hundred times nearer to 1"
    )
    min_cosine_quantized: float = Field(
        0.98, ge=-1, le=1, description="of every sample, for files with quantized weights or activations"
    )
    min_centred_cosine_quantized: float = Field(
        0.9,
        ge=-1,
        le=1,
        description="the mean over samples, after the mean embedding is taken off: what tells inputs apart",
    )
    classes: str | None = Field(
        None,
        description="a file with a label per line: every target then gets a classifier too, from a picture to their probabilities; "
        'None = the labels of a run that is judged by classes alone; "none" = no classifier',
    )
    templates: tuple[str, ...] = Field(
        ("a photo of a {}.",),
        min_length=1,
        description="the sentences that a label is put into; the embeddings of several are averaged",
    )
    max_probability_difference: float = Field(
        0.05,
        gt=0,
        le=1,
        description="of every label and picture, for classifiers in fp16; fp32 must come a hundred times nearer",
    )
    max_probability_difference_quantized: float = Field(
        0.25, gt=0, le=1, description="the same, for classifiers with quantized weights or activations"
    )
    min_top1_agreement: float = Field(
        0.9,
        ge=0,
        le=1,
        description="share of pictures whose most probable label must be the model's own, or as probable: within 0.01 and a tenth",
    )
    max_retrieval_drop: float = Field(
        2.0,
        ge=0,
        description="points of R@1 that a tower's file may lose, where its 95 % interval excludes 0; judged on 30 pairs and more",
    )
    parity_samples: int = Field(32, ge=1, description="images and captions that a file is compared with the model on")
    calibration_samples: int = Field(
        64, ge=1, description="real inputs that learned scales are taken from, other ones than parity is measured on"
    )
    golden_samples: int = Field(
        4,
        ge=0,
        description="of the parity samples, kept beside the files with the model's answers for an app's own test",
    )
    chips: ChipSettings = ChipSettings()
    coreml: CoreMlSettings = CoreMlSettings()
    onnx: OnnxSettings = OnnxSettings()
    jobs: int = Field(2, ge=1, description="targets converted side by side")


class ProfileSettings(Strict):
    """Latency on this host, and the phones asked for."""

    enabled: bool = Field(True, description="time the exported files at the end of a run")
    devices: tuple[str, ...] = Field(
        (), description="names of distill devices; empty = all, the absent ones with the reason"
    )
    threads: int = Field(1, ge=1, description="of the CPU, for every runtime alike")
    warmup_runs: int = Field(5, ge=1, description="calls before the timed ones, in every round")
    runs: int = Field(48, ge=1, description="timed calls per model, over all rounds")
    rounds: int = Field(3, ge=1, description="times that all models take turns, so that a busy minute hits all of them")
    runners: tuple[str, ...] = Field(
        (), description="paths of vendors' programs that time files on phones; what distill doctor names them"
    )
    apple_team: str = Field(
        "", description="your Apple developer team, which signs coremltools' model runner for an iPhone"
    )
    seconds: float = Field(
        600, gt=0, description="that one call of such a program may take, or that a browser is waited for"
    )
    web_runtime: str = Field("", description="folder of onnxruntime-web; empty = where npm puts it, see distill doctor")
    lan: bool = Field(False, description="with the device web: other devices of this network may open the page")
    port: int = Field(0, ge=0, le=65535, description="of that page; 0 = any free one")
    max_celsius: float = Field(35, description="of a phone's battery; above it, timing waits")
    cool_seconds: float = Field(300, ge=0, description="of waiting for a phone to cool down, before it is refused")


class LintSettings(Strict):
    """What is known against a student on its targets, looked for before it is trained."""

    enabled: bool = Field(True, description="look at the student before training; errors stop it")
    allow: tuple[str, ...] = Field((), description="rules that are known and accepted; see distill list rules")


_UNITS = {"ms": {"ms": 1.0, "s": 1e3, "us": 1e-3}, "MB": {"MB": 1.0, "GB": 1e3, "KB": 1e-3}}


def _amount(unit: Literal["ms", "MB"]) -> Any:
    """Reads "5ms", "0.5 GB" or a plain number as a number of `unit`; leaves everything else to the type's own check."""

    def read(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        said = re.fullmatch(r"\s*([\d.]+(?:e-?\d+)?)\s*([a-z]*)\s*", value, re.IGNORECASE)
        factors = {name.lower(): factor for name, factor in _UNITS[unit].items()}
        if said is None or (said[2] or unit).lower() not in factors:
            raise ValueError(f"write a number of {unit}, with a unit of {', '.join(_UNITS[unit])} or without")
        return float(said[1]) * factors[(said[2] or unit).lower()]

    return BeforeValidator(read)


NO_LIMIT = "none"  # takes a limit of a recipe away, which no value in a call could else do
_Limit = BeforeValidator(lambda value: None if value == NO_LIMIT else value)
Milliseconds = Annotated[Annotated[float, _amount("ms"), Field(gt=0)] | None, _Limit]
Megabytes = Annotated[Annotated[float, _amount("MB"), Field(gt=0)] | None, _Limit]


class ChooseSettings(Strict):
    """A budget, by which the student is chosen before anything is trained; without one the student is the named one."""

    max_latency: Milliseconds = Field(
        None, description='of both towers together on every device, as 5 or "5ms"; batch 1; None or "none" = no limit'
    )
    max_size: Megabytes = Field(None, description='of both exported files together, as 40 or "40MB"')
    max_memory: Megabytes = Field(
        None, description="of both towers' weights and the largest set of activations that is alive at once"
    )
    devices: tuple[str, ...] = Field(
        (), description="phones, chips or calibrated devices that must all keep the latency; empty = profile.devices"
    )
    towers: Literal["both", "image", "text"] = Field(
        "both", description="which towers the latency is of: an app whose texts are embedded beforehand has one"
    )
    bound: Literal["high", "middle"] = Field(
        "high", description="what must keep the latency: the upper end of the 90 % interval, or the prediction itself"
    )
    target: str | None = Field(
        None, description="whose files are counted; None = the device's own, else the first of export.targets"
    )
    students: tuple[str, ...] = Field(
        (), description="families to search; empty = student.name where it is set, else all that read the data's words"
    )
    image_sizes: tuple[Annotated[int, Field(ge=16)], ...] = Field(
        (), description="pixels; empty = each family's own, 7/8, 3/4 and 5/8 of it"
    )
    text_layers: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="text depths; empty = each family's own, 3/4 and 1/2 of it"
    )
    precisions: tuple[str, ...] = Field(
        (), description="of the files; empty = export.precisions, else those whose activations stay floats"
    )
    train: int = Field(
        1, ge=1, description="how many of the most promising are trained; the one that is judged best is kept"
    )

    @property
    def asked(self) -> bool:
        """Whether there is a budget."""
        return any(limit is not None for limit in (self.max_latency, self.max_size, self.max_memory))
