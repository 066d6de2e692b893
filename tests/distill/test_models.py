"""The student that a recipe names: what of it is refused before anything is built."""

import pytest

from distill.core.errors import UsageError
from distill.models import student_spec
from distill.recipe import StudentRecipe
from students.spec import STUDENTS


@pytest.mark.parametrize(("name", "patch"), [("nano", 8), ("tinyclip-vit8m16", 16), ("vit-b-32", 32)])
def test_an_image_size_that_cuts_a_patch_is_refused(name, patch):
    assert STUDENTS.get(name).model_cfg["vision_cfg"]["patch_size"] == patch
    assert student_spec(StudentRecipe(name=name, image_size=5 * patch)).image_size == 5 * patch
    with pytest.raises(UsageError, match=f"Take {5 * patch} or {6 * patch}"):
        student_spec(StudentRecipe(name=name, image_size=5 * patch + 1))


def test_convolutions_take_any_size():
    assert student_spec(StudentRecipe(name="mci0", image_size=100)).image_size == 100
