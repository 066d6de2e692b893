"""The verbs that say what there is: list, doctor, devices."""

from typing import Annotated, Any

import typer

from distill.cli import shown
from distill.cli.base import app, print_result
from distill.cli.flags import JsonFlag
from distill.reporting.terminal import print_findings, print_rows
from distill.verbs.helping import Grouped, say_loading


@app.command(name="list", cls=Grouped, epilog="Example: distill list targets")
def list_(
    kind: Annotated[
        str | None, typer.Argument(help="teachers, students, targets, recipes, keys...; none = what can be listed.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """What can be named in a call."""
    from distill.verbs.listing import SHOWN, list_names

    if kind in ("losses", "objectives"):
        say_loading()

    def show(found: Any) -> None:
        if kind is None:
            shown.show_overview(found)
        elif kind == "keys":
            shown.show_keys(found.rows)
        else:
            print_rows(found.rows, SHOWN.get(kind, ()))

    print_result(list_names(kind), as_json, show)


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

    print_result(verb(install=install or ()), as_json, show)


@app.command(cls=Grouped, epilog="Example: distill devices")
def devices(as_json: JsonFlag = False) -> None:
    """This host and attached phones, and what is missing to use them."""
    from distill.verbs.machine import devices as verb

    def show(found: Any) -> None:
        print_findings((row["ready"], row["name"], _device(row), row["missing"]) for row in found.rows)

    print_result(verb(), as_json, show)


def _device(row: dict[str, Any]) -> str:
    """A device in a line: what it is, its system, what runs there."""
    runtimes = ", ".join(f"{name} {version}" for name, version in row["runtimes"].items())
    asked = "timed only where it is named" if row["attended"] else ""
    return "; ".join(filter(None, [row["model"], row["os"], runtimes, asked]))
