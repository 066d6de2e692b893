"""The flags that several verbs have, each once: the same words and the same explanation everywhere."""

from pathlib import Path
from typing import Annotated

import typer

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

ImageColumnFlag = Annotated[
    str | None,
    typer.Option("--image-column", help="Of a table or hub set: images or their paths; of tars: an ending of members."),
]
CaptionColumnFlag = Annotated[
    list[str] | None,
    typer.Option("--caption-column", help="Real captions: a column, JSON key or ending of members; may repeat."),
]
EpochsFlag = Annotated[
    float | None,
    typer.Option("--epochs", help="Passes over the images (train.epochs); by default as many as fit the data."),
]
StepsFlag = Annotated[int | None, typer.Option("--steps", help="Of training, instead of --epochs (train.steps).")]
BatchSizeFlag = Annotated[str | None, typer.Option("--batch-size", help="Of training: N, or auto (train.batch_size).")]
LrFlag = Annotated[float | None, typer.Option("--lr", help="Highest learning rate (train.lr).")]
LoadersFlag = Annotated[
    str | None,
    typer.Option("--workers", help="Processes that load data for training: N, or auto (train.workers)."),
]
ImageSizeFlag = Annotated[
    int | None, typer.Option("--image-size", help="Pixels that the student sees (student.image_size).")
]
SeedFlag = Annotated[int | None, typer.Option("--seed", help="Of every draw and random weight (seed).")]

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
WorkersFlag = Annotated[
    int | None,
    typer.Option(
        "--workers", help="An executor's tasks at a time (cluster.workers); who decodes is reinforce.workers."
    ),
]
PartitionFlag = Annotated[str | None, typer.Option("--slurm-partition", help="Where Slurm runs the tasks.")]
