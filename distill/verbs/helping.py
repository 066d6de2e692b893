"""How a verb's --help is laid out: options in groups, an example at the end. Plain text, so that it answers at once."""

import difflib
import sys
from typing import Any

import typer.core
from typing_extensions import override

# Title -> the options of that group, whichever verb has them, in this order. A verb's own options come first.
GROUPS = {
    "Models and data": (
        "teacher",
        "captioner",
        "student",
        "data",
        "image_column",
        "caption_column",
        "split",
        "limit",
        "at_once",
        "filters",
    ),
    "What is made": ("target", "precision", "max_drop", "max_mb", "classes", "template", "batch"),
    "Budget": ("max_latency", "max_size", "max_memory"),
    "Training": ("epochs", "steps", "batch_size", "lr", "image_size", "loaders"),
    "Phones and browsers": ("device", "runner", "lan", "port"),
    "Run folder": ("out", "resume", "extend", "overwrite"),
    "Several processes": ("executor", "tasks", "workers", "slurm_partition"),
    "Settings and output": ("recipe", "sets", "seed", "rehearse", "verify", "calibrate", "as_json", "help"),
}


# A flag or a recipe's key of ours -> what others call it.
_OURS = {
    "--lr": "learning-rate",
    "--epochs": "epoch num-epochs max-epochs num-train-epochs",
    "--steps": "max-steps num-steps iterations",
    "--batch-size": "bs per-device-train-batch-size",
    "--workers": "num-workers",
    "--image-size": "imgsz img-size resolution input-size resize",
    "--seed": "random-seed",
    "--student": "model",
    "--data": "dataset train-data",
    "--out": "output output-dir project",
    "--target": "format",
    "--recipe": "config",
    "--overwrite": "exist-ok force",
    "--classes": "labels",
    "limit": "max-samples",
    "objective": "loss",
    "train.warmup_steps": "warmup warmup-ratio",
    "train.weight_decay": "wd",
    "train.precision": "amp dtype fp16 bf16",
    "train.accumulate": "grad-accum gradient-accumulation-steps",
    "train.recompute": "gradient-checkpointing",
    "train.clip_norm": "grad-clip max-grad-norm",
    "train.checkpoint_every": "save-steps",
    "train.log_every": "logging-steps",
    "train.trackers": "report-to",
}
ALSO_CALLED = {word: ours for ours, words in _OURS.items() for word in words.split()}


def unknown_flag(flag: str, command: Any, ctx: Any) -> str:
    """What to say of a flag that a verb does not have: the flag of it, or the recipe's key, that may be meant."""
    flags = sorted(name for parameter in command.get_params(ctx) for name in parameter.opts if name.startswith("--"))
    word = flag.lstrip("-").lower().replace("_", "-")
    start = f"distill {command.name} has no flag {flag}."
    meant = ALSO_CALLED.get(word, f"--{word}")
    if meant in flags:
        return f"{start} Did you mean {meant}?"
    close = difflib.get_close_matches(meant, flags, n=2, cutoff=0.7)
    if close:
        return f"{start} Did you mean {' or '.join(close)}?"
    if "--set" in flags and (keys := _keys_called(meant, word)):
        return f"{start} A recipe's key may be meant: {' or '.join(f'--set {key}=...' for key in keys)} (distill list keys)."
    return f"{start} Its flags: distill {command.name} --help."


def _keys_called(meant: str, word: str) -> list[str]:
    """The recipe's keys that a flag may mean: the known one, those of that name in any table, else near ones."""
    from distill.recipe import Recipe
    from distill.verbs.listing import recipe_keys

    keys = [key for key, _, _ in recipe_keys(Recipe())]
    if meant in keys:
        return [meant]
    names = {key: key.rpartition(".")[2].replace("_", "-") for key in keys}
    whole = [
        key
        for key, name in names.items()
        if word in (name, key.replace("_", "-"), key.replace("_", "-").replace(".", "-"))
    ]
    near = difflib.get_close_matches(word, sorted({*names.values()}), n=1, cutoff=0.7)
    return whole[:3] or [key for key, name in names.items() if name in near][:3]


_ONE_PLACE = {"data": "place", "student": "student"}  # of flags that several might be meant by
_INSTEAD = {
    "data": "Put the images into one folder, or name them all in one table.",
    "student": "Each student is a run of its own, on the set of the first (distill run --data FIRST_RUN --student OTHER); then: "
    "distill compare.",
}
_LIGHT = ("list", "doctor", "devices")  # verbs that answer at once


def say_loading() -> None:
    """Say that packages are loaded, unless they are."""
    if "torch" not in sys.modules:
        print("Loading PyTorch and what else is needed ...", file=sys.stderr, flush=True)


class Grouped(typer.core.TyperCommand):
    """A command whose options are listed by `GROUPS`."""

    @override
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typer does it, but for a flag that the verb does not have, and several places for one: what is meant is said.

        Of other flags the last counts, as everywhere, so that a script's own can be overridden.
        """
        try:
            self._refuse_several(ctx, args)
            return super().parse_args(ctx, args)
        except Exception as error:  # its class lies in click, or in typer's copy of it, by typer's version
            if type(error).__name__ != "NoSuchOption":
                raise
            from distill.core.errors import UsageError

            raise UsageError(unknown_flag(getattr(error, "option_name", ""), self, ctx)) from None

    def _refuse_several(self, ctx: Any, args: list[str]) -> None:
        """Raise UsageError where a flag that takes one place is given several: all but the last would be dropped in silence."""
        from distill.core.errors import UsageError

        words, parser = [*args], self.make_parser(ctx)
        given = [parameter for parameter in parser.parse_args(words)[2] if parameter.name in _ONE_PLACE]
        twice = [parameter for parameter in given if not parameter.multiple and given.count(parameter) > 1]
        if twice:
            flag = twice[0].opts[0]
            raise UsageError(
                f"{flag} takes one {_ONE_PLACE[twice[0].name]}, and is given {given.count(twice[0])} times. "
                f"{_INSTEAD[twice[0].name]}"
            )

    @override
    def invoke(self, ctx: Any) -> Any:
        """As typer does it; before a verb's first import of torch, which may take long, something is said."""
        if self.name not in _LIGHT:
            say_loading()
        return super().invoke(ctx)

    @override
    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, then the options of each group."""
        groups: dict[str, list[tuple[str, str]]] = {title: [] for title in ("Arguments", "Options", *GROUPS)}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                groups[_group_of(parameter)].append(record)
        for title, records in groups.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def _group_of(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return "Arguments"
    return next((title for title, names in GROUPS.items() if parameter.name in names), "Options")
