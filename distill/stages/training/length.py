"""How long a training is: the epochs that fit data and student, in steps, and the steps of its warm-up."""

import math

from distill.recipe import Recipe
from distill.recipe.said import Filled, put
from students.spec import PublishedTraining

LEAST_SAMPLES, LEAST_EPOCHS, MOST_EPOCHS = 10_240, 1.5, 40  # of training, for a student that inherits
AT_RANDOM = 4  # times as much for one that does not
TOWERS_SAMPLES, TOWERS_BATCH = 140_800, 512  # of heads over frozen towers: what the sail teacher's figures were made by


def epochs_that_fit(recipe: Recipe, images: int) -> tuple[float, str]:
    """(how often each image is seen, why), as `budget.fitted` says."""
    samples: float
    least: float
    most: float
    inherits = recipe.student.inherit != "none" and bool(recipe.teachers or recipe.student.inherit_from)
    if recipe.towers:
        samples, least, most, start = TOWERS_SAMPLES, LEAST_EPOCHS, math.inf, "of heads a step costs next to nothing"
    elif inherits:
        samples, least, most, start = LEAST_SAMPLES, LEAST_EPOCHS, MOST_EPOCHS, "it inherits"
    else:
        samples, least, most = (AT_RANDOM * number for number in (LEAST_SAMPLES, LEAST_EPOCHS, MOST_EPOCHS))
        start = "it starts at random"
    wanted = samples / max(1, images)
    epochs = min(most, max(least, wanted))
    if epochs == wanted:
        return epochs, f"{samples:,.0f} samples, since {start}"
    return epochs, f"at {'most' if epochs < wanted else 'least'} {epochs:g} times each, since {start}"


def warmup_steps(recipe: Recipe, published: PublishedTraining | None) -> tuple[int, str]:
    """(steps of warm-up, why so many), where the recipe says none."""
    steps, usual = recipe.train.steps, recipe.train.warmup_steps
    if published is not None:
        return math.ceil(published.warmup_share * steps), f"{published.warmup_share:.1%} of the steps, as published"
    if steps < 4 * usual:
        return math.ceil(steps / 4), "a quarter of the steps"
    return max(usual, math.ceil(steps / 20)), f"5 % of the steps, at least {usual}"


def with_steps(recipe: Recipe, images: int) -> tuple[Recipe, Filled]:
    """The recipe with train.samples or train.epochs, if it has either, turned into train.steps."""
    train = recipe.train
    if train.samples:
        seen, why = float(train.samples), f"{train.samples:,} samples"
    elif train.epochs:
        seen, why = train.epochs * images, f"{train.epochs:.4g} epochs of {images:,} images"
    else:
        return recipe, {}
    steps = max(1, math.ceil(round(seen / train.batch_size, 6)))  # 10,240 samples / 300 images x 300 is a hair more
    values = {"train.steps": steps, "train.samples": None, "train.epochs": None}
    return put(recipe, values), {"train.steps": f"{why} in batches of {train.batch_size:,}"}
