"""The command line: parses, calls the verb of the same name, prints its result, sets the exit status. Nothing else.

stdout holds the result (a table, or one JSON object with --json); stages and progress go to stderr. Exit status: 0 done,
1 the work failed (a gate included), 2 the call was wrong. Nothing heavy is imported before a verb needs it.
"""

import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Turns big CLIP teachers into small image-text models that run on a phone, and proves that they still work there.",
)

TeacherFlag = Annotated[
    list[str] | None, typer.Option("--teacher", help="Name, open_clip:MODEL/TAG or path; may repeat.")
]
CaptionerFlag = Annotated[
    list[str] | None,
    typer.Option("--captioner", help="Name, coca:MODEL/TAG, hf:NAME, command:..., python:...; may repeat."),
]
ExtendFlag = Annotated[
    bool, typer.Option("--extend", help="Add teachers, captioners or views to the finished set in --out.")
]
StudentFlag = Annotated[str | None, typer.Option("--student", help="Student architecture; see distill list students.")]
DataFlag = Annotated[
    str | None, typer.Option("--data", help="Folder, table file, hf:ORG/SET, rendered, or a reinforced set.")
]
RecipeFlag = Annotated[str | None, typer.Option("--recipe", help="TOML file, or the name of one that ships.")]
SetFlag = Annotated[list[str] | None, typer.Option("--set", help="key=value for any recipe key; may repeat.")]
OutFlag = Annotated[Path | None, typer.Option("--out", "-o", help="Run folder.")]
ResumeFlag = Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")]
OverwriteFlag = Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
RehearseFlag = Annotated[bool, typer.Option("--rehearse", help="Full size, random weights, a handful of samples.")]
TargetFlag = Annotated[
    list[str] | None, typer.Option("--target", help="Export target; may repeat. See distill list targets.")
]
DeviceFlag = Annotated[
    list[str] | None, typer.Option("--device", help="host or a device of distill devices; may repeat.")
]

FilterFlag = Annotated[
    list[str] | None,
    typer.Option("--filter", help="NAME:key=value,key=value over the stored set; may repeat, in order."),
]


VerifyFlag = Annotated[
    str | None,
    typer.Option("--verify", help="Stored views to run through the live teachers again: N, or all; 0 = none."),
]
CalibrateFlag = Annotated[
    bool, typer.Option("--calibrate", help="Fit logit scales on held-out pairs where none is published.")
]
ExecutorFlag = Annotated[str | None, typer.Option("--executor", help="local, slurm or ray, in tasks.")]
TasksFlag = Annotated[int | None, typer.Option("--tasks", help="Shares that an executor cuts the work into.")]
WorkersFlag = Annotated[int | None, typer.Option("--workers", help="Tasks of an executor at a time.")]
PartitionFlag = Annotated[str | None, typer.Option("--slurm-partition", help="Where Slurm runs the tasks.")]


def _own_recipe(folder: Path, sets: list[str] | None, given: dict[str, Any]) -> Any:
    """The recipe that the run in `folder` was made by, with the flags and settings of this call."""
    from distill.recipe import load_recipe
    from distill.verbs.export import run_recipe

    flags = {key.replace("__", "."): value for key, value in given.items() if value not in (None, [])}
    return load_recipe(None, sets or [], {**run_recipe(folder).model_dump(mode="json"), **flags})


def _recipe(recipe: str | None, sets: list[str] | None, **given: Any) -> Any:
    from distill.recipe import load_recipe

    flags = {key.replace("__", "."): tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    return load_recipe(recipe, sets or [], {key: value for key, value in flags.items() if value not in (None, ())})


def _need(out: Path | None, example: str) -> Path:
    from distill.core.errors import UsageError

    if out is None:
        raise UsageError(f"--out is missing: name the folder to write, for example --out {example}.")
    return out


def _print(result: Any, as_json: bool, show: Callable[[Any], None]) -> None:
    if as_json:
        print(json.dumps(result, ensure_ascii=False, default=str))
    else:
        show(result)


@app.command()
def run(
    recipe: RecipeFlag = None, teacher: TeacherFlag = None, captioner: CaptionerFlag = None,
    student: StudentFlag = None, data: DataFlag = None, filters: FilterFlag = None, target: TargetFlag = None,
    device: DeviceFlag = None, out: OutFlag = None, rehearse: RehearseFlag = False, resume: ResumeFlag = False,
    overwrite: OverwriteFlag = False, sets: SetFlag = None, as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """All of it: reinforce, train, evaluate, export, profile, report. With no arguments: the embedded default."""
    from distill.reporting.table import show
    from distill.verbs.run import run as verb

    parsed = _recipe(
        recipe, sets, teachers=teacher, captioners=captioner, student__name=student, data=data, filters=filters,
        rehearse=rehearse or None, export__targets=target, profile__devices=device,
    )  # fmt: skip
    _print(verb(parsed, out, resume=resume, overwrite=overwrite), as_json, show)


@app.command()
def reinforce(
    recipe: RecipeFlag = None, teacher: TeacherFlag = None, captioner: CaptionerFlag = None, data: DataFlag = None,
    filters: FilterFlag = None, out: OutFlag = None, verify: VerifyFlag = None, calibrate: CalibrateFlag = False,
    executor: ExecutorFlag = None, tasks: TasksFlag = None, workers: WorkersFlag = None,
    slurm_partition: PartitionFlag = None, resume: ResumeFlag = False, overwrite: OverwriteFlag = False,
    extend: ExtendFlag = False, sets: SetFlag = None, as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """Store the teachers' knowledge of a data set once; with --filter, choose among its samples afterwards."""
    from distill.verbs.reinforce import reinforce as verb

    folder = _need(out, "runs/photos")
    given = {
        "reinforce__verify": verify, "reinforce__calibrate": calibrate or None, "cluster__executor": executor,
        "cluster__tasks": tasks, "cluster__workers": workers, "cluster__slurm_partition": slurm_partition,
    }  # fmt: skip
    named = {"teachers": teacher, "captioners": captioner, "data": data, "filters": filters}
    goes_on = extend or (resume and not any(named.values()))
    if goes_on and recipe is None and (folder / "resolved.json").exists():
        parsed = _own_recipe(folder, sets, {**named, **given})
    else:
        parsed = _recipe(recipe, sets, **named, **given)
    _print(verb(parsed, folder, resume=resume, overwrite=overwrite, extend=extend), as_json, _show_pairs)


@app.command()
def curate(
    folder: Annotated[Path, typer.Argument(help="A reinforced set, or the run that holds one.")],
    filters: FilterFlag = None, out: OutFlag = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print table and histograms, write nothing.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of every draw.")] = 0,
    overwrite: OverwriteFlag = False, as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """Choose among the samples of a reinforced set; says what was kept and why."""
    from distill.verbs.curate import curate as verb
    from distill.verbs.curate import lines

    result = verb(folder, filters or [], out, dry_run=dry_run, seed=seed, overwrite=overwrite)
    _print(result, as_json, lambda facts: print("\n".join(lines(facts))))


@app.command()
def train(
    recipe: RecipeFlag = None, teacher: TeacherFlag = None, student: StudentFlag = None, data: DataFlag = None,
    out: OutFlag = None, resume: ResumeFlag = False, overwrite: OverwriteFlag = False, sets: SetFlag = None,
    as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """Train a student from a reinforced set, a full teacher, or heads over frozen towers."""
    from distill.verbs.train import train as verb

    folder = _need(out, "runs/student")
    parsed = _recipe(recipe, sets, teachers=teacher, student__name=student, data=data)
    _print(verb(parsed, folder, resume=resume, overwrite=overwrite), as_json, _show_pairs)


@app.command(name="eval")
def evaluate(
    model: Annotated[str, typer.Argument(help="A run or student folder, or a teacher's name.")],
    recipe: RecipeFlag = None, data: DataFlag = None, sets: SetFlag = None, as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """Retrieval and zero-shot figures of one model."""
    from distill.verbs.evaluate import evaluate as verb

    _print(verb(model, _recipe(recipe, sets, data=data)), as_json, _show_pairs)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="A run folder with a trained student.")],
    target: TargetFlag = None, overwrite: OverwriteFlag = False, sets: SetFlag = None, as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """Deployable files, parity proven on them."""
    from distill.recipe import load_recipe
    from distill.verbs.export import export as verb
    from distill.verbs.export import run_recipe

    base = run_recipe(folder).model_dump(mode="json")
    parsed = load_recipe(
        None, sets or [], {**base, **({"export": {**base["export"], "targets": target}} if target else {})}
    )
    _print(verb(folder, parsed, overwrite=overwrite), as_json, lambda result: _show_rows(result["artifacts"]))


@app.command()
def profile(
    folder: Annotated[Path, typer.Argument(help="A run folder, or one export folder inside it.")],
    device: DeviceFlag = None, sets: SetFlag = None, as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """Latency of the exported files, on this host and on attached phones."""
    from distill.verbs.profile import profile as verb

    parsed = _recipe(None, sets, profile__devices=device)
    _print(verb(folder, parsed), as_json, lambda result: _show_rows(result["profiles"]))


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A run folder.")], as_json: JsonFlag = False) -> None:
    """Write report.md and report.html of a run anew."""
    from distill.reporting.table import show
    from distill.verbs.report import report as verb

    _print(verb(folder), as_json, show)


@app.command()
def compare(folders: Annotated[list[Path], typer.Argument(help="Run folders.")], as_json: JsonFlag = False) -> None:
    """Finished runs side by side."""
    from distill.verbs.compare import compare as verb

    def show(result: dict[str, Any]) -> None:
        _show_rows(result["table"])
        for warning in result["warnings"]:
            print(warning)

    _print(verb(folders), as_json, show)


@app.command(name="list")
def list_(
    kind: Annotated[str, typer.Argument(help="teachers, students, losses, objectives, targets, devices, sources, ...")],
    as_json: JsonFlag = False,
) -> None:
    """What can be named in a call."""
    from distill.verbs.listing import list_names

    _print(list_names(kind), as_json, _show_rows)


@app.command()
def doctor(as_json: JsonFlag = False) -> None:
    """What works on this machine, and what to do about the rest."""
    from distill.verbs.machine import doctor as verb

    _print(verb(), as_json, _show_rows)


@app.command()
def devices(as_json: JsonFlag = False) -> None:
    """This host and attached phones, and what is missing to use them."""
    from distill.verbs.machine import devices as verb

    _print(verb(), as_json, _show_rows)


def _show_rows(rows: list[dict[str, Any]]) -> None:
    """Plain columns: quick to print, easy to grep."""
    if not rows:
        print("none")
        return
    columns = [key for key in rows[0] if any(row.get(key) not in (None, "", {}) for row in rows)]
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(column), *(len(line[i]) for line in cells)) for i, column in enumerate(columns)]
    for line in [columns, *cells]:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_cell(item)}" for key, item in value.items() if not isinstance(item, (dict, list)))
    return "-" if value is None else str(value)


def _show_pairs(result: dict[str, Any], indent: str = "") -> None:
    for key, value in result.items():
        if isinstance(value, dict):
            print(f"{indent}{key}:")
            _show_pairs(value, indent + "  ")
        else:
            print(f"{indent}{key}: {_cell(value)}")


FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main() -> None:
    """Entry point of the console script. A user's mistake or a failed job ends in one paragraph, never in a traceback."""
    from distill.core.errors import DistillError

    try:
        app()
    except DistillError as error:
        _end(str(error), error.exit_status)
    except KeyboardInterrupt:
        _end("Interrupted. What was finished is kept: call the same command again with --resume.", 1)
    except OSError as error:
        if error.errno in FULL_DISK:
            _end(_disk_message(error), 1)
        if isinstance(error, PermissionError):
            _end(f"No permission to write {error.filename!r}. Give another --out, or mend the folder's permissions.", 1)
        raise


def _disk_message(error: OSError) -> str:
    where = f" while writing {str(error.filename)!r}" if error.filename else ""
    return (
        f"The disk is full{where} ({os.strerror(error.errno or 0)}). What was finished is kept: free some space and call "
        "the same command again with --resume."
    )


def _end(message: str, status: int) -> None:
    print(f"distill: {message}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
