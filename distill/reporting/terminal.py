"""Results on standard output, for people and for grep: tables, and names with their values.

Nothing is ever cut, and nothing is wider than the terminal, or than 120 places in a pipe (COLUMNS says otherwise). A table is
plain columns, two spaces apart. One that is too wide says once, above, what is the same in all rows; if that does not do, its
widest columns are folded, their names first; and where even that makes no table that one can read, its rows are stacked: a line
per value. Left out: reports (distill.reporting.write).
"""

import os
import re
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

_GAP = 2  # spaces between plain columns
_NARROWEST = 20  # places of a line that words are wrapped for
_PIPE = 120  # places of a line where nobody says how wide it may be
_TALLEST = 6  # lines of a folded row: where one takes more, stacked rows read better


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "", figures: bool = False
) -> None:
    """Print a table.

    Args:
        columns: names of the columns.
        rows: one string per column each.
        title: a line above the table.
        figures: columns of numbers are aligned at the right.
    """
    rows, room = list(rows), room_for_lines()
    if title:
        print_paragraph(title)
    if _needs(columns, rows) > room:
        said, columns, rows = _same_everywhere(columns, rows)
        for line in said:
            print_paragraph(line)
    widths = _folded_widths(columns, rows, room)
    folded = [] if not widths else [_folded(line, widths) for line in (columns, *rows)]
    if not folded or max(len(row) for row in folded) > _TALLEST:
        _print_stacked(columns, rows, room)
        return
    right = _right(rows, len(columns)) if figures else []
    for row in folded:
        for cells in row:
            print(_aligned(cells, widths, right))


def room_for_lines() -> int:
    """Places that a line on standard output may take."""
    return shutil.get_terminal_size((_PIPE, 24)).columns if sys.stdout.isatty() else _room_in_a_pipe()


def _room_in_a_pipe() -> int:
    said = os.environ.get("COLUMNS", "")
    return int(said) if said.isdigit() and int(said) else _PIPE


def print_paragraph(text: str, indent: str = "") -> None:
    """Print a text in lines that fit, the ones after the first indented by `indent`; a word is never cut."""
    lines = textwrap.wrap(
        text,
        max(room_for_lines(), _NARROWEST),
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    print("\n".join(lines))


def _needs(columns: Sequence[str], rows: list[Sequence[str]]) -> int:
    """Places of a line that a table takes."""
    return sum(_widths(columns, rows)) + _GAP * (len(columns) - 1)


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


def plain_lines(columns: Sequence[str], rows: Sequence[Sequence[str]], *, figures: bool = False) -> list[str]:
    """The lines of a table as plain columns, the names of the columns first. `figures`: as of `print_table`."""
    widths, right = _widths(columns, rows), _right(rows, len(columns)) if figures else []
    return [_aligned(line, widths, right) for line in [columns, *rows]]


def _right(rows: Sequence[Sequence[str]], columns: int) -> list[int]:
    """The columns after the first whose every value begins as a number does, or is a dash or empty."""
    return [i for i in range(1, columns) if all(re.match(r"$|-$|[-+]?\.?\d|>=", row[i]) for row in rows)]


def _aligned(line: Sequence[str], widths: Sequence[int], right: Sequence[int]) -> str:
    """One line of a table. `right`: the columns that are aligned at the right."""
    cells = []
    for i, (text, width) in enumerate(zip(line, widths, strict=True)):
        space = " " * (width - _width(text))
        cells.append(space + text if i in right else text + space)
    return (" " * _GAP).join(cells).rstrip()


def _folded_widths(columns: Sequence[str], rows: list[Sequence[str]], room: int) -> list[int]:
    """A width per column with which the table fits, the widest ones folded as far as words allow; none where it cannot be."""
    widths = _widths(columns, rows)
    least = [
        max(_width(word) for line in (columns, *rows) for word in (_pieces(line[i]) or [""]))
        for i in range(len(columns))
    ]
    cells = [max(least[i], *(_width(row[i]) for row in rows)) if rows else least[i] for i in range(len(columns))]
    over = sum(widths) + _GAP * (len(columns) - 1) - room
    for floor in (cells, least):  # names of columns are folded before what stands in them
        while over > 0:
            widest = max((i for i in range(len(columns)) if widths[i] > floor[i]), key=lambda i: widths[i], default=-1)
            if widest < 0:
                break
            widths[widest] -= 1
            over -= 1
    return widths if over <= 0 else []


def _pieces(text: str) -> list[str]:
    """What is never broken: words, and of a path or an address the parts."""
    return re.findall(r"[^\s/]*/+|[^\s/]+", text)


def _folded(line: Sequence[str], widths: Sequence[int]) -> list[list[str]]:
    """The lines of one row: of each column the next piece that fits into its width, "" where it has no more."""
    cells = [_fold(text, width) for text, width in zip(line, widths, strict=True)]
    height = max(len(cell) for cell in cells)
    return [[cell[k] if k < len(cell) else "" for cell in cells] for k in range(height)]


def _fold(text: str, width: int) -> list[str]:
    if _width(text) <= width:
        return [text]
    lines = [""]
    for space, piece in re.findall(r"(\s*)([^\s/]*/+|[^\s/]+)", text):
        longer = lines[-1] + (" " if space and lines[-1] else "") + piece
        if lines[-1] and _width(longer) > width:
            lines.append(piece)
        else:
            lines[-1] = longer
    return lines


def _print_stacked(columns: Sequence[str], rows: list[Sequence[str]], room: int) -> None:
    """A row is a line per value, "name: value", the first one at the margin and the others below it; empty ones are left out."""
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


def print_rows(rows: list[dict[str, Any]], shown: Sequence[str] = ()) -> None:
    """A table of rows with the same keys; a column in which no row has a value is left out. `shown`: the only ones to show."""
    if not rows:
        print("none")
        return
    columns = [key for key in shown or rows[0] if any(row.get(key) not in (None, "", {}) for row in rows)]
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
    """Lines for people about things that are so or not: (ok, name, detail, what to do); what to do stands below, where it is
    not ok."""
    findings = list(findings)
    room = room_for_lines()
    names = max((_width(name) for _, name, _, _ in findings), default=0)
    for ok, name, detail, advice in findings:
        start = f"{'ok' if ok else '--'}  {name}{' ' * (names - _width(name))}  "
        for words in filter(None, [detail] if ok else [detail, advice]):
            indent = " " * _width(start)
            for line in _fold(words, max(room, names + 30) - len(indent)):
                print((start + line).rstrip())
                start = indent


def print_lints(found: dict[str, Any]) -> None:
    """A paragraph per finding, the errors first, and a line that counts; as of `distill.verbs.lint.LintResult.to_json`."""
    room = room_for_lines()

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
    """A value in a few words: yes or no, a dash for None, the plain values of a dict by name, those of a list one by one."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {cell(item)}" for key, item in value.items() if not isinstance(item, (dict, list)))
    if isinstance(value, (list, tuple)):
        return ", ".join(cell(item) for item in value)
    return "-" if value is None else str(value)
