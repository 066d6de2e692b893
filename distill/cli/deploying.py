"""The verbs that judge a student and bring it to a phone: lint, eval, export, profile, calibrate."""

from pathlib import Path
from typing import Annotated

import typer

from distill.cli import shown
from distill.cli.base import app, print_result
from distill.cli.flags import (
    CaptionColumnFlag,
    DataFlag,
    DeviceFlag,
    ImageColumnFlag,
    JsonFlag,
    LanFlag,
    OutFlag,
    OverwriteFlag,
    PortFlag,
    PrecisionFlag,
    RecipeFlag,
    SetFlag,
    TargetFlag,
)
from distill.verbs.helping import Grouped


@app.command(cls=Grouped, epilog="Example: distill lint mci2 --target coreml --target onnx-qnn")
def lint(
    student: Annotated[str, typer.Argument(help="A student by name, a run, or any model that distill export takes.")],
    recipe: RecipeFlag = None, target: TargetFlag = None, precision: PrecisionFlag = None, data: DataFlag = None,
    sets: SetFlag = None, as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """What phones' runtimes are known to run badly in a student, and what to do; distill list rules has them all."""
    from distill.verbs.lint import lint as verb

    result = verb(student, recipe, target=target or (), precision=precision or (), data=data, settings=sets or ())
    print_result(result, as_json, shown.show_lints)
    if result.errors:
        raise typer.Exit(1)


@app.command(name="eval", cls=Grouped, epilog="Example: distill eval runs/mine --data ./other-photos")
def evaluate(
    model: Annotated[str, typer.Argument(help="A run or student folder, or a teacher's name.")],
    recipe: RecipeFlag = None, data: DataFlag = None,
    split: Annotated[str | None, typer.Option("--split", help="The part of the data to use: test, val, ...")] = None,
    image_column: ImageColumnFlag = None, caption_column: CaptionColumnFlag = None,
    limit: Annotated[int | None, typer.Option("--limit", help="At most so many images (eval.limit).")] = None,
    at_once: Annotated[int | None, typer.Option("--batch-size", help="Images at a time (eval.batch_size).")] = None,
    sets: SetFlag = None, as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """Retrieval and zero-shot figures of one model."""
    from distill.verbs.evaluate import evaluate as verb

    print_result(
        verb(
            model,
            recipe,
            data=data,
            split=split,
            image_column=image_column,
            caption_column=caption_column or (),
            limit=limit,
            batch_size=at_once,
            settings=sets or (),
        ),
        as_json,
        shown.show_figures,
    )


@app.command(cls=Grouped, epilog="Example: distill export runs/mine --target coreml --precision auto --max-drop 0.5")
def export(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A run, any CLIP (a folder, open_clip:MODEL/TAG, a teacher...), timm:NAME@WEIGHTS.", show_default=False
        ),
    ] = None,
    target: TargetFlag = None, precision: PrecisionFlag = None, data: DataFlag = None, out: OutFlag = None,
    max_drop: Annotated[float | None, typer.Option(help="With --precision auto: points that a file may lose.")] = None,
    max_mb: Annotated[float | None, typer.Option(help="With --precision auto: megabytes of both towers.")] = None,
    classes: Annotated[Path | None, typer.Option(help="A file with a label per line: makes a zero-shot classifier too.")] = None,
    template: Annotated[
        list[str] | None, typer.Option(help='With --classes: a sentence such as "a photo of a {}."; may repeat.')
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Inputs that every file takes at a call; 1 unless said.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what the last export there was asked.")] = False,
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
        resume=resume,
        overwrite=overwrite,
        settings=sets or (),
    )
    print_result(result, as_json, shown.show_exported)


@app.command(cls=Grouped, epilog="Example: distill profile runs/mine --device iphone-15")
def profile(
    folder: Annotated[Path, typer.Argument(help="A run folder, or one export folder inside it; for a phone's name, any model.")],
    device: DeviceFlag = None,
    runner: Annotated[
        list[Path] | None,
        typer.Option("--runner", help="A vendor's program that times files on phones; distill doctor names them. Repeatable."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what the last call there was asked; keep what phones have timed.")
    ] = False,
    lan: LanFlag = False, port: PortFlag = None,
    sets: SetFlag = None, as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """Latency of the exported files here and on attached phones; predicted for a phone by name (--device iphone-15)."""
    from distill.verbs.profile import profile as verb

    result = verb(
        folder, device=device or (), runner=runner or (), resume=resume, lan=lan, port=port, settings=sets or ()
    )
    print_result(result, as_json, shown.show_profile)


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
    print_result(result, as_json, shown.show_calibrated)
