"""The command line: parses, calls the verb of the same name, prints its result, sets the exit status. Nothing else.

stdout holds the result (a table, or one JSON object with --json); stages and progress go to stderr. Exit status: 0 done,
1 the work failed (a gate included), 2 the call was wrong, 130 interrupted (Ctrl-C; 0 where a training saved its last step).
Nothing heavy is imported before a verb needs it.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from distill.reporting.terminal import print_findings, print_pairs, print_rows
from distill.verbs.helping import Grouped


class _Verbs(TyperGroup):
    """The verbs, whose mistakes and interruptions end in a paragraph and an exit status, never in a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Call the verb. Here, since typer ends a program by Ctrl-C without a word of ours."""
        from distill.core.errors import DistillError
        from distill.core.folders.disk import disk_message

        try:
            return super().invoke(ctx)
        except DistillError as error:
            _end(str(error), error.exit_status)
        except KeyboardInterrupt as error:
            message = str(error) or "Interrupted. Nothing was left half done: call again to do it."
            _end(message, getattr(error, "exit_status", INTERRUPTED))
        except OSError as error:
            message = disk_message(error)
            if not message:
                raise
            _end(f"{message} Then call again.", DistillError.exit_status)


def _end(message: str, status: int) -> NoReturn:
    print(f"distill: {message}", file=sys.stderr)
    sys.exit(status)


INTERRUPTED = 130  # as a shell counts a program that Ctrl-C has ended

app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Turns big CLIP teachers into small image-text models that run on a phone, and proves that they still work there.",
)


def _print_version(asked: bool) -> None:
    if asked:
        import importlib.metadata

        print(importlib.metadata.version("distill-edge"))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


TeacherFlag = Annotated[
    list[str] | None,
    typer.Option("--teacher", help="Name, open_clip:MODEL/TAG or path; may repeat."),
]
CaptionerFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--captioner",
        help="Name, coca:MODEL/TAG, hf:NAME, command:..., python:...; may repeat.",
    ),
]
ExtendFlag = Annotated[
    bool, typer.Option("--extend", help="Add teachers, captioners or views to the finished set in --out.")
]
StudentFlag = Annotated[str | None, typer.Option("--student", help="Student architecture; see distill list students.")]
DataFlag = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="Folder, table file, hf:ORG/SET, rendered, or a reinforced set.",
    ),
]
RecipeFlag = Annotated[str | None, typer.Option("--recipe", help="TOML file, or the name of one that ships.")]
SetFlag = Annotated[list[str] | None, typer.Option("--set", help="key=value for any recipe key; may repeat.")]
OutFlag = Annotated[Path | None, typer.Option("--out", "-o", help="Run folder.")]
RunArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="RUN",
        help="The run to go on with (--resume), instead of --out.",
        show_default=False,
    ),
]
ResumeFlag = Annotated[bool, typer.Option("--resume", help="Continue the run, by the recipe that it keeps.")]
OverwriteFlag = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
RehearseFlag = Annotated[bool, typer.Option("--rehearse", help="Full size, random weights, a handful of samples.")]
TargetFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        help="Export target; may repeat. See distill list targets.",
    ),
]
PrecisionFlag = Annotated[
    list[str] | None,
    typer.Option("--precision", help="Of the exported files: fp16, int8, w8...; may repeat."),
]
DeviceFlag = Annotated[
    list[str] | None,
    typer.Option("--device", help="host, one of distill devices, or a phone by name; may repeat."),
]
MaxLatencyFlag = Annotated[
    str | None, typer.Option("--max-latency", help="Choose a student whose towers take no longer on --device, as 5ms.")
]
MaxSizeFlag = Annotated[
    str | None, typer.Option("--max-size", help="Choose a student whose files are no larger, as 40MB.")
]
MaxMemoryFlag = Annotated[
    str | None, typer.Option("--max-memory", help="Choose a student that needs no more memory while it runs, as 100MB.")
]
LanFlag = Annotated[
    bool,
    typer.Option("--lan", help="Other devices of this network may open the page, by a one-time address."),
]
PortFlag = Annotated[int | None, typer.Option("--port", help="Of the page; any free one by default.")]

FilterFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        help="NAME:key=value,key=value over the stored set; may repeat, in order.",
    ),
]


VerifyFlag = Annotated[
    str | None,
    typer.Option(
        "--verify",
        help="Stored views to run through the live teachers again: N, or all; 0 = none.",
    ),
]
CalibrateFlag = Annotated[
    bool,
    typer.Option("--calibrate", help="Fit logit scales on held-out pairs where none is published."),
]
ExecutorFlag = Annotated[str | None, typer.Option("--executor", help="local, slurm or ray, in tasks.")]
TasksFlag = Annotated[int | None, typer.Option("--tasks", help="Shares that an executor cuts the work into.")]
WorkersFlag = Annotated[int | None, typer.Option("--workers", help="Tasks of an executor at a time.")]
PartitionFlag = Annotated[str | None, typer.Option("--slurm-partition", help="Where Slurm runs the tasks.")]


def _run_folder(named: Path | None, out: Path | None, *, goes_on: bool) -> Path | None:
    """The run folder of a call: what --out says, or the word that stands alone, where the call goes on with a run."""
    from distill.core.errors import UsageError

    if named is not None and not goes_on:
        raise UsageError(
            f"What is {str(named)!r}? A run to go on with: add --resume. Data: --data {named}. A new run: --out {named}."
        )
    if named is not None and out is not None and named != out:
        raise UsageError(f"Two run folders are named, {str(named)!r} and --out {str(out)!r}. Say one.")
    return named or out


def _need(out: Path | None, example: str) -> Path:
    from distill.core.errors import UsageError

    if out is None:
        raise UsageError(f"--out is missing: name the folder to write, for example --out {example}.")
    return out


def _print(result: Any, as_json: bool, show: Callable[[Any], None], *, every_process: bool = False) -> None:
    """The result on stdout; of a launcher's processes only the first one's, unless each has one of its own."""
    from distill.processes import this_place

    if this_place().rank and not every_process:
        return
    if as_json:
        print(json.dumps(result.to_json(), ensure_ascii=False, default=str))
    else:
        show(result)


@app.command(
    cls=Grouped, epilog="Example: distill run --teacher dfn-vitl14 --student mci2 --data ./photos --out runs/mine"
)
def run(
    folder: RunArgument = None,
    recipe: RecipeFlag = None, teacher: TeacherFlag = None, captioner: CaptionerFlag = None,
    student: StudentFlag = None, data: DataFlag = None, filters: FilterFlag = None, target: TargetFlag = None,
    precision: PrecisionFlag = None, device: DeviceFlag = None, max_latency: MaxLatencyFlag = None,
    max_size: MaxSizeFlag = None, max_memory: MaxMemoryFlag = None, out: OutFlag = None, rehearse: RehearseFlag = False,
    resume: ResumeFlag = False, overwrite: OverwriteFlag = False, sets: SetFlag = None, as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """All of it: reinforce, train, evaluate, export, profile, report. With no arguments: the embedded default."""
    from distill.reporting.table import show
    from distill.verbs.run import run as verb

    out = _run_folder(folder, out, goes_on=resume)
    result = verb(
        recipe, teacher=teacher or (), captioner=captioner or (), student=student, data=data, filter=filters or (),
        target=target or (), precision=precision or (), device=device or (), max_latency=max_latency, max_size=max_size,
        max_memory=max_memory, out=out, rehearse=rehearse, resume=resume, overwrite=overwrite, settings=sets or (),
    )  # fmt: skip
    _print(result, as_json, lambda done: show(done.facts))


@app.command(
    cls=Grouped, epilog="Example: distill choose --max-latency 5ms --device iphone-12-pro-max --max-size 100MB"
)
def choose(
    recipe: RecipeFlag = None, student: StudentFlag = None, data: DataFlag = None, target: TargetFlag = None,
    precision: PrecisionFlag = None, device: DeviceFlag = None, max_latency: MaxLatencyFlag = None,
    max_size: MaxSizeFlag = None, max_memory: MaxMemoryFlag = None, sets: SetFlag = None, as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """Which student distill run would train under a budget, and why the others lost; trains nothing."""
    from distill.verbs.choose import choose as verb

    result = verb(
        recipe, student=student, data=data, target=target or (), precision=precision or (), device=device or (),
        max_latency=max_latency, max_size=max_size, max_memory=max_memory, settings=sets or (),
    )  # fmt: skip
    _print(result, as_json, lambda done: _show_choice(done.choice))


def _show_choice(choice: Any) -> None:
    import shutil
    import textwrap

    from distill.reporting.pareto import choices
    from distill.reporting.terminal import print_table

    record = choice.to_json()
    print_table(choices.COLUMNS, choices.rows(record), title=choices.title(record))
    for line in choices.lines(record):
        print(textwrap.fill(line, shutil.get_terminal_size((100, 24)).columns))


@app.command(cls=Grouped, epilog="Example: distill reinforce --teacher dfn-vitl14 --data ./photos --out runs/mine")
def reinforce(
    folder: RunArgument = None,
    recipe: RecipeFlag = None, teacher: TeacherFlag = None, captioner: CaptionerFlag = None, data: DataFlag = None,
    filters: FilterFlag = None, out: OutFlag = None, verify: VerifyFlag = None, calibrate: CalibrateFlag = False,
    executor: ExecutorFlag = None, tasks: TasksFlag = None, workers: WorkersFlag = None,
    slurm_partition: PartitionFlag = None, resume: ResumeFlag = False, overwrite: OverwriteFlag = False,
    extend: ExtendFlag = False, sets: SetFlag = None, as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """Store the teachers' knowledge of a data set once; with --filter, choose among its samples afterwards."""
    from distill.verbs.reinforce import reinforce as verb

    out = _run_folder(folder, out, goes_on=resume or extend)
    result = verb(
        recipe, out=_need(out, "runs/photos"), teacher=teacher or (), captioner=captioner or (), data=data,
        filter=filters or (), verify=verify, calibrate=calibrate, executor=executor, tasks=tasks, workers=workers,
        slurm_partition=slurm_partition, resume=resume, overwrite=overwrite, extend=extend, settings=sets or (),
    )  # fmt: skip
    _print(result, as_json, lambda done: print_pairs(done.to_json()), every_process=True)


@app.command(cls=Grouped, epilog="Example: distill curate runs/mine --filter score:keep=0.3 --dry-run")
def curate(
    folder: Annotated[Path, typer.Argument(help="A reinforced set, or the run that holds one.")],
    filters: FilterFlag = None, out: OutFlag = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print table and histograms, write nothing.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of every draw.")] = 0,
    overwrite: OverwriteFlag = False, as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """Choose among the samples of a reinforced set; says what was kept and why."""
    from distill.verbs.curate import curate as verb
    from distill.verbs.curate import show

    result = verb(folder, filters or (), out=out, dry_run=dry_run, seed=seed, overwrite=overwrite)
    _print(result, as_json, lambda done: show(done.to_json()))


@app.command(cls=Grouped, epilog="Example: distill train --data runs/mine --student mci2 --out runs/mci2")
def train(
    folder: RunArgument = None,
    recipe: RecipeFlag = None, teacher: TeacherFlag = None, student: StudentFlag = None, data: DataFlag = None,
    out: OutFlag = None, resume: ResumeFlag = False, overwrite: OverwriteFlag = False, sets: SetFlag = None,
    as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """Train a student from a reinforced set, a full teacher, or heads over frozen towers."""
    from distill.verbs.train import train as verb

    out = _run_folder(folder, out, goes_on=resume)
    result = verb(
        recipe, out=_need(out, "runs/student"), teacher=teacher or (), student=student, data=data, resume=resume,
        overwrite=overwrite, settings=sets or (),
    )  # fmt: skip
    _print(result, as_json, lambda done: print_pairs(done.to_json()))


@app.command(cls=Grouped, epilog="Example: distill lint mci2 --target coreml --target onnx-qnn")
def lint(
    student: Annotated[str, typer.Argument(help="A student by name, a run, or any model that distill export takes.")],
    recipe: RecipeFlag = None, target: TargetFlag = None, precision: PrecisionFlag = None, data: DataFlag = None,
    sets: SetFlag = None, as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """What phones' runtimes are known to run badly in a student, and what to do; distill list rules has them all."""
    from distill.verbs.lint import lint as verb

    result = verb(student, recipe, target=target or (), precision=precision or (), data=data, settings=sets or ())
    _print(result, as_json, _show_lints)
    if result.errors:
        raise typer.Exit(1)


def _show_lints(result: Any) -> None:
    from distill.reporting.terminal import print_lints

    print_lints(result.to_json())


@app.command(name="eval", cls=Grouped, epilog="Example: distill eval runs/mine --data ./other-photos")
def evaluate(
    model: Annotated[str, typer.Argument(help="A run or student folder, or a teacher's name.")],
    recipe: RecipeFlag = None, data: DataFlag = None,
    split: Annotated[str | None, typer.Option("--split", help="The part of the data to use: test, val, ...")] = None,
    sets: SetFlag = None, as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """Retrieval and zero-shot figures of one model."""
    from distill.verbs.evaluate import evaluate as verb

    _print(
        verb(model, recipe, data=data, split=split, settings=sets or ()),
        as_json,
        lambda done: print_pairs(done.to_json()),
    )


def _show_exported(done: Any) -> None:
    print_rows(done.table)
    for folder, wrong in done.left_out.items():
        print(f"{folder}: {wrong}")
    print(f"In {done.out}")


@app.command(cls=Grouped, epilog="Example: distill export runs/mine --target coreml --precision auto --max-drop 0.5")
def export(
    model: Annotated[str, typer.Argument(help="A run, any CLIP (a folder, open_clip:MODEL/TAG, a teacher...), timm:NAME@WEIGHTS.")],
    target: TargetFlag = None, precision: PrecisionFlag = None, data: DataFlag = None, out: OutFlag = None,
    max_drop: Annotated[float | None, typer.Option(help="With --precision auto: points that a file may lose.")] = None,
    max_mb: Annotated[float | None, typer.Option(help="With --precision auto: megabytes of both towers.")] = None,
    classes: Annotated[Path | None, typer.Option(help="A file with a label per line: makes a zero-shot classifier too.")] = None,
    template: Annotated[
        list[str] | None, typer.Option(help='With --classes: a sentence such as "a photo of a {}."; may repeat.')
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Inputs that every file takes at a call; 1 unless said.")] = None,
    overwrite: OverwriteFlag = False, sets: SetFlag = None, as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """Deployable files of any CLIP, parity proven on them."""
    from distill.verbs.export import export as verb

    result = verb(
        model,
        target=target or (),
        precision=precision or (),
        max_drop=max_drop,
        max_mb=max_mb,
        classes=classes,
        template=template or (),
        batch=batch,
        data=data,
        out=out,
        overwrite=overwrite,
        settings=sets or (),
    )
    _print(result, as_json, _show_exported)


@app.command(cls=Grouped, epilog="Example: distill profile runs/mine --device iphone-15")
def profile(
    folder: Annotated[Path, typer.Argument(help="A run folder, or one export folder inside it; for a phone's name, any model.")],
    device: DeviceFlag = None,
    runner: Annotated[
        list[Path] | None,
        typer.Option("--runner", help="A vendor's program that times files on phones; distill doctor names them. Repeatable."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep what a phone has timed before.")] = False,
    lan: LanFlag = False, port: PortFlag = None,
    sets: SetFlag = None, as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """Latency of the exported files here and on attached phones; predicted for a phone by name (--device iphone-15)."""
    from distill.verbs.profile import profile as verb

    result = verb(
        folder, device=device or (), runner=runner or (), resume=resume, lan=lan, port=port, settings=sets or ()
    )
    _print(result, as_json, lambda done: print_rows(done.shown))


@app.command(cls=Grouped, epilog="Example: distill calibrate --device host")
def calibrate(
    device: Annotated[str, typer.Option("--device", help="host, or a device of distill devices that can be timed.")] = "host",
    target: Annotated[str, typer.Option("--target", help="What is exported and timed; by default onnx.")] = "",
    name: Annotated[str, typer.Option("--name", help="What the profile is kept as; by default the device's name.")] = "",
    runner: Annotated[list[Path] | None, typer.Option("--runner", help="As of distill profile. Repeatable.")] = None,
    sets: SetFlag = None, as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """Time five anchors on a device that is here, so that any model's latency there can be predicted."""
    from distill.verbs.calibrate import calibrate as verb

    result = verb(device, target=target, name=name, runner=runner or (), settings=sets or ())
    _print(result, as_json, _show_calibrated)


def _show_calibrated(done: Any) -> None:
    print_rows(done.anchors)
    print(
        f"Kept for --device {done.device} ({done.target}); anchors that were left out lie {done.spread_percent} % off."
    )


@app.command(cls=Grouped, epilog="Example: distill demo runs/mine --data ./photos")
def demo(
    model: Annotated[str, typer.Argument(help="A run (its student beside its teachers), or any CLIP.")],
    data: DataFlag = None,
    limit: Annotated[int, typer.Option(help="At most so many photos.")] = 500,
    lan: LanFlag = False, port: PortFlag = None, sets: SetFlag = None,
) -> None:  # fmt: skip
    """Search photos by a sentence, in a page of this computer."""
    from distill.verbs.demo import demo as verb

    verb(model, data=data, limit=limit, lan=lan, port=port, settings=sets or ())


@app.command(cls=Grouped, epilog="Example: distill report runs/mine")
def report(folder: Annotated[Path, typer.Argument(help="A run folder.")], as_json: JsonFlag = False) -> None:
    """Write report.md and report.html of a run anew."""
    from distill.reporting.table import show
    from distill.verbs.report import report as verb

    _print(verb(folder), as_json, lambda done: show(done.facts))


@app.command(cls=Grouped, epilog="Example: distill push runs/mine hf:my-org/my-student")
def push(
    folder: Annotated[Path, typer.Argument(help="A run folder.")],
    to: Annotated[str, typer.Argument(help="hf:ORG/NAME, or a folder.")],
    public: Annotated[bool, typer.Option("--public", help="A repository that is made is open to all.")] = False,
    exports: Annotated[bool, typer.Option(help="Exported files go along.")] = True,
    overwrite: OverwriteFlag = False, as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """A student with its model card and exported files, to the Hugging Face hub or into a folder."""
    from distill.verbs.push import push as verb

    _print(
        verb(folder, to, public=public, exports=exports, overwrite=overwrite),
        as_json,
        lambda done: print(f"{len(done.files)} files in {done.place}"),
    )


@app.command(cls=Grouped, epilog="Example: distill compare runs/mine runs/other --out comparison")
def compare(
    folders: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for a page, a plot per axis (SVG, PNG) and the JSON.")
    ] = None,
    overwrite: OverwriteFlag = False, as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """Finished runs side by side: accuracy against size and latency, and which models are on the front."""
    from distill.verbs.compare import compare as verb

    _print(verb(folders, out=out, overwrite=overwrite), as_json, _show_comparison)


def _show_comparison(result: Any) -> None:
    from distill.reporting.pareto.page import COLUMNS, rows
    from distill.reporting.terminal import print_table

    print_table(COLUMNS, rows(result.table), figures=True)
    for warning in result.warnings:
        print(warning)
    if result.out is not None:
        print(f"Page and plots: {result.out}/compare.html")


@app.command(name="list", cls=Grouped, epilog="Example: distill list targets")
def list_(
    kind: Annotated[
        str | None, typer.Argument(help="teachers, students, targets, recipes, keys...; none = what can be listed.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """What can be named in a call."""
    from distill.verbs.listing import list_names

    _print(list_names(kind), as_json, lambda found: print_rows(found.rows))


@app.command(cls=Grouped, epilog="Example: distill doctor --install litert")
def doctor(
    install: Annotated[
        list[str] | None,
        typer.Option("--install", help="Make the environment of this target, in the user's cache; may repeat."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """What works on this machine, and what to do about the rest."""
    from distill.verbs.machine import doctor as verb

    def show(found: Any) -> None:
        print_findings((row["ok"], row["name"], row["detail"], row["fix"]) for row in found.rows)

    _print(verb(install=install or ()), as_json, show)


@app.command(cls=Grouped, epilog="Example: distill devices")
def devices(as_json: JsonFlag = False) -> None:
    """This host and attached phones, and what is missing to use them."""
    from distill.verbs.machine import devices as verb

    def show(found: Any) -> None:
        print_findings((row["ready"], row["name"], _device(row), row["missing"]) for row in found.rows)

    _print(verb(), as_json, show)


def _device(row: dict[str, Any]) -> str:
    """A device in a line: what it is, its system, what runs there."""
    runtimes = ", ".join(f"{name} {version}" for name, version in row["runtimes"].items())
    asked = "timed only where it is named" if row["attended"] else ""
    return "; ".join(filter(None, [row["model"], row["os"], runtimes, asked]))


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
