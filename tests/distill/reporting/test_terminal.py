"""Tables on standard output: columns that grep and cut can read in a pipe, drawn on a terminal where rich is loaded."""

import sys

import pytest

from distill.reporting.terminal import print_pairs, print_rows, print_table


def test_in_a_pipe_a_row_is_a_line(capsys):
    print_table(["model", "R@1"], [["a [b] c", "7.0"], ["d", "12.5"]], title="all in percent", figures=True)
    assert capsys.readouterr().out == "all in percent\nmodel     R@1\na [b] c   7.0\nd        12.5\n"


def test_columns_without_a_value_are_left_out_and_values_are_words(capsys):
    print_rows([{"name": "host", "ready": True, "note": "", "of": {"a": 1, "b": [2]}}, {"name": "x", "ready": None}])
    assert capsys.readouterr().out == "name  ready  of\nhost  yes    a 1\nx     -      -\n"
    print_rows([])
    assert capsys.readouterr().out == "none\n"


def test_pairs_are_indented_below_their_name(capsys):
    print_pairs({"out": "o", "verify": {"passed": False, "teachers": {"t": {"min": 0.5}}}})
    assert capsys.readouterr().out == "out: o\nverify:\n  passed: no\n  teachers:\n    t:\n      min: 0.5\n"


@pytest.mark.parametrize("loaded", [True, False])
def test_rich_draws_on_a_terminal_where_it_is_loaded(capsys, monkeypatch, loaded):
    import rich

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    if not loaded:
        monkeypatch.delitem(sys.modules, "rich")
    print_table(["name"], [["[red]x[/red]"]])
    out = capsys.readouterr().out
    assert rich
    assert "[red]x[/red]" in out  # a cell is no markup
    assert ("━" in out) == loaded
