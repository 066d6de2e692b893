"""The rendered source: the same bytes for the same seed in any order, locations, limits, the zero-shot task."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from distill.core.errors import UsageError
from reinforced_data.rendered import COLOURS, sample_scene, scene_rng
from reinforced_data.rendered.captions import CLASS_NAMES, CLASSES
from reinforced_data.rendered.scene import CLASHES, TINTS
from reinforced_data.sources.rendered import Parameters, open_rendered, parse_location


def colour_mask(image: Image.Image, colour: str) -> np.ndarray:
    pixels = np.asarray(image.convert("RGB"), dtype=int)
    return np.abs(pixels - np.array(COLOURS[colour])).max(axis=-1) <= 24


@pytest.mark.parametrize("split", ["train", "eval"])
def test_two_opens_in_any_order_give_equal_samples(split: str) -> None:
    first, second = (open_rendered("rendered", split, 40) for _ in range(2))
    order = list(range(40))
    random.Random(1).shuffle(order)
    shuffled = {i: second[i] for i in order}
    assert [first[i] for i in range(40)] == [shuffled[i] for i in range(40)]
    assert first.fingerprint == second.fingerprint


def test_samples_are_what_the_contract_says() -> None:
    source = open_rendered("rendered:size=96", "train", None)
    assert len(source) == 4000
    sample = source[17]
    assert sample.key == "rendered-train-000017"
    assert sample.label is None
    assert len(sample.captions) == 5
    assert {c.source for c in sample.captions} == {"real"}
    image = Image.open(io.BytesIO(sample.image))
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", (96, 96))
    assert source.name == "rendered"
    assert source.licence.startswith("Apache-2.0")


def test_a_limit_and_a_longer_set_keep_the_samples_before_them() -> None:
    whole = open_rendered("rendered", "eval", None)
    assert (len(whole), len(open_rendered("rendered", "eval", 7)), len(open_rendered("rendered", "eval", 999))) == (
        *(500, 7, 500),
    )
    assert open_rendered("rendered:eval=9000", "eval", 7)[6] == whole[6]
    for index in (-1, 500):
        with pytest.raises(IndexError):
            whole[index]


def test_the_fingerprint_moves_with_the_content_and_only_then() -> None:
    def of(location: str, split: str = "train", limit: int | None = None) -> str:
        return open_rendered(location, split, limit).fingerprint  # type: ignore[arg-type]

    changed = [of("rendered:seed=1"), of("rendered:size=32"), of("rendered:train=9"), of("rendered", "eval")]
    assert len({of("rendered"), *changed}) == 5
    assert of("rendered:eval=7,train=4000") == of("rendered") == of("rendered", limit=5000)
    assert of("rendered", limit=9) == of("rendered:train=9")


def test_the_seed_changes_every_scene() -> None:
    a, b = open_rendered("rendered", "train", 20), open_rendered("rendered:seed=1", "train", 20)
    assert not {a[i].image for i in range(20)} & {b[i].image for i in range(20)}


def test_a_location_is_read() -> None:
    assert parse_location("rendered") == parse_location("rendered:") == Parameters(4000, 500, 0, 64)
    assert parse_location("rendered:size=32, seed=5") == Parameters(4000, 500, 5, 32)


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("rendered:trian=5", "'train'"),
        ("rendered:size=8", "32"),
        ("rendered:size=big", "whole number"),
        ("rendered:seed=-1", "whole number"),
        ("rendered:train=0", "whole number"),
        ("rendered:train", "whole number"),
        ("rendered:seed=1,seed=2", "twice"),
        ("drawn:seed=1", "does not name"),
    ],
)
def test_a_bad_location_is_an_error_that_says_why(location: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        open_rendered(location, "train", None)


def test_a_bad_split_or_limit_is_an_error() -> None:
    with pytest.raises(UsageError, match="'train'"):
        open_rendered("rendered", "trian", None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="limit=0"):
        open_rendered("rendered", "train", 0)


def test_train_has_no_zero_shot_task() -> None:
    assert open_rendered("rendered", "train", 5).zero_shot() is None


def test_zero_shot_shows_what_its_labels_say() -> None:
    task = open_rendered("rendered", "eval", None).zero_shot()
    assert task is not None
    assert len(task.images) == len(task.labels) == 10 * len(CLASSES)
    per_class = np.bincount(task.labels, minlength=len(CLASSES))
    assert per_class.tolist() == [10] * len(CLASSES)
    assert task.class_names == CLASS_NAMES
    clear = {(c, t) for t in TINTS for c in COLOURS if c not in CLASHES.get(t, ())}
    assert set(CLASSES) == clear
    assert all(
        name == f"{c} object on a {t} background" for name, (c, t) in zip(task.class_names, CLASSES, strict=True)
    )
    assert all(template.count("{}") == 1 for template in task.templates)
    silhouettes, shapes = [], []
    for i, (image, label) in enumerate(zip(task.images, task.labels, strict=True)):
        colour, tint = CLASSES[label]
        mask = colour_mask(Image.open(io.BytesIO(image)), colour)
        scene = sample_scene(scene_rng(0, "zero-shot", i), "eval", only=(colour, tint))
        shape = scene.groups[0].shape
        assert mask.sum() >= 8, (i, colour, shape)
        if scene.groups[0].texture == "solid":
            (top, left), (bottom, right) = np.argwhere(mask).min(axis=0), np.argwhere(mask).max(axis=0) + 1
            cut = Image.fromarray(mask[top:bottom, left:right].astype(np.uint8) * 255)
            silhouettes.append(np.asarray(cut.resize((16, 16)), dtype=float).ravel())
            shapes.append(shape)
    # Nearest other silhouette: only right if pictures of one shape name look alike, and unlike the others.
    stack, names = np.array(silhouettes), np.array(shapes)
    distance = np.linalg.norm(stack[:, None] - stack[None], axis=-1) + np.diag(np.full(len(stack), np.inf))
    assert (names[distance.argmin(axis=1)] == names).mean() > 0.9


def test_zero_shot_heeds_the_limit_and_keeps_classes_balanced() -> None:
    whole = open_rendered("rendered", "eval", None).zero_shot()
    part = open_rendered("rendered", "eval", len(CLASSES) + 5).zero_shot()
    assert whole is not None
    assert part is not None
    assert part.images == whole.images[: len(CLASSES) + 5]
    assert part.labels == (*range(len(CLASSES)), 0, 1, 2, 3, 4)
