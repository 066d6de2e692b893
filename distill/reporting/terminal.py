"""Results on standard output, for people and for grep: tables, and names with their values.

A table is drawn by rich on a terminal where rich is loaded already (a progress bar was shown); everywhere else, in pipes
above all, it is plain columns: a line per row, two spaces apart, quick to print. Left out: reports (distill.reporting.write).
"""

import sys
from collections.abc import Iterable, Sequence
from typing import Any


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "", figures: bool = False
) -> None:
    """Print a table.

    Args:
        columns: names of the columns.
        rows: one string per column each.
        title: a line above the table.
        figures: columns after the first hold numbers, which are aligned at the right.
    """
    rows = list(rows)
    if sys.stdout.isatty() and "rich" in sys.modules:
        _print_rich(columns, rows, title, figures)
        return
    if title:
        print(title)
    widths = [max(len(line[i]) for line in [columns, *rows]) for i in range(len(columns))]
    for line in [columns, *rows]:
        cells = [
            text.rjust(width) if figures and i else text.ljust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def _print_rich(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str, figures: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title) if title else None, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if figures and index else "left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: brackets in a cell are no markup
    Console().print(table)


def print_rows(rows: list[dict[str, Any]]) -> None:
    """A table of rows with the same keys; a column in which no row has a value is left out."""
    if not rows:
        print("none")
        return
    columns = [key for key in rows[0] if any(row.get(key) not in (None, "", {}) for row in rows)]
    print_table(columns, [[cell(row.get(column)) for column in columns] for row in rows])


def print_pairs(values: dict[str, Any], indent: str = "") -> None:
    """A line per key and value; what a dict holds stands below its name, indented."""
    for key, value in values.items():
        if isinstance(value, dict):
            print(f"{indent}{key}:")
            print_pairs(value, indent + "  ")
        else:
            print(f"{indent}{key}: {cell(value)}")


def cell(value: Any) -> str:
    """A value in a few words: yes or no, a dash for None, the plain values of a dict by name."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {cell(item)}" for key, item in value.items() if not isinstance(item, (dict, list)))
    return "-" if value is None else str(value)
