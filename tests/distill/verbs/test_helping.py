"""Every verb's --help: its options in groups, none lost, an example that the verb takes."""

import re
import shlex

import pytest
import typer

from distill.cli import app
from distill.verbs.helping import GROUPS
from tests.command_line import distill

COMMANDS = typer.main.get_command(app).commands


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_stands_in_one_group(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    said = distill(name, "--help")
    assert said.returncode == 0
    for parameter in COMMANDS[name].params:
        if parameter.param_type_name == "option":
            assert (
                len(re.findall(rf"^  (?:-\w, )?{parameter.opts[0]}\b", said.stdout.partition("Example:")[0], re.M)) == 1
            ), parameter.name
    titles = re.findall(r"^(\w[\w ]*):$", said.stdout, re.M)
    assert titles == [title for title in ("Arguments", "Options", *GROUPS) if title in titles]
    assert max(map(len, said.stdout.splitlines())) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_is_of_this_verb_and_parses(name):
    example = shlex.split(COMMANDS[name].epilog.removeprefix("Example: "))
    assert example[:2] == ["distill", name]
    COMMANDS[name].make_context(name, example[2:])  # raises on an unknown flag


def test_every_name_of_a_group_is_an_option_of_some_verb():
    known = {parameter.name for command in COMMANDS.values() for parameter in command.params} | {"help"}
    assert {name for names in GROUPS.values() for name in names} <= known


def test_list_alone_says_what_can_be_listed():
    said = distill("list")
    assert said.returncode == 0
    for kind in re.findall(r"distill list (\w+)", said.stdout):
        assert distill("list", kind).returncode == 0
    keys = distill("list", "keys").stdout
    assert "train.lr" in keys
    assert "profile.max_celsius" in keys
