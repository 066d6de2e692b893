"""What a budget is counted on: devices with their latencies, the format of the files, and the precisions that are searched.

Left out: the candidates (`candidates`), and the choice among them (`choose`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from distill.core.errors import UsageError
from distill.recipe import Recipe
from distill.recipe.said import is_set
from distill.stages.latency.candidates import Figure, Timer

UNIT_TARGETS = {"ANE": "coreml", "HTP": "onnx-qnn", "CPU": "executorch-xnnpack"}
FLOATS = ("fp32", "fp16", "w8", "p6")  # precisions whose loss is small enough to be taken without having measured it


def devices_of(recipe: Recipe) -> tuple[str, ...]:
    """The devices that must keep the latency. Raises UsageError where a latency is asked for and no device is named."""
    settings = recipe.choose
    named = tuple(dict.fromkeys(settings.devices or recipe.profile.devices))
    if settings.max_latency is None:
        return ()
    if not named:
        raise UsageError(
            f"On which device may the student take {settings.max_latency:g} ms? Name a phone or a chip: --device "
            "iphone-12-pro-max (distill list devices), or a device that distill calibrate has measured: --device host."
        )
    return named


def timer_of(device: str) -> Timer:
    """The timer of a device that was calibrated here, or of a phone by name; an attached one must be calibrated first."""
    from export.device import DEVICES
    from export.latency.anchors import calibrations
    from export.latency.devices import find_chip

    if device not in {one.name for one in calibrations()}:
        if device in DEVICES:
            raise UsageError(
                f"Nothing is known yet of how long students take on {device!r}. Time the anchors there once: distill calibrate "
                f"--device {device}"
            )
        find_chip(device)
    return device_timer(device)


def targets_of(recipe: Recipe, devices: Sequence[str]) -> tuple[str, ...]:
    """The names of the targets whose files are counted."""
    from export.latency.anchors import calibrations
    from export.latency.devices import find_chip
    from export.target import get_target

    if recipe.choose.target:
        return (get_target(recipe.choose.target).name,)
    calibrated = {one.name: one.target for one in reversed(calibrations())}
    found = [
        get_target(calibrated[device]).name
        if device in calibrated
        else UNIT_TARGETS.get(find_chip(device).unit, "onnx")
        for device in devices
    ]
    return tuple(dict.fromkeys(found or [get_target(recipe.export.targets[0]).name]))


def precisions_of(recipe: Recipe, devices: Sequence[str], targets: Sequence[str]) -> tuple[str, ...]:
    """What is searched: what the recipe says, what a device was calibrated for, else what every target has in floats."""
    from export.latency.anchors import calibrations
    from export.latency.devices import find_chip
    from export.target import chosen_targets, get_target

    if wanted := recipe.choose.precisions or (recipe.export.precisions if is_set(recipe, "export.precisions") else ()):
        names = [get_target(target).at(one).precision.name for target in targets for one in wanted if one != "auto"]
        if names:
            return tuple(dict.fromkeys(names))
    if is_set(recipe, "export.targets"):
        named = [one for one in chosen_targets(recipe.export.targets) if one.name in targets and not one.auto]
        if spelled := [one.precision.name for one in named if one.folder in recipe.export.targets]:
            return tuple(dict.fromkeys(spelled))
    calibrated = {one.name: one.target for one in reversed(calibrations())}
    if own := [get_target(calibrated[device]).precision.name for device in devices if device in calibrated]:
        return tuple(dict.fromkeys(own))
    shared = [
        name for name in get_target(targets[0]).precisions if all(name in get_target(t).precisions for t in targets)
    ]
    integer = any(not find_chip(device).fp16 for device in devices)
    kind = [name for name in shared if (name not in FLOATS if integer else name in FLOATS)]
    if "fp16" in kind:  # half as large, no slower, and no less accurate by the prior
        kind = [name for name in kind if name != "fp32"]
    return tuple(kind or shared[:1])


def with_figures(precisions: Sequence[str], timers: Mapping[str, Timer]) -> tuple[str, ...]:
    """The precisions in which every device's latencies are known. Raises UsageError where there is none."""
    from export.latency.graph.features import published_features

    probe = published_features()["timm:resnet50@224"]
    wrong: dict[str, str] = {}
    for precision in precisions:
        for device, timer in timers.items():
            try:
                timer({**probe}, precision)
            except UsageError as error:
                wrong[precision] = f"{str(error).rstrip('.')}.{_instead(device)}"
    if len(wrong) == len(precisions):
        raise UsageError(f"No budget can be kept where latencies are guesses: {next(iter(wrong.values()))}")
    return tuple(precision for precision in precisions if precision not in wrong)


def _instead(device: str) -> str:
    """The nearest device with figures, in a sentence."""
    from export.latency.devices import CHIPS, find_chip
    from export.latency.rows import calibration

    chip = find_chip(device)
    while chip.of and calibration(chip).startswith("uncalibrated"):
        chip = CHIPS[chip.of]
    if chip.name == find_chip(device).name:
        return " Calibrate it where it is attached: distill calibrate."
    name = (chip.phones or (chip.name,))[0]
    return f" The nearest device with published latencies is {name} ({chip.name}); or calibrate this one where it is attached."


def device_timer(device: str) -> Timer:
    """What tells latencies on a phone or chip by name, or on a device that was calibrated here.

    Raises UsageError for a device that is neither, or whose figures are uncalibrated.
    """
    from export.latency.anchors import calibrations
    from export.latency.graph.features import known_as
    from export.latency.predictor import published_predictor
    from export.latency.towers import SOURCES

    if own := next((one for one in calibrations() if one.name == device), None):
        return lambda operations, precision: Figure(*own.predict(operations), SOURCES["measured anchors"])
    predictor = published_predictor()

    def timed(operations: Any, precision: str) -> Figure:
        said = predictor.predict(device, known_as(operations), operations, precision=precision)
        if said.source == "uncalibrated":
            raise UsageError(f"uncalibrated on {device} in {precision}: {said.note}")
        return Figure(said.ms, said.low, said.high, SOURCES[said.source])

    return timed
