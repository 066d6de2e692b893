"""Tables on standard output: plain columns, never cut and never wider than the terminal, or than 120 places in a pipe."""

import re
import sys

import pytest

from distill.reporting.terminal import print_pairs, print_rows, print_table


def test_in_a_pipe_a_row_is_a_line(capsys):
    print_table(
        ["model", "R@1", "of"], [["a [b] c", "7.0", "x"], ["d", "12.5", "yz"]], title="in percent", figures=True
    )
    assert capsys.readouterr().out == "in percent\nmodel     R@1  of\na [b] c   7.0  x\nd        12.5  yz\n"


def test_columns_without_a_value_are_left_out_and_values_are_words(capsys):
    print_rows([{"name": "host", "ready": True, "note": "", "of": {"a": 1, "b": [2]}}, {"name": "x", "ready": None}])
    assert capsys.readouterr().out == "name  ready  of\nhost  yes    a 1\nx     -      -\n"
    print_rows([])
    assert capsys.readouterr().out == "none\n"


def test_pairs_are_indented_below_their_name(capsys):
    print_pairs({"out": "o", "verify": {"passed": False, "teachers": {"t": {"min": 0.5}}}})
    assert capsys.readouterr().out == "out: o\nverify:\n  passed: no\n  teachers:\n    t:\n      min: 0.5\n"


COLUMNS = (
    "model",
    "zero-shot top-1",
    "text-to-image R@1",
    "image-to-text R@1",
    "size MB (fp32)",
    "host p50 ms (image / text)",
)
ROWS = [
    ("teacher: dfn-vitl14", "81.4", "71.2", "88.0", "1710.5", "1234.56 / 345.67"),
    ("student: mci2", "74.2", "63.0", "81.1", "397.2", "123.45 / 34.56"),
    ("plain student: 学生", "15.8", "-", "-", "397.2", "123.40 / 34.51"),
]


def drawn(capsys, monkeypatch, columns, rows, room, **more):
    """What a terminal of so many places shows."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(room))
    print_table(columns, rows, **more)
    return capsys.readouterr().out


@pytest.mark.parametrize("room", [20, 40, 60, 80, 120, 200])
def test_nothing_is_cut_and_nothing_is_wider_than_the_terminal(capsys, monkeypatch, room):
    from rich.cells import cell_len

    out = re.sub(r"\x1b\[[0-9;]*m", "", drawn(capsys, monkeypatch, COLUMNS, ROWS, room, figures=True))
    words = " ".join(out.split())
    for text in (*COLUMNS, *(value for row in ROWS for value in row)):
        assert text in words or all(word in words for word in text.split())  # folded into lines of its column
    assert "…" not in out
    widest = max(max(cell_len(word) for word in text.split()) + 4 for row in (COLUMNS, *ROWS) for text in row)
    assert all(cell_len(line) <= max(room, widest) for line in out.splitlines())
    assert out.startswith("model: teacher:") == (room < 80)  # folded no further than one can read
    assert ("text-to-image R@1" in out) == (room < 80 or room >= 118)  # the places that the plain table takes


def test_what_is_the_same_in_all_rows_is_said_once_where_that_is_enough(capsys, monkeypatch):
    columns, note = ("file", "device", "p50", "note"), "this computer's CPU; it does not rank runtimes or precisions"
    out = drawn(capsys, monkeypatch, columns, [("a", "host", "1", note), ("b", "host", "2", note)], 75)
    assert out == f"device: host\nnote: {note}\nfile  p50\na     1\nb     2\n"


def test_a_column_is_folded_at_words_and_at_the_parts_of_a_path(capsys, monkeypatch):
    rows = [("a", "one two three four", "x/long/path/file"), ("学生", "five", "y")]
    out = drawn(capsys, monkeypatch, ("n", "words", "place"), rows, 26)
    assert out.splitlines() == [
        "n     words      place",
        "a     one two    x/long/",
        "      three      path/file",
        "      four",
        "学生  five       y",
    ]


def test_a_pipe_is_as_wide_as_said_else_120(capsys, monkeypatch):
    rows = [("a", "word " * 60), ("b", "more " * 2)]
    for said, room in ((None, 120), ("80", 80), ("x", 120)):
        monkeypatch.setenv("COLUMNS", said) if said else monkeypatch.delenv("COLUMNS", raising=False)
        print_table(("n", "words"), rows)
        lines = capsys.readouterr().out.splitlines()
        assert room - 5 <= max(map(len, lines)) <= room
        assert lines[-1] == "b  more more"


def test_wide_letters_are_aligned_as_terminals_show_them(capsys):
    print_table(["word", "n"], [["学生", "1"], ["ab", "2"]])
    assert capsys.readouterr().out == "word  n\n学生  1\nab    2\n"


@pytest.mark.process
@pytest.mark.parametrize("room", [60])
def test_a_real_terminal_shows_whole_words(room):
    import fcntl
    import os
    import pty
    import struct
    import subprocess
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, room, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "distill", "list", "teachers"], stdout=theirs, stderr=theirs, env=environment
    )  # fmt: skip
    os.close(theirs)
    out = b""
    while True:
        try:
            more = os.read(ours, 65536)
        except OSError:  # how a terminal says that nobody writes to it any more
            break
        if not more:
            break
        out += more
    os.close(ours)
    assert process.wait() == 0
    text = out.decode()
    from teachers.spec import TEACHERS

    for name, spec in TEACHERS.items():
        assert name in text
        assert all(word in text for word in spec.licence.split())
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= room


def test_findings_fit_and_say_what_to_do_where_it_is_not_so(monkeypatch, capsys):
    from distill.reporting.terminal import print_findings

    monkeypatch.setenv("COLUMNS", "60")
    long = "one word after another " * 8
    print_findings(
        [
            (True, "torch", "2.13.0", "never shown"),
            (False, "adb", long, "apt install adb"),
            (False, "disk", "", "free some"),
        ]
    )
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[0] == "ok  torch  2.13.0"
    assert lines[1].startswith("--  adb    one word")
    assert " ".join(" ".join(lines[1:]).split()).startswith(
        "-- adb " + long.strip() + " apt install adb -- disk free some"
    )
