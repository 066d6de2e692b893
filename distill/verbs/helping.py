"""How a verb's --help is laid out: options in groups, an example at the end. Plain text, so that it answers at once."""

from typing import Any

import typer.core
from typing_extensions import override

# Title -> the options of that group, whichever verb has them, in this order. A verb's own options come first.
GROUPS = {
    "Models and data": ("teacher", "captioner", "student", "data", "split", "filters"),
    "What is made": ("target", "precision", "max_drop", "max_mb", "classes", "template", "batch"),
    "Budget": ("max_latency", "max_size", "max_memory"),
    "Phones and browsers": ("device", "runner", "lan", "port"),
    "Run folder": ("out", "resume", "extend", "overwrite"),
    "Several processes": ("executor", "tasks", "workers", "slurm_partition"),
    "Settings and output": ("recipe", "sets", "rehearse", "verify", "calibrate", "as_json", "help"),
}


class Grouped(typer.core.TyperCommand):
    """A command whose options are listed by `GROUPS`."""

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
