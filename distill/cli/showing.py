"""The verbs that use, show and hand on what was made: predict, demo, report, push, compare."""

from pathlib import Path
from typing import Annotated

import typer

from distill.cli import shown
from distill.cli.base import app, print_result
from distill.cli.flags import DataFlag, JsonFlag, LanFlag, OverwriteFlag, PortFlag, SetFlag
from distill.verbs.helping import Grouped


@app.command(cls=Grouped, epilog="Example: distill predict runs/mine ./photos --classes labels.txt")
def predict(
    model: Annotated[str, typer.Argument(help="A run, any CLIP, or a folder of exported files (runs/mine/export/onnx-fp32).")],
    photos: Annotated[list[str], typer.Argument(help="Photos, or folders of them.")],
    classes: Annotated[Path | None, typer.Option(help="A file, a label per line; else the run's, or the exported file's.")] = None,
    template: Annotated[
        list[str] | None, typer.Option(help='With --classes: a sentence such as "a photo of a {}."; may repeat.')
    ] = None,
    caption: Annotated[list[str] | None, typer.Option(help="Instead of labels: sentences to tell apart; two or more.")] = None,
    search: Annotated[list[str] | None, typer.Option(help="A sentence that finds photos; may repeat.")] = None,
    top: Annotated[int, typer.Option(help="So many labels of a photo, or photos of a sentence.")] = 5,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A .csv or .jsonl file for every row.")] = None,
    overwrite: OverwriteFlag = False, sets: SetFlag = None, as_json: JsonFlag = False,
) -> None:  # fmt: skip
    """What the student says to photos: labels, captions, or the photos that fit a sentence."""
    from distill.verbs.predict import predict as verb
    from distill.verbs.predict import show

    result = verb(
        model, photos, classes=classes, template=template or (), caption=caption or (), search=search or (), top=top,
        out=out, overwrite=overwrite, settings=sets or (),
    )  # fmt: skip
    print_result(result, as_json, lambda done: show(done.to_json()))


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

    print_result(verb(folder), as_json, lambda done: show(done.facts))


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

    print_result(
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

    print_result(verb(folders, out=out, overwrite=overwrite), as_json, shown.show_comparison)
