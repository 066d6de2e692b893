"""The verbs that make a student: run, choose, reinforce, curate, train."""

from pathlib import Path
from typing import Annotated

import typer

from distill.cli import shown
from distill.cli.base import app, need, print_result, run_folder
from distill.cli.flags import (
    BatchSizeFlag,
    CalibrateFlag,
    CaptionColumnFlag,
    CaptionerFlag,
    DataFlag,
    DeviceFlag,
    EpochsFlag,
    ExecutorFlag,
    ExtendFlag,
    FilterFlag,
    ImageColumnFlag,
    ImageSizeFlag,
    JsonFlag,
    LoadersFlag,
    LrFlag,
    MaxLatencyFlag,
    MaxMemoryFlag,
    MaxSizeFlag,
    OutFlag,
    OverwriteFlag,
    PartitionFlag,
    PrecisionFlag,
    RecipeFlag,
    RehearseFlag,
    ResumeFlag,
    RunArgument,
    SeedFlag,
    SetFlag,
    StepsFlag,
    StudentFlag,
    TargetFlag,
    TasksFlag,
    TeacherFlag,
    VerifyFlag,
    WorkersFlag,
)
from distill.verbs.helping import Grouped


@app.command(
    cls=Grouped, epilog="Example: distill run --teacher dfn-vitl14 --student mci2 --data ./photos --out runs/mine"
)
def run(
    folder: RunArgument = None,
    recipe: RecipeFlag = None, teacher: TeacherFlag = None, captioner: CaptionerFlag = None,
    student: StudentFlag = None, data: DataFlag = None, image_column: ImageColumnFlag = None,
    caption_column: CaptionColumnFlag = None, filters: FilterFlag = None, target: TargetFlag = None,
    precision: PrecisionFlag = None, device: DeviceFlag = None, max_latency: MaxLatencyFlag = None,
    max_size: MaxSizeFlag = None, max_memory: MaxMemoryFlag = None, epochs: EpochsFlag = None,
    steps: StepsFlag = None, batch_size: BatchSizeFlag = None, lr: LrFlag = None, loaders: LoadersFlag = None,
    image_size: ImageSizeFlag = None, seed: SeedFlag = None, out: OutFlag = None, rehearse: RehearseFlag = False,
    resume: ResumeFlag = False, overwrite: OverwriteFlag = False, sets: SetFlag = None, as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """All of it: reinforce, train, evaluate, export, profile, report. With no arguments: the embedded default."""
    from distill.reporting.table import show
    from distill.verbs.run import run as verb

    out = run_folder(folder, out, goes_on=resume)
    result = verb(
        recipe, teacher=teacher or (), captioner=captioner or (), student=student, data=data, image_column=image_column,
        caption_column=caption_column or (), filter=filters or (),
        target=target or (), precision=precision or (), device=device or (), max_latency=max_latency, max_size=max_size,
        max_memory=max_memory, epochs=epochs, steps=steps, batch_size=batch_size, lr=lr, workers=loaders,
        image_size=image_size, seed=seed, out=out, rehearse=rehearse, resume=resume, overwrite=overwrite, settings=sets or (),
    )  # fmt: skip
    print_result(result, as_json, lambda done: show(done.facts))


@app.command(cls=Grouped, epilog="Example: distill plan --teacher dfn-vitl14 --student mci2 --data ./photos")
def plan(
    recipe: RecipeFlag = None, teacher: TeacherFlag = None, captioner: CaptionerFlag = None,
    student: StudentFlag = None, data: DataFlag = None, image_column: ImageColumnFlag = None,
    caption_column: CaptionColumnFlag = None, filters: FilterFlag = None, target: TargetFlag = None,
    precision: PrecisionFlag = None, device: DeviceFlag = None, max_latency: MaxLatencyFlag = None,
    max_size: MaxSizeFlag = None, max_memory: MaxMemoryFlag = None, epochs: EpochsFlag = None,
    steps: StepsFlag = None, batch_size: BatchSizeFlag = None, lr: LrFlag = None, loaders: LoadersFlag = None,
    image_size: ImageSizeFlag = None, seed: SeedFlag = None, out: OutFlag = None, rehearse: RehearseFlag = False,
    rehearsal: Annotated[
        Path | None, typer.Option("--rehearsal", help="A finished rehearsal, whose times are scaled; else where run puts it.")
    ] = None,
    sets: SetFlag = None, as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """What distill run would do and take by the same words: hours, gigabytes, downloads, licences; spends nothing."""
    from distill.cli.planned import show_plan
    from distill.verbs.plan import plan as verb

    result = verb(
        recipe, teacher=teacher or (), captioner=captioner or (), student=student, data=data, image_column=image_column,
        caption_column=caption_column or (), filter=filters or (),
        target=target or (), precision=precision or (), device=device or (), max_latency=max_latency, max_size=max_size,
        max_memory=max_memory, epochs=epochs, steps=steps, batch_size=batch_size, lr=lr, workers=loaders,
        image_size=image_size, seed=seed, out=out, rehearse=rehearse, rehearsal=rehearsal, settings=sets or (),
    )  # fmt: skip
    print_result(result, as_json, show_plan)


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
    print_result(result, as_json, lambda done: shown.show_choice(done.choice))


@app.command(cls=Grouped, epilog="Example: distill reinforce --teacher dfn-vitl14 --data ./photos --out runs/mine")
def reinforce(
    folder: RunArgument = None,
    recipe: RecipeFlag = None, teacher: TeacherFlag = None, captioner: CaptionerFlag = None, data: DataFlag = None,
    image_column: ImageColumnFlag = None, caption_column: CaptionColumnFlag = None,
    filters: FilterFlag = None, out: OutFlag = None, verify: VerifyFlag = None, calibrate: CalibrateFlag = False,
    executor: ExecutorFlag = None, tasks: TasksFlag = None, workers: WorkersFlag = None,
    slurm_partition: PartitionFlag = None, seed: SeedFlag = None, resume: ResumeFlag = False,
    overwrite: OverwriteFlag = False, extend: ExtendFlag = False, sets: SetFlag = None, as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """Store the teachers' knowledge of a data set once; with --filter, choose among its samples afterwards."""
    from distill.verbs.reinforce import reinforce as verb

    out = run_folder(folder, out, goes_on=resume or extend)
    result = verb(
        recipe, out=need(out, "runs/photos"), teacher=teacher or (), captioner=captioner or (), data=data,
        image_column=image_column, caption_column=caption_column or (), filter=filters or (),
        verify=verify, calibrate=calibrate, executor=executor, tasks=tasks, workers=workers,
        slurm_partition=slurm_partition, seed=seed, resume=resume, overwrite=overwrite, extend=extend, settings=sets or (),
    )  # fmt: skip
    print_result(result, as_json, shown.show_reinforced, every_process=True)


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
    print_result(result, as_json, lambda done: show(done.to_json()))


@app.command(cls=Grouped, epilog="Example: distill train --data runs/mine --student mci2 --out runs/mci2")
def train(
    folder: RunArgument = None,
    recipe: RecipeFlag = None, teacher: TeacherFlag = None, student: StudentFlag = None, data: DataFlag = None,
    image_column: ImageColumnFlag = None, caption_column: CaptionColumnFlag = None,
    epochs: EpochsFlag = None, steps: StepsFlag = None, batch_size: BatchSizeFlag = None, lr: LrFlag = None,
    loaders: LoadersFlag = None, image_size: ImageSizeFlag = None, seed: SeedFlag = None, out: OutFlag = None,
    resume: ResumeFlag = False, overwrite: OverwriteFlag = False, sets: SetFlag = None, as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """Train a student from a reinforced set, a full teacher, or heads over frozen towers."""
    from distill.verbs.train import train as verb

    out = run_folder(folder, out, goes_on=resume)
    result = verb(
        recipe, out=need(out, "runs/student"), teacher=teacher or (), student=student, data=data, image_column=image_column,
        caption_column=caption_column or (), epochs=epochs, steps=steps, batch_size=batch_size, lr=lr,
        workers=loaders, image_size=image_size, seed=seed, resume=resume,
        overwrite=overwrite, settings=sets or (),
    )  # fmt: skip
    print_result(result, as_json, shown.show_trained)
