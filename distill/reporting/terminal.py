"""Results on standard output, for people and for grep: tables, and names with their values.

Nothing is ever cut. In a pipe a table is plain columns, a line per row, two spaces apart. On a terminal it is drawn by rich
where rich is loaded already (a progress bar was shown), else plain; one that is wider than the terminal says once, above,
what is the same in all rows, and if that does not do, its rows are stacked: a line per value. Left out: reports
(distill.reporting.write).
"""

import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

_GAP = 2  # spaces between plain columns
_NARROWEST = 20  # places of a line that words are wrapped for


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
    if not sys.stdout.isatty():
        _print_plain(columns, rows, title, figures)
        return
    room = shutil.get_terminal_size().columns
    if "rich" in sys.modules and _needs(columns, rows, frame=True) <= room:
        _print_rich(columns, rows, title, figures)
        return
    said: list[str] = []
    if _needs(columns, rows) > room:
        said, columns, rows = _same_everywhere(columns, rows)
    title = "\n".join(filter(None, [title, *said]))
    if _needs(columns, rows) > room:
        _print_stacked(columns, rows, title, room)
    else:
        _print_plain(columns, rows, title, figures)


def _needs(columns: Sequence[str], rows: list[Sequence[str]], *, frame: bool = False) -> int:
    """Places of a terminal's line that a table takes, with rich's frame or plain."""
    total = sum(_widths(columns, rows))
    return total + (3 * len(columns) + 1 if frame else _GAP * (len(columns) - 1))


def _widths(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(_width(line[i]) for line in [columns, *rows]) for i in range(len(columns))]


def _width(text: str) -> int:
    """Places that a text takes: Chinese characters and most emoji take two, combining marks none."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(unicodedata.combining(letter) > 0 for letter in text)


def _same_everywhere(
    columns: Sequence[str], rows: list[Sequence[str]]
) -> tuple[list[str], Sequence[str], list[Sequence[str]]]:
    """Lines for the columns after the first that hold one value in all rows, and the table without them."""
    same = [i for i in range(1, len(columns)) if len(rows) > 1 and len({row[i] for row in rows}) == 1]
    kept = [i for i in range(len(columns)) if i not in same]
    lines = [f"{columns[i]}: {rows[0][i]}" for i in same]
    return lines, [columns[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _print_plain(columns: Sequence[str], rows: list[Sequence[str]], title: str, figures: bool) -> None:
    if title:
        print(title)
    for line in plain_lines(columns, rows, figures=figures):
        print(line)


def plain_lines(columns: Sequence[str], rows: Sequence[Sequence[str]], *, figures: bool = False) -> list[str]:
    """The lines of a table as plain columns, the names of the columns first. `figures`: as of `print_table`."""
    widths = _widths(columns, rows)
    lines = []
    for line in [columns, *rows]:
        cells = []
        for i, (text, width) in enumerate(zip(line, widths, strict=True)):
            space = " " * (width - _width(text))
            cells.append(space + text if figures and i else text + space)
        lines.append((" " * _GAP).join(cells).rstrip())
    return lines


def _print_stacked(columns: Sequence[str], rows: list[Sequence[str]], title: str, room: int) -> None:
    """A row is a line per value, "name: value", the first one at the margin and the others below it; empty ones are left out."""
    if title:
        print(title)
    room = max(room, _NARROWEST)
    for row in rows:
        for place, (name, text) in enumerate(zip(columns, row, strict=True)):
            if text:
                indent = "  " if place else ""
                print(
                    textwrap.fill(
                        f"{name}: {text}", room, initial_indent=indent, subsequent_indent="    ",
                        break_long_words=False, break_on_hyphens=False,
                    )
                )  # fmt: skip


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


def print_findings(findings: Iterable[tuple[bool, str, str, str]]) -> None:
    """Lines for people about things that are so or not: (ok, name, detail, what to do). Nothing is wider than the terminal, or
    than 100 places in a pipe; what to do stands below, where it is not ok."""
    findings = list(findings)
    room = shutil.get_terminal_size((100, 24)).columns
    names = max((_width(name) for _, name, _, _ in findings), default=0)
    for ok, name, detail, advice in findings:
        start = f"{'ok' if ok else '--'}  {name}{' ' * (names - _width(name))}  "
        for words in filter(None, [detail] if ok else [detail, advice]):
            indent = " " * _width(start)
            lines = textwrap.wrap(
                words,
                max(room, names + 30),
                initial_indent=start,
                subsequent_indent=indent,
                break_on_hyphens=False,
                break_long_words=False,
            )
            print("\n".join(lines) or start.rstrip())
            start = indent


def print_lints(found: dict[str, Any]) -> None:
    """A paragraph per finding, the errors first, and a line that counts; as of `distill.verbs.results.LintResult.to_json`."""
    room = shutil.get_terminal_size((100, 24)).columns

    def paragraph(text: str, indent: str) -> None:
        print(textwrap.fill(text, room, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False))

    for row in found["findings"]:
        places = ", ".join(filter(None, row["where"])) or f"the {row['tower']} tower"
        more = f" and {row['count'] - len(row['where'])} more" if row["count"] > len(row["where"]) else ""
        print(f"{row['severity']} {row['rule']} ({row['tower']}; {', '.join(row['targets'])})")
        paragraph(f"{places}{more}: {row['what']}", "    ")
        paragraph(f"{row['says']}. {row['mend'][:1].upper()}{row['mend'][1:]}. [{row['source']}]", "    ")
    counts = {name: sum(row["severity"] == name for row in found["findings"]) for name in "EWI"}
    told = f"{found['rules']} rules for {', '.join(found['targets'])}"
    errors, warnings = (
        f"{counts[name]} {word}{'s' * (counts[name] != 1)}" for name, word in (("E", "error"), ("W", "warning"))
    )
    print(f"{errors}, {warnings}, {counts['I']} to know, of {told}.")
    if found["mended"]:
        paragraph(f"Export mends first: {'; '.join(found['mended'])}.", "")
    for note in found["notes"]:
        paragraph(note, "")


def cell(value: Any) -> str:
    """A value in a few words: yes or no, a dash for None, the plain values of a dict by name."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {cell(item)}" for key, item in value.items() if not isinstance(item, (dict, list)))
    return "-" if value is None else str(value)
