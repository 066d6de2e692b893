"""The terms of every origin of a weight or a number arrive in a student's card, through as many stages as there are."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from distill.models import TeacherSet
from distill.recipe import load_recipe
from distill.run_folder import RunFolder
from distill.stages.train import allows_commercial_use, train_model, training_licence, with_inherited_licence
from distill.stages.training.arm import Arm
from export.app.licence import Notice, licence_text
from reinforced_data.store.manifest import SourceFacts, licence_summary
from reinforced_data.store.names import MANIFEST_FILE
from students.spec import STUDENTS
from students.student import build_student

ORIGINS = {"data": "DATA TERMS", "teacher": "TEACHER TERMS", "captioner": "CAPTIONER TERMS"}


def reinforced_set(folder: Path, commercial: bool = True) -> Path:
    """As much of a reinforced set as says its terms."""
    source = SourceFacts(name="photos", location="x", licence=ORIGINS["data"], fingerprint="0", samples=1)
    models = [{"name": name, "licence": ORIGINS[name], "commercial": commercial} for name in ("teacher", "captioner")]
    folder.mkdir(parents=True)
    summary = licence_summary(source, models[:1], models[1:])
    (folder / MANIFEST_FILE).write_text(json.dumps({"licence_summary": summary}))
    return folder


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Everything of a training but the steps: what the student starts from and what its card says."""
    monkeypatch.setattr("distill.learning.fit.fit", lambda *args, **options: None)

    def run(name: str, licence: str, **settings: Any) -> dict[str, Any]:
        recipe = load_recipe(None, {"student.name": "nano", "objective": "clip", **settings})
        teachers = None if recipe.student.inherit_from is None else TeacherSet((), random_weights=False, seed=0)
        arm = Arm(name, RunFolder(tmp_path / name), recipe.objective, recipe.student.inherit, teachers)
        folder = train_model(
            recipe, arm, SimpleNamespace(teacher_facts={}, side=lambda: 64), licence, lambda *step: None
        )
        card: dict[str, Any] = json.loads((folder / "card.json").read_text())
        return card

    return run


def test_data_teachers_and_captioners_arrive(train: Any, tmp_path: Path) -> None:
    card = train("one", training_licence(reinforced_set(tmp_path / "set"), ""), **{"student.inherit": "none"})
    for terms in ORIGINS.values():
        assert terms in card["licence"]
    assert card["licence"].endswith("no teacher or captioner forbids commercial use")


def test_earlier_stages_arrive_through_inherit_from(train: Any, tmp_path: Path) -> None:
    """A third stage on free data still says what the first one was made of."""
    train(
        "one", training_licence(reinforced_set(tmp_path / "set", commercial=False), ""), **{"student.inherit": "none"}
    )
    for before, name in (("one", "two"), ("two", "three")):
        start = {"student.inherit": "copy", "student.inherit_from": str(tmp_path / before / "student")}
        card = train(name, "data mine: CC0-1.0; no teacher forbids commercial use", **start)
        for terms in (*ORIGINS.values(), "CC0-1.0"):
            assert terms in card["licence"], name
        assert "no commercial use because of teacher, captioner" in card["licence"]
        assert "forbids commercial use" not in card["licence"]
        text = licence_text(Notice.of(card["licence"], {"student": card["name"]}), {"student": card["name"]})
        assert card["licence"] in text


def test_terms_are_said_once_but_never_swallowed_by_longer_words() -> None:
    took = {"towers": ["text"], "source": "x", "source_licence": "MIT", "source_commercial": True}
    assert with_inherited_licence("data d: MIT; teacher t: Apache-2.0", took) == "data d: MIT; teacher t: Apache-2.0"
    for other in ("data d: MIT-like, unclear", "data d: PERMITTED", "data d: not MIT"):
        assert with_inherited_licence(other, took) == f"{other}; weights inherited from x: MIT"


def test_a_free_student_is_free_in_the_next_stage(train: Any, tmp_path: Path) -> None:
    free = "data mine: CC0-1.0; teacher t: MIT; no teacher forbids commercial use"
    assert train("one", free, **{"student.inherit": "none"})["commercial"] is True
    start = {"student.inherit": "copy", "student.inherit_from": str(tmp_path / "one" / "student")}
    second = train("two", "data other: MIT", **start)
    assert "no commercial use" not in second["licence"]
    for terms, verdict in (
        (free, True), (free.replace("MIT", "unknown"), None), (free.replace("CC0-1.0", "CC-BY-NC-4.0"), None),
        ("data mine: MIT", None), ("teacher t: x; no commercial use because of t", False),
    ):  # fmt: skip
        assert allows_commercial_use(terms) is verdict


def test_inherited_weights_that_forbid_commercial_use_say_so() -> None:
    took = {"towers": ["text"], "source": "x", "source_licence": "research", "source_commercial": False}
    assert with_inherited_licence("data d: MIT; no teacher forbids commercial use", took) == (
        "data d: MIT; weights inherited from x: research; no commercial use because of the weights inherited from x"
    )


def test_a_teacher_hands_on_its_terms_with_its_weights(tmp_path: Path) -> None:
    from teachers.load import load_teacher

    build_student(STUDENTS.get("nano"), 0).save(tmp_path / "t", {"licence": "RESEARCH ONLY", "commercial": False})
    weights = load_teacher(str(tmp_path / "t")).inheritable()
    assert (weights.licence, weights.commercial) == ("RESEARCH ONLY", False)
    assert torch.is_tensor(next(iter(weights.state.values())))
