"""The plots of report.html as inline SVG: training curves and latencies; accuracy against cost is `distill.reporting.pareto`."""

import io
from typing import Any

COLOURS = {
    "teacher": "#6b7280",
    "student": "#2563eb",
    "plain student": "#d97706",
    "random start": "#059669",
    "no teacher": "#9333ea",
}


def svg_of(figure: Any) -> str:
    """The figure as inline SVG, the same for the same figure; it is closed."""
    import matplotlib.pyplot as plt

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def axes_of(width: float = 6.4, height: float = 3.4) -> Any:
    """A figure and its axes in the reports' style; sizes in inches."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {"svg.hashsalt": "distill", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    )
    return plt.subplots(figsize=(width, height))


def training_curves(curves: dict[str, list[dict[str, float]]]) -> str:
    """Loss over steps, each arm relative to its own first logged loss: the objectives differ, so do their scales."""
    figure, axes = axes_of()
    for name, rows in curves.items():
        if rows:
            axes.plot(
                [r["step"] for r in rows], [r["loss"] / rows[0]["loss"] for r in rows], label=name, color=COLOURS[name]
            )
    axes.set_xlabel("step")
    axes.set_ylabel("loss / first logged loss")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return svg_of(figure)


LOSSES = ("loss", "first", "last")
_NO_LOSS = {"step", "lr", "grad_norm", "loss", "samples_per_s", "data_wait_share", "memory_gib"}


def loss_rows(rows: list[dict[str, float]]) -> list[tuple[str, ...]]:
    """Each loss by name, in the order of `LOSSES`, of the first and the last logged step; the parts of one below it."""
    names = [name for name in (rows[-1] if rows else ()) if name not in _NO_LOSS]
    names.sort(key=lambda name: name.split("/"))
    return [(name, *("-" if name not in row else f"{row[name]:.4g}" for row in (rows[0], rows[-1]))) for name in names]


def losses(rows: list[dict[str, float]]) -> str:
    """Each loss of a student over steps, unweighted, as metrics.jsonl has them; "" where nothing was logged."""
    names = sorted({name for row in rows for name in row if "/" not in name} - _NO_LOSS)
    if not names:
        return ""
    figure, axes = axes_of()
    for name in names:
        known = [row for row in rows if name in row]
        axes.plot([row["step"] for row in known], [row[name] for row in known], label=name)
    axes.set_xlabel("step")
    axes.set_ylabel("loss, without its weight")
    axes.legend(frameon=False)
    return svg_of(figure)


PLACES = {"CPU": COLOURS["plain student"], "may leave the NPU": "#dc2626"}  # every other place is an NPU


def operations(profiles: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Per traced file: a bar per kind of operation, in another colour where the delegate left it to the CPU's own kernels."""
    words = "ms, traced (blue: delegated; orange: left to the runtime's own kernels)"
    return [
        {
            "title": f"{item['device']}, {item['runtime']}, {item['tower']} tower",
            "svg": _bars(
                rows[:12], [COLOURS["student" if row["delegated"] else "plain student"] for row in rows[:12]], words
            ),
        }
        for item in profiles
        if (rows := item.get("operations", []))
    ]


def predicted_operations(predicted: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Both towers of the first phone: a bar per kind of operation with its share of the prediction, coloured by where it runs."""
    words = (
        "ms, shares of a prediction, not measured (blue: NPU; orange: known to run on the CPU; red: may leave the NPU)"
    )
    first = [item for item in predicted if item["device"] == predicted[0]["device"] and item.get("operations")]
    towers = {item["tower"]: item for item in reversed(first)}  # the first precision of each
    return [
        {
            "title": f"{item['device']}, {item['precision']}, {tower} tower: {item['predicted_ms']:.3g} ms, {item['source']}",
            "svg": _bars(
                item["operations"][:12],
                [PLACES.get(row["place"], COLOURS["student"]) for row in item["operations"][:12]],
                words,
            ),
        }
        for tower, item in sorted(towers.items())
    ]


def _bars(rows: list[dict[str, Any]], colours: list[str], words: str) -> str:
    figure, axes = axes_of(height=0.6 + 0.3 * len(rows))
    axes.barh([f"{row['name']} ({row['count']})" for row in rows], [row["ms"] for row in rows], color=colours)
    axes.invert_yaxis()
    axes.set_xlabel(words, fontsize=7)
    return svg_of(figure)


def latency_bars(profiles: list[dict[str, Any]]) -> str:
    """p50 on this host per runtime and tower, with a whisker to p90; measured ones only."""
    measured = [item for item in profiles if item["source"] == "measured" and item["device"] == "host"]
    if not measured:
        return ""
    figure, axes = axes_of(height=0.5 + 0.35 * len(measured))
    names = [f"{item['runtime']}, {item['tower']}" for item in measured]
    values = [item["p50_ms"] for item in measured]
    whiskers = [max(0.0, item["p90_ms"] - item["p50_ms"]) for item in measured]
    axes.barh(names, values, xerr=[[0.0] * len(values), whiskers], color=COLOURS["student"], capsize=3)
    axes.invert_yaxis()
    axes.set_xlabel("ms per call on this host, p50 (whisker: p90)")
    return svg_of(figure)
