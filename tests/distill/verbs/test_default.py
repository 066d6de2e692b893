"""What ships for the embedded default: the teacher is whole, small, documented, and knows what its README says."""

import re
from pathlib import Path

import pytest

from distill.core import atomic
from distill.core.errors import DistillError
from distill.recipe import Recipe, load_recipe
from teachers.load import load_teacher

FOLDER = Path(__file__).resolve().parents[3] / "teachers" / "weights" / "rendered"


def test_the_teacher_comes_with_recipe_card_and_log_and_is_small():
    assert {p.name for p in FOLDER.iterdir()} >= {
        "model.safetensors",
        "card.json",
        "recipe.toml",
        "training-log.jsonl",
        "README.md",
    }
    assert sum(p.stat().st_size for p in FOLDER.iterdir()) < 10_000_000
    recipe = load_recipe(str(FOLDER / "recipe.toml"), [])
    assert recipe.model_dump() == load_recipe("rendered-teacher", []).model_dump() | {
        "baseline": recipe.baseline.model_dump()
    } | {name: getattr(recipe, name).model_dump() for name in ("profile", "export", "reinforce", "eval")}
    assert atomic.read_json(FOLDER / "card.json")["samples"] == recipe.train.steps * recipe.train.batch_size


def test_the_teacher_knows_colours_and_finds_scenes_by_caption():
    import distill

    figures = distill.eval("rendered", load_recipe(None, ["eval.limit=100"]))
    assert figures.zero_shot["top1"] > 90
    assert figures.retrieval["t2i_r1"] > 45  # of 100; 37.9 of 500
    assert figures.retrieval["i2t_r1"] > 70


def test_the_default_recipe_needs_no_file_and_no_network():
    recipe = Recipe()
    assert recipe.teachers == ("rendered",)
    assert recipe.data.startswith("rendered")
    assert recipe.baseline.enabled
    assert set(recipe.export.targets) == {"executorch-xnnpack", "coreml", "onnx"}


def test_a_teacher_without_heads_names_the_recipe_that_trains_them():
    with pytest.raises(DistillError) as caught:
        load_teacher("sail-lite0-minilm")
    said = re.search(r"distill train --recipe (\S+) --data", str(caught.value))
    assert said is not None
    assert load_recipe(said[1], []).towers == "sail-lite0-minilm"
