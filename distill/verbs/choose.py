"""`distill choose`: which students a budget allows, before anything is trained."""

from distill.console import Console
from distill.core.strict import Settings
from distill.verbs.flags import AnyPath, OneOrMore, RecipeLike, recipe_of
from distill.verbs.results import ChooseResult


def choose(
    recipe: RecipeLike = None,
    *,
    student: str | None = None,
    data: AnyPath | None = None,
    target: OneOrMore = (),
    precision: OneOrMore = (),
    device: OneOrMore = (),
    max_latency: float | str | None = None,
    max_size: float | str | None = None,
    max_memory: float | str | None = None,
    settings: Settings = (),
    console: Console | None = None,
) -> ChooseResult:
    """What `distill run` with the same budget would train, with the candidates that lost and why; nothing is written.

    Args:
        recipe: as of `distill.run`; its `choose` table may hold the budget.
        student: search this family alone.
        data: decides which students read its words: those of the embedded data, or all others.
        target, precision: as of `distill.run`; what files are counted in.
        device: a phone or chip by name, or one that `distill calibrate` has measured; several must all keep the latency.
        max_latency: milliseconds of both towers, or "5ms".
        max_size, max_memory: megabytes, or "40MB".

    Raises UsageError for an unknown name, a device whose latencies nothing is known of, and a budget that nothing meets.
    """
    from distill.stages.latency.choose import choose as chosen
    from distill.stages.latency.choose import without_errors

    job = recipe_of(
        recipe, settings, student=student, data=data, target=target, precision=precision, device=device,
        max_latency=max_latency, max_size=max_size, max_memory=max_memory,
    )  # fmt: skip
    with (console or Console()).stage("choose a student") as advance:
        return ChooseResult(without_errors(chosen(job, advance)))
