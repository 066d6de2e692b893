"""The rehearsal's cuts: full-size models, a handful of everything else."""

from distill.recipe import Recipe, load_recipe
from distill.rehearsal import SAMPLES, rehearsal_of, small_task
from reinforced_data.sample import ZeroShotTask


def test_models_targets_and_data_stay_and_amounts_shrink():
    recipe = load_recipe(None, ["student.name=mci2", "teachers=['dfn-vitl14']", "data=photos"])
    cut = rehearsal_of(recipe)
    assert (cut.student, cut.teachers, cut.data, cut.export.targets) == (
        recipe.student,
        recipe.teachers,
        "photos",
        recipe.export.targets,
    )
    assert cut.rehearse
    assert cut.train.steps * cut.train.batch_size <= SAMPLES
    assert cut.limit == cut.eval.limit == SAMPLES
    assert Recipe.model_validate(cut.model_dump()) == cut


def test_a_zero_shot_task_keeps_only_images_whose_class_is_kept():
    task = ZeroShotTask(
        "t",
        tuple(bytes([i]) for i in range(40)),
        tuple((7 * i) % 20 for i in range(40)),
        tuple("abcdefghijklmnopqrst"),
        ("{}", "a {}"),
    )
    small = small_task(task)
    assert len(small.images) == len(small.labels) == len(small.class_names) == SAMPLES
    assert max(small.labels) < SAMPLES
    for image, label in zip(small.images, small.labels, strict=True):
        assert task.labels[image[0]] == label
    assert small_task(None) is None
    assert small_task(ZeroShotTask("t", (b"x",), (19,), task.class_names, ("{}",))) is None
