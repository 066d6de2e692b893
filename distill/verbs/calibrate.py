"""`distill calibrate`: learn what operations cost on a device that is here, so that any model's latency there can be predicted."""

from distill.console import Console
from distill.core.strict import Settings
from distill.verbs.endings import ending_well
from distill.verbs.flags import OneOrMore, RecipeLike, recipe_of
from distill.verbs.results import CalibrateResult


def calibrate(
    device: str = "host",
    recipe: RecipeLike = None,
    *,
    target: str = "",
    name: str = "",
    runner: OneOrMore = (),
    settings: Settings = (),
    console: Console | None = None,
) -> CalibrateResult:
    """Export and time five anchor architectures with random weights, and keep what is learned in the user's cache.

    Args:
        device: "host", or another device of `distill devices` that can be timed.
        recipe: its profile table is read.
        target: what is exported and timed, with a precision ("onnx-w8a8") or without; "" = ONNX.
        name: what `--device` calls the profile; "" = the device's own name. A phone's name ("galaxy-s24") makes it replace what
            is published of that phone.
        runner: as of `distill.profile`.
        settings: as of `distill.run`.

    Raises:
        UsageError: no such device or target. DistillError: an anchor that cannot be exported or timed.
    """
    from export.latency.calibrate import calibrate as learn

    job, console = recipe_of(recipe, settings, runner=runner), console or Console()
    with ending_well(place="the cache"), console.stage("calibrate"):
        found = learn(
            device, job.profile, target=target, name=name, progress=lambda done, total, note: console.say(note)
        )
    return CalibrateResult(
        found.name,
        found.target,
        found.runtime,
        [
            {"anchor": anchor, "tower": tower, "measured ms": round(ms, 3), "predicted without it": round(said, 3)}
            for anchor, tower, ms, said in found.anchors
        ],
        round(100 * found.spread, 1),
    )
