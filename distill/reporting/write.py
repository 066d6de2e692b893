"""Renders the two reports from the facts of a run."""

from pathlib import Path
from typing import Any

from distill.core import atomic
from distill.reporting import arms, phones, plots, table
from distill.reporting.pareto import choices, draw
from distill.reporting.pareto.fronts import fronts, primary
from distill.reporting.pareto.references import references
from distill.reporting.searches import searches
from distill.reporting.summary import summary
from distill.run_folder import RunFolder
from export.app.brief import COLUMNS as APP

NOTE = (
    "Filled: on the front, nothing here is as cheap and as good. Dotted: what published models cost; their accuracies are of other "
    "data. Bars: 90 % intervals. Measured and predicted latencies never share a plot."
)


def environment() -> Any:
    """The templates of reports, strict about names that they are not given."""
    import jinja2

    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent.parent / "templates"),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["percent"] = table.percent
    return templates


def write_reports(run: RunFolder, facts: dict[str, Any]) -> None:
    """Write report.md and report.html (one file, no network)."""
    templates = environment()
    shown = {**facts, "columns": table.COLUMNS, "rows": table.rows(facts)}
    shown |= {"arm_columns": arms.COLUMNS, "arm_rows": arms.rows(facts), "arm_note": arms.note(facts)}
    shown |= {"summary": summary(facts), "searches": searches(run, facts)}
    shown |= {
        "phone_columns": phones.COLUMNS,
        "phone_rows": phones.rows(facts["predicted"]),
        "phone_notes": phones.notes(facts["predicted"]),
    }
    shown |= {
        "app_columns": APP,
        "loss_columns": plots.LOSSES,
        "loss_rows": plots.loss_rows(facts["curves"]["student"]),
    }
    shown |= _choice(facts)
    shown["caption_columns"], shown["caption_rows"] = table.caption_rows(facts["captions"])
    shown["class_columns"], shown["class_rows"] = table.per_class(facts)
    atomic.write_text(run.report_md, templates.get_template("report.md").render(shown))
    drawn = {
        "curves_svg": plots.training_curves(facts["curves"]),
        "losses_svg": plots.losses(facts["curves"]["student"]),
        "pareto": _pareto(facts),
        "pareto_note": NOTE,
        "latency_svg": plots.latency_bars(facts["profiles"]),
        "operations": plots.operations(facts["profiles"]),
        "predicted_operations": plots.predicted_operations(facts["predicted"]),
        "retrieval_columns": table.RETRIEVAL,
        "retrieval_rows": table.retrieval_rows(facts),
        "retrieval_note": table.retrieval_note(facts),
        "zero_shot_columns": table.ZERO_SHOT,
        "zero_shot_rows": table.zero_shot_rows(facts),
        "zero_shot_note": table.zero_shot_note(facts),
        "export_columns": table.EXPORTS,
        "export_rows": table.export_rows(facts),
    }
    atomic.write_text(run.report_html, templates.get_template("report.html").render({**shown, **drawn}))


def _choice(facts: dict[str, Any]) -> dict[str, Any]:
    """What the report shows of a choice by a budget; no rows without one."""
    record = facts["choice"]
    if record is None:
        return {"choice_columns": (), "choice_rows": [], "choice_title": "", "choice_lines": []}
    return {
        "choice_columns": choices.COLUMNS,
        "choice_rows": choices.rows(record),
        "choice_title": choices.title(record),
        "choice_lines": [*choices.lines(record), *choices.kept_budget(facts)],
    }


def _pareto(facts: dict[str, Any]) -> list[dict[str, str]]:
    """Accuracy against size, and against latency on the first phone that is predicted for all models."""
    found = fronts([facts])
    metric = primary(found)
    models = len(facts["table"])
    shown = [front for front in found if front.metric == metric and front.axis.name == "size"]
    phones_of = [front for front in found if front.metric == metric and front.axis.kind == "predicted"]
    shown += sorted(phones_of, key=lambda front: len(front.points) < models)[:1]
    return [
        {
            "title": draw.title(front),
            "svg": plots.svg_of(draw.front_figure(front, references(front.axis.name))),
        }
        for front in shown
    ]
