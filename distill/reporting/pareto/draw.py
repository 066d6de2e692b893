"""Plots of accuracy against cost, as SVG for reports and as files."""

import math
from pathlib import Path
from typing import Any

from distill.reporting.pareto.fronts import METRICS, Front
from distill.reporting.plots import COLOURS, axes_of, svg_of

MARKERS = {
    "measured": "o",
    "counted": "o",
    "measured (published)": "s",
    "transferred": "D",
    "predicted": "^",
    "uncalibrated": "v",
}
LINES = 4  # published models whose costs are drawn, the nearest to the points


def title(front: Front) -> str:
    """What the plot is of."""
    how = {"counted": "", "measured": "measured ", "predicted": "predicted "}[front.axis.kind]
    return "Accuracy against size" if front.axis.name == "size" else f"Accuracy against {how}latency: {front.axis.name}"


def front_figure(front: Front, references: list[dict[str, Any]]) -> Any:
    """A matplotlib figure: points with their intervals, the front as a line, published models' costs as dotted lines."""
    figure, axes = axes_of()
    for point in front.points:
        colour = COLOURS.get(point.role, COLOURS["student"])
        marker = MARKERS.get(point.source.partition(" and ")[0].partition(",")[0], "o")
        if point.low is not None and point.high is not None:
            axes.plot([point.low, point.high], [point.accuracy] * 2, color=colour, linewidth=1, alpha=0.6)
        face = colour if point.front else "none"
        axes.scatter(point.cost, point.accuracy, facecolors=face, edgecolors=colour, marker=marker, s=50, zorder=3)
    best = sorted((point.cost, point.accuracy) for point in front.points if point.front)
    axes.plot(*zip(*best, strict=True), color="#111827", linewidth=1, drawstyle="steps-post", zorder=2)
    ends = [value for point in front.points for value in (point.cost, point.low, point.high) if value]
    near = sorted(references, key=lambda one: min(abs(math.log(one["cost"] / end)) for end in ends))[:LINES]
    _lines(axes, near)
    _logarithmic(axes, [*ends, *(one["cost"] for one in near)])
    axes.set_xlabel(_label(front))
    axes.set_ylabel(f"{METRICS[front.metric]}, %")
    axes.set_ylim(bottom=0)
    _words(axes, front)
    return figure


def _lines(axes: Any, references: list[dict[str, Any]]) -> None:
    """A dotted line per published cost; models that cost nearly the same share one."""
    shared: list[tuple[float, list[str]]] = []
    for one in sorted(references, key=lambda one: float(one["cost"])):
        if shared and one["cost"] < shared[-1][0] * 1.05:
            shared[-1][1].append(one["name"])
        else:
            shared.append((one["cost"], [one["name"]]))
    for cost, names in shared:
        axes.axvline(cost, color="#9ca3af", linewidth=1, linestyle=":")
        axes.annotate(
            ", ".join(names), (cost, 0.02), xycoords=("data", "axes fraction"), rotation=90, fontsize=7, color="#6b7280",
            ha="right", va="bottom",
        )  # fmt: skip


def _words(axes: Any, front: Front) -> None:
    """Each point's name beside it, with the run's own where there are several; one for points that are the same."""
    several = len({point.run for point in front.points}) > 1
    named: dict[tuple[str, float, float], list[str]] = {}
    for point in front.points:
        named.setdefault((point.role, point.cost, point.accuracy), []).append(Path(point.run).name)
    beside = []
    for (role, cost, accuracy), runs in named.items():
        name = f"{', '.join(runs)}: {role}" if several else role
        beside.append((cost, accuracy, f"{name}: {accuracy:.1f} at {cost:.3g} {front.axis.unit}"))
    _annotate(axes, beside, 8)


def _annotate(axes: Any, beside: list[tuple[float, float, str]], size: int) -> None:
    """Words at the right of points, moved up or down until none lies on another; the axes' limits are final by then.

    Args:
        beside: (x, y, words) of each point.
        size: of the letters, in points.
    """
    taken: list[tuple[float, float, float]] = []  # left, right and base of words, in points of the page
    points = 72 / axes.figure.dpi
    for x, y, words in sorted(beside, key=lambda one: -one[1]):
        left, base = axes.transData.transform((x, y)) * points
        right = left + 0.6 * size * len(words)
        steps = sorted((step * (size + 1) for step in range(-6, 7)), key=lambda step: (abs(step - 4), step))
        down = next(
            (
                step
                for step in steps
                if not any(
                    left < end and right > begin and abs(base + step - other) < size + 1 for begin, end, other in taken
                )
            ),
            steps[0],
        )
        taken.append((left, right, base + down))
        axes.annotate(words, (x, y), xytext=(6, down), textcoords="offset points", fontsize=size)


def _label(front: Front) -> str:
    if front.axis.unit == "MB":
        return "size, MB of fp32 weights (logarithmic)"
    sources = dict.fromkeys(point.source.partition(",")[0] for point in front.points)
    return f"ms for a picture and a sentence, {front.axis.name}: {', '.join(sources)} (logarithmic)"


def published_figure(points: list[dict[str, Any]], device: str, runs: list[dict[str, Any]]) -> Any:
    """ImageNet zero-shot of papers against latency on a phone; runs that were judged on ImageNet stand among them.

    Args:
        points: as of `references.references`.
        runs: {"name", "cost", "accuracy"} of such runs.
    """
    figure, axes = axes_of()
    for one in points:
        axes.scatter(one["cost"], one["imagenet"], color=COLOURS["teacher"], marker="s", s=25)
    for one in runs:
        axes.scatter(one["cost"], one["accuracy"], color=COLOURS["student"], s=50)
    _logarithmic(axes, [one["cost"] for one in (*points, *runs)])
    axes.set_xlabel(f"ms for a picture and a sentence, {device} (logarithmic)")
    axes.set_ylabel("ImageNet zero-shot top-1, %")
    papers = [(one["cost"], one["imagenet"], one["name"]) for one in points]
    _annotate(axes, [*papers, *((one["cost"], one["accuracy"], one["name"]) for one in runs)], 7)
    return figure


def write(figure: Any, path: Path) -> None:
    """The figure beside `path` as .svg and .png; it is closed."""
    import io

    from distill.core import atomic

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160, bbox_inches="tight")
    atomic.write_bytes(path.with_suffix(".png"), buffer.getvalue())
    atomic.write_text(path.with_suffix(".svg"), svg_of(figure))


def _logarithmic(axes: Any, values: list[float]) -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5 of each decade, and room for the words at its right."""
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_xscale("log")
    low, high = min(values) / 1.5, max(values) * 3
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**e for e in decades for m in (1, 2, 5)]
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
