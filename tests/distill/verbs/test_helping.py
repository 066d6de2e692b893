"""Every verb's --help: its options in groups, none lost, an example that the verb takes."""

import re
import shlex

import pytest
import typer

from distill.cli import app
from distill.recipe import Recipe, load_recipe
from distill.verbs.flags import flagged
from distill.verbs.helping import ALSO_CALLED, GROUPS
from distill.verbs.listing import KINDS, recipe_keys
from tests.command_line import distill, on_terminal

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


def test_every_recipe_key_says_what_it_is_and_its_default_can_be_said():
    keys = recipe_keys(Recipe())
    assert [name for name, _, what in keys if len(what) < 8] == []
    said = [f"{name}={default}" for name, default, _ in keys if default != "none"]
    assert load_recipe(None, said).model_dump() == Recipe().model_dump()


@pytest.mark.parametrize("room", [80, 120])
@pytest.mark.parametrize("kind", ["", *KINDS])
def test_a_list_fits_the_terminal_and_a_pipe_and_cuts_no_header(kind, room, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(room))
    pipe = distill("list", *filter(None, [kind])).stdout
    assert on_terminal(room, "list", *filter(None, [kind])).stdout == pipe
    assert max(map(len, pipe.splitlines())) <= room
    assert "…" not in pipe


def test_a_pipe_of_no_said_width_is_120(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = distill("list", "rules").stdout.splitlines()
    assert 100 < max(map(len, lines)) <= 120


def test_every_name_of_a_group_is_an_option_of_some_verb():
    known = {parameter.name for command in COMMANDS.values() for parameter in command.params} | {"help"}
    assert {name for names in GROUPS.values() for name in names} <= known


def test_list_alone_says_what_can_be_listed_with_the_default_recipe_and_every_source():
    from reinforced_data.source import SOURCES

    said = distill("list")
    assert said.returncode == 0
    kinds, rest = said.stdout.split("\n\n", 1)
    assert set(re.findall(r"distill list (\w+)", kinds)) == set(KINDS)
    assert 'student.name = "nano"' in rest
    for source in SOURCES:
        assert re.search(rf"^{source} +\w", rest, re.M), source
    keys = distill("list", "keys").stdout
    assert "train.lr" in keys
    assert "profile.max_celsius" in keys


@pytest.mark.parametrize(
    ("verb", "flag", "meant"),
    [
        ("run", "--learning-rate", "--lr"),
        ("train", "--batch_size", "--batch-size"),
        ("run", "--epoch", "--epochs"),
        ("run", "--num-workers", "--workers"),
        ("train", "--imgsz", "--image-size"),
        ("eval", "--bach-size", "--batch-size"),
        ("run", "--weight-decay", "--set train.weight_decay="),
        ("run", "--views-per-image", "--set reinforce.views_per_image="),
        ("run", "--warmup", "--set train.warmup_steps="),
        ("reinforce", "--lr", "--set train.lr="),
        ("devices", "--lr", "distill devices --help"),
    ],
)
def test_an_unknown_flag_names_the_flag_or_the_key_that_it_may_mean(verb, flag, meant):
    said = distill(verb, flag, "3")
    assert said.returncode == 2
    assert flag in said.stderr
    assert meant in said.stderr


def test_what_others_call_a_flag_is_one_of_ours():
    from distill.recipe import Recipe
    from distill.verbs.listing import recipe_keys

    flags = {name for command in COMMANDS.values() for parameter in command.params for name in parameter.opts}
    keys = {key for key, _, _ in recipe_keys(Recipe())}
    assert {*ALSO_CALLED.values()} <= flags | keys


def test_the_list_of_verbs_cuts_no_sentence(monkeypatch):
    for columns in ("80", "120"):
        monkeypatch.setenv("COLUMNS", columns)
        said = distill("--help").stdout
        words = " ".join(said.split())
        assert "..." not in said.partition("Commands:")[2]
        assert max(map(len, said.splitlines())) <= int(columns)
        for name, command in COMMANDS.items():
            assert f"{name} {' '.join(str(command.help).split())}" in words


def test_several_places_for_a_flag_of_one_are_refused_and_other_flags_may_come_again(tmp_path):
    said = distill("plan", "--data", "a", "--batch-size", "8", "--data", "b", cwd=tmp_path)
    assert said.returncode == 2
    assert "--data takes one place, and is given 2 times. Put the images into one folder" in said.stderr
    said = distill("plan", "--data", "rendered", "--batch-size", "8", "--batch-size", "0", cwd=tmp_path)
    assert "train.batch_size" in said.stderr


def test_several_names_may_stand_in_one_word_with_commas():
    """As other tools take them; places and filters may hold commas, and are one each."""
    given = flagged(
        target="onnx,litert-w8", precision=("fp32", "fp16, int8"), device="pixel 8,host", data="a,b", teacher="x,y"
    )
    assert given == {
        "export.targets": ["onnx", "litert-w8"],
        "export.precisions": ["fp32", "fp16", "int8"],
        "profile.devices": ["pixel 8", "host"],
        "data": "a,b",
        "teachers": ["x,y"],
    }
