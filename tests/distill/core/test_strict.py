"""Strict settings: near keys, --set, TOML errors, and that every shipped recipe is valid."""

import pytest

from distill.core.errors import UsageError
from distill.core.strict import apply_settings, load_toml
from distill.recipe import RECIPES, Recipe, load_recipe


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["train.weight_decy=0.1"], ["weight_decy", "weight_decay"]),
        (["sttudent.name=nano"], ["sttudent", "student"]),
        (["train.lr=fast"], ["train.lr", "fast"]),
        (["train.steps=0"], ["train.steps", "greater than or equal to 1"]),
        (["train.lr"], ["key=value"]),
        (["objective.affinity=1", "seed.x=1"], ["seed"]),
        (["reinforce.embed_dtype=fp8"], ["embed_dtype", "fp8"]),
    ],
)
def test_wrong_keys_and_values_are_named_with_the_near_one(sets, words):
    with pytest.raises(UsageError) as error:
        load_recipe(None, sets)
    for word in words:
        assert word in str(error.value)


def test_a_key_of_several_types_is_one_error_without_the_names_of_types():
    with pytest.raises(UsageError) as caught:
        load_recipe(None, ["train.workers=banana", "student.inherit_across=5"])
    said = str(caught.value)
    assert said.count("key '") == 2
    assert said.count("'auto'") == 2
    assert "valid integer" in said
    assert "constrained" not in said
    assert "literal[" not in said


def test_sets_are_typed_as_toml_and_bare_words_are_strings():
    values = apply_settings({"a": {"b": 1}}, ["a.b=1e-3", "a.c=true", "d=hello", "e=[1, 2]", 'f="x=y"'])
    assert values == {"a": {"b": 1e-3, "c": True}, "d": "hello", "e": [1, 2], "f": "x=y"}


def test_flags_win_over_the_file_and_sets_over_flags(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text('data = "a"\nseed = 1\n[train]\nlr = 1e-4\n')
    recipe = load_recipe(str(path), ["seed=3"], {"data": "b", "student.name": "mci0", "objective": None})
    assert (recipe.data, recipe.seed, recipe.train.lr, recipe.student.name) == ("b", 3, 1e-4, "mci0")


@pytest.mark.parametrize(("text", "word"), [(b"a = = 1", "not valid TOML"), (b"\xff\xfe", "cannot be read")])
def test_an_unreadable_recipe_is_named(tmp_path, text, word):
    path = tmp_path / "bad.toml"
    path.write_bytes(text)
    with pytest.raises(UsageError, match=word):
        load_toml(path)
    with pytest.raises(UsageError, match="no recipe"):
        load_toml(tmp_path / "none.toml")


def test_every_shipped_recipe_is_valid():
    names = [file.stem for file in RECIPES.glob("*.toml")]
    assert "rendered-teacher" in names
    for name in names:
        load_recipe(name, [])
    with pytest.raises(UsageError, match="rendered-teacher"):
        load_recipe("renderd-teacher", [])


def test_defaults_survive_the_round_trip_through_json():
    assert Recipe.model_validate_json(Recipe().model_dump_json()) == Recipe()
