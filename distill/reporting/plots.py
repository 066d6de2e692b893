"""The plots of report.html as inline SVG: training curves, accuracy against size, latency of the exported files."""

import io
from typing import Any

COLOURS = {
    "teacher": "#6b7280",
    "student": "#2563eb",
    "plain student": "#d97706",
    "random start": "#059669",
    "no teacher": "#9333ea",
}


def _svg(figure: Any) -> str:
    import matplotlib.pyplot as plt

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _axes(width: float = 6.4, height: float = 3.4) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {"svg.hashsalt": "distill", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    )
    return plt.subplots(figsize=(width, height))


def training_curves(curves: dict[str, list[dict[str, float]]]) -> str:
    """Loss over steps, each arm relative to its own first logged loss: the objectives differ, so do their scales."""
    figure, axes = _axes()
    for name, rows in curves.items():
        if rows:
            axes.plot(
                [r["step"] for r in rows], [r["loss"] / rows[0]["loss"] for r in rows], label=name, color=COLOURS[name]
            )
    axes.set_xlabel("step")
    axes.set_ylabel("loss / first logged loss")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return _svg(figure)


def pareto(table: list[dict[str, Any]]) -> str:
    """Accuracy (zero-shot, or text-to-image R@1 where there is none) against size; empty where a figure is missing."""
    key = "zero_shot_top1" if all(row["zero_shot_top1"] is not None for row in table) else "t2i_r1"
    points = [row for row in table if row["size_mb"] is not None and row[key] is not None]
    if not points:
        return ""
    figure, axes = _axes()
    for row in points:
        axes.scatter(row["size_mb"], row[key], color=COLOURS[row["role"]], s=50)
        words = f"{row['role']}: {row[key]:.1f} at {row['size_mb']:.3g} MB"
        axes.annotate(words, (row["size_mb"], row[key]), xytext=(6, 4), textcoords="offset points")
    _megabytes(axes, [row["size_mb"] for row in points])
    axes.set_ylabel("zero-shot top-1, %" if key == "zero_shot_top1" else "text-to-image R@1, %")
    axes.set_ylim(bottom=0)
    return _svg(figure)


def _megabytes(axes: Any, sizes: list[float]) -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5 of each decade, and room for the words at its right."""
    import math

    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_xscale("log")
    low, high = min(sizes) / 1.5, max(sizes) * 3
    ticks = [
        m * 10.0**e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) for m in (1, 2, 5)
    ]
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("size, MB of fp32 weights (logarithmic)")


def operations(profiles: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Per traced file: a bar per kind of operation, in another colour where the delegate left it to the CPU's own kernels."""
    found = []
    for item in profiles:
        rows = item.get("operations", [])[:12]
        if not rows:
            continue
        figure, axes = _axes(height=0.6 + 0.3 * len(rows))
        colours = [COLOURS["student" if row["delegated"] else "plain student"] for row in rows]
        axes.barh([f"{row['name']} ({row['count']})" for row in rows], [row["ms"] for row in rows], color=colours)
        axes.invert_yaxis()
        axes.set_xlabel("ms, traced (blue: delegated; orange: left to the runtime's own kernels)")
        found.append({"title": f"{item['device']}, {item['runtime']}, {item['tower']} tower", "svg": _svg(figure)})
    return found


def latency_bars(profiles: list[dict[str, Any]]) -> str:
    """p50 on this host per runtime and tower, with a whisker to p90; measured ones only."""
    measured = [item for item in profiles if item["source"] == "measured" and item["device"] == "host"]
    if not measured:
        return ""
    figure, axes = _axes(height=0.5 + 0.35 * len(measured))
    names = [f"{item['runtime']}, {item['tower']}" for item in measured]
    values = [item["p50_ms"] for item in measured]
    whiskers = [max(0.0, item["p90_ms"] - item["p50_ms"]) for item in measured]
    axes.barh(names, values, xerr=[[0.0] * len(values), whiskers], color=COLOURS["student"], capsize=3)
    axes.invert_yaxis()
    axes.set_xlabel("ms per call on this host, p50 (whisker: p90)")
    return _svg(figure)
