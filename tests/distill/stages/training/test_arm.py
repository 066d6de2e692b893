"""What sets the arms of a run apart."""

from types import SimpleNamespace
from typing import Any

import pytest

from distill.recipe import load_recipe
from distill.run_folder import RunFolder
from distill.stages.training.arm import Arm, distill_task
from students.spec import STUDENTS
from students.student import build_student


@pytest.mark.parametrize(
    ("towers", "chunk", "fixed"), [(["visual", "text"], None, True), (["text"], None, False), ([], 4, True)]
)
def test_batch_norms_are_fixed_where_they_came_with_statistics(
    tmp_path: Any, towers: list[str], chunk: Any, fixed: bool
) -> None:
    """Those of a random start hold a mean of 0 and a variance of 1, which are nobody's."""
    settings = {"train.batch_norm": "fixed", "train.chunk": chunk}
    recipe = load_recipe(None, {key: value for key, value in settings.items() if value is not None})
    arm = Arm("one", RunFolder(tmp_path), "clip", "none", None, plain=True)
    data = SimpleNamespace(teacher_facts={})
    task = distill_task(recipe, arm, build_student(STUDENTS.get("nano"), 0), data, {"towers": towers})
    assert task.fixed_norms is fixed
