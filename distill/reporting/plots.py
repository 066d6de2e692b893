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
        axes.annotate(row["role"], (row["size_mb"], row[key]), xytext=(6, 4), textcoords="offset points")
    axes.set_xscale("log")
    axes.set_xlabel("size, MB of fp32 weights")
    axes.set_ylabel("zero-shot top-1, %" if key == "zero_shot_top1" else "text-to-image R@1, %")
    axes.set_ylim(bottom=0)
    return _svg(figure)


def latency_bars(profiles: list[dict[str, Any]]) -> str:
    """p50 on this host per runtime and tower, with a whisker to p90; measured ones only."""
    measured = [item for item in profiles if item["source"] == "measured"]
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
