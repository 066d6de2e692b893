"""What a person was told is in the log, also what was said before there was one; a stage is a line with its place and time left."""

import contextlib
import io
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from distill import console as module
from distill.console import Console
from tests.command_line import terminal


@contextlib.contextmanager
def screen():
    """Standard error is a terminal of 60 columns; a function that closes it and returns what it was sent, without colours."""
    with terminal(60) as (file, close), contextlib.redirect_stderr(file):
        yield lambda: re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", close())


def test_another_takes_the_lines_where_the_terminal_is_not_ours():
    lines: list[str] = []
    with screen() as sent:
        with Console(to=lines.append).stage("train") as advance:
            advance(1, 2)
        assert sent() == ""
    assert [re.sub(r"[\d.]+ s", "N s", line) for line in lines] == ["train: done in N s"]


def test_a_stage_says_its_place_and_never_a_total_that_nobody_knows():
    console = Console()
    console.plan(["load", "train", "report", "train"])
    with screen() as sent:
        with console.stage("train"):
            pass
        with console.stage("other"):
            pass
        with console.stage("report") as advance:
            advance(1, 4, "loss [bold] 3")
        said = sent()
    assert "[2/3] train" in said
    assert "[2/3] train: done in" in said
    assert "\nother: done in" in said.replace("\r", "")
    assert "[3/3] report" in said
    assert "1/4, 0:0" in said
    assert "loss [bold] 3" in said
    assert "0/?" not in said


def test_a_long_line_is_whole_words_on_a_terminal_and_one_line_in_the_log(tmp_path):
    console = Console()
    console.log_to(tmp_path / "log.txt")
    with screen() as sent:
        console.say("word " * 30)
        lines = sent().split("\n")
    assert max(map(len, lines)) <= 60
    assert {word for line in lines for word in line.split()} == {"word"}
    assert (tmp_path / "log.txt").read_text().count("\n") == 1


@pytest.mark.parametrize(
    ("done", "total", "seconds", "said"),
    [(0, 9, 5, "0/9"), (9, 9, 5, "9/9"), (1, 4, 10, "1/4, 0:30 left"), (3, 4, 183, "3/4, 1:01 left"), (1, 3, 3700, "1/3, 2:03:20 left")],
)  # fmt: skip
def test_the_time_left_is_by_the_pace_so_far(done, total, seconds, said):
    assert module._place(done, total, seconds) == said


def test_plain_lines_say_the_time_left_too(monkeypatch):
    clock = iter([0.0, 0.0, 20.0, 25.0, 40.0])
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(clock), strftime=time.strftime))
    monkeypatch.setattr(sys, "stderr", said := io.StringIO())
    console = Console()
    console.plan(["evaluate"])
    with console.stage("evaluate") as advance:
        advance(1, 3, "a")
        advance(2, 3, "b")
    assert said.getvalue().splitlines() == ["[1/1] evaluate: 1/3, 0:40 left a", "[1/1] evaluate: done in 40.0 s"]


def test_lines_said_before_the_log_are_in_it_and_stand_first(tmp_path, capsys):
    console = Console()
    console.say("train.lr = 0.001: as published")
    console.log_to(tmp_path / "log.txt")
    console.say("later")
    console.log_to(tmp_path / "log.txt")
    console.say("last")
    lines = [line[20:] for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert lines == ["train.lr = 0.001: as published", "later", "last"]
    assert capsys.readouterr().err.splitlines() == lines


@pytest.mark.process
def test_a_caller_that_closes_its_streams_gets_the_work_done():
    """`>&-` left Python without a sys.stdout: a training that was finished ended in a traceback as its result was printed."""
    closed = 'exec "$0" -W ignore -m distill list recipes <&- >&- 2>&-'
    assert subprocess.run(["sh", "-c", closed, sys.executable], check=False, timeout=60).returncode == 0
