"""`distill lint`: what phones' runtimes are known to run badly in a student, before it is trained or exported."""

from dataclasses import dataclass
from typing import Any

from distill.console import Console
from distill.core.strict import Settings
from distill.recipe import Recipe
from distill.verbs.flags import AnyPath, OneOrMore, RecipeLike, recipe_of
from distill.verbs.results import Row


@dataclass(frozen=True)
class LintResult:
    """What is known against a student on some targets.

    Attributes:
        findings: a row per rule and tower, the errors ("E") first: where, what, why it matters, what to do, who found it.
        mended: what export changes before it lowers a tower, so that no rule finds it.
        notes: what was not looked at, or on what.
        rules: how many rules were run.
        targets: folders of the exports that were asked for.
    """

    student: str
    findings: list[Row]
    mended: list[str]
    notes: list[str]
    rules: int
    targets: list[str]

    @property
    def errors(self) -> list[Row]:
        """The findings that stop a training."""
        return [row for row in self.findings if row["severity"] == "E"]

    def to_json(self) -> dict[str, Any]:
        """One object."""
        return {
            "student": self.student, "targets": self.targets, "rules": self.rules, "findings": self.findings, "mended": self.mended,
            "notes": self.notes,
        }  # fmt: skip


def lint(
    student: AnyPath,
    recipe: RecipeLike = None,
    *,
    target: OneOrMore = (),
    precision: OneOrMore = (),
    data: AnyPath | None = None,
    settings: Settings = (),
    console: Console | None = None,
) -> LintResult:
    """Run the rules of every target over both towers, as they are lowered; nothing is written.

    Args:
        student: a run, an open_clip folder, a registered student, "timm:NAME+text:LAYERSxWIDTH", a teacher's name,
            "open_clip:MODEL", "timm:NAME@WEIGHTS". Of a name without weights here its architecture is looked at.
        recipe: its export and lint tables are read; None = the run's own, or the default's.
        target, precision: as of `distill.export`.
        data: what trained weights are run on, for the rules about numbers; None = the embedded drawings.
        settings: as of `distill.run`; lint.allow silences rules.

    Raises:
        UsageError: no such model, target or rule. DistillError: a model that cannot be deployed at all.
    """
    from distill.stages.exporting.any_model import model_name, run_of
    from distill.stages.lint import check_allowed, lint_model

    run = run_of(model_name(str(student)))
    if recipe is None and run is not None and run.resolved.exists():
        own = run.read_recipe()
        recipe = Recipe(export=own.export, lint=own.lint)
    job = recipe_of(recipe, settings, target=target, precision=precision, eval_data=data)
    check_allowed(job.lint.allow)
    console = console or Console()
    with console.stage("lint"):
        found = lint_model(str(student), job, console)
    kept = [one.to_json() for one in found.findings if one.rule not in job.lint.allow]
    return LintResult(str(student), kept, found.mended, found.notes, found.rules, found.targets)
