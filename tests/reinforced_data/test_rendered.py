"""The rendered set: same bytes for same seeds, captions that the pixels bear out, held-out pairs in eval alone."""

import io
import random
import re
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from distill.core.errors import UsageError
from reinforced_data.rendered import COLOURS, HELD_OUT, SHAPES, captions, sample_scene, scene_rng, words
from reinforced_data.rendered.captions import CLASS_NAMES, TEMPLATES
from reinforced_data.rendered.draw import render, unit_outline
from reinforced_data.rendered.scene import CLASHES, SIZES, TINTS, Scene
from reinforced_data.sources.rendered import Parameters, open_rendered, parse_location

# Written out here on purpose: the tests read captions with their own dictionary.
COUNTS = {"a": 1, "an": 1, "one": 1, "a single": 1, "two": 2, "a pair of": 2, "three": 3, "four": 4}
SAME_COLOUR = {"violet": "purple", "turquoise": "cyan"}
SAME_SHAPE = {
    "disc": "circle",
    "box": "square",
    "boxe": "square",
    "plus sign": "cross",
    "crosse": "cross",
    "crescent moon": "crescent",
    "moon": "crescent",
    "rhombus": "diamond",
    "rhombuse": "diamond",
}
COLOUR = "|".join([*COLOURS, *SAME_COLOUR])
SHAPE = "|".join(["crescent moon", "plus sign", "cross", "rhombus", *SHAPES, "disc", "box", "moon"])
PAIR = re.compile(rf"\b({COLOUR}) ({SHAPE})(?:e?s)?\b")
COUNTED = re.compile(
    r"\b(a single|a pair of|an?|one|two|three|four) "
    r"((?:(?!on |background|picture|drawing|image)\w+ ){0,4}?)"
    rf"({COLOUR}) ({SHAPE})(?:e?s)?\b"
)


def pairs_told(text: str) -> set[tuple[str, str]]:
    return {(SAME_COLOUR.get(c, c), SAME_SHAPE.get(s, s)) for c, s in PAIR.findall(text)}


def scenes(split: str, count: int, seed: int = 0) -> list[tuple[Scene, tuple[str, ...]]]:
    out = []
    for i in range(count):
        rng = scene_rng(seed, split, i)
        scene = sample_scene(rng, split)
        out.append((scene, captions(scene, rng)))
    return out


def structure(scene: Scene) -> tuple[object, ...]:
    groups = tuple((g.shape, g.colour, g.size, g.texture, g.count) for g in scene.groups)
    return scene.pattern, scene.tint, scene.axis, groups


def blobs(mask: np.ndarray) -> list[np.ndarray]:
    """Connected parts (8 neighbours) of more than 12 pixels, each as [n, 2] rows of (y, x)."""
    todo = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    found = []
    while todo:
        part, edge = [], [todo.pop()]
        while edge:
            y, x = edge.pop()
            part.append((y, x))
            near = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & todo
            todo -= near
            edge.extend(near)
        if len(part) > 12:
            found.append(np.array(part))
    return found


def colour_mask(image: Image.Image, colour: str) -> np.ndarray:
    pixels = np.asarray(image.convert("RGB"), dtype=int)
    return np.abs(pixels - np.array(COLOURS[colour])).max(axis=-1) <= 24


def lab(rgb: tuple[int, int, int]) -> np.ndarray:
    """CIE L*a*b* (D65) of an sRGB colour, from the published formulae."""
    s = np.array(rgb) / 255
    linear = np.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    t = matrix @ linear / np.array([0.9505, 1.0, 1.089])
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


# --- the source -----------------------------------------------------------------------------------------------------


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


# --- what is held out -----------------------------------------------------------------------------------------------


def test_held_out_pairs_touch_every_colour_and_shape_and_no_more_than_a_fifth() -> None:
    assert 0.12 <= len(HELD_OUT) / (len(COLOURS) * len(SHAPES)) <= 0.18
    for place, names in enumerate((COLOURS, SHAPES)):
        counts = [sum(pair[place] == name for pair in HELD_OUT) for name in names]
        assert min(counts) >= 1
        assert max(counts) <= 2


@pytest.mark.parametrize("seed", [0, 1])
def test_held_out_pairs_never_occur_in_train_and_do_in_eval(seed: int) -> None:
    shown: dict[str, set[tuple[str, str]]] = {}
    told: dict[str, set[tuple[str, str]]] = {}
    for split, count in (("train", 2000), ("eval", 500)):
        sampled = scenes(split, count, seed)
        shown[split] = {(g.colour, g.shape) for scene, _ in sampled for g in scene.groups}
        told[split] = {pair for _, texts in sampled for text in texts for pair in pairs_told(text)}
    everything = {(c, s) for c in COLOURS for s in SHAPES}
    assert shown["train"] == told["train"] == everything - HELD_OUT
    assert shown["eval"] >= HELD_OUT
    assert told["eval"] >= HELD_OUT


def test_the_splits_share_no_structure_whatever_the_seed() -> None:
    train = {structure(s) for seed in (0, 1) for s, _ in scenes("train", 1500, seed)}
    held = {structure(s) for seed in (0, 1) for s, _ in scenes("eval", 400, seed)}
    zero_shot = {
        structure(sample_scene(scene_rng(0, "zero-shot", i), "eval", only=("red", "star"))) for i in range(300)
    }
    assert not train & (held | zero_shot)


# --- pictures -------------------------------------------------------------------------------------------------------


def test_objects_stay_inside_and_apart() -> None:
    for scene, _ in scenes("train", 800):
        boxes = [(x, y, g.extent / 2) for g in scene.groups for x, y in g.centres]
        for x, y, half in boxes:
            assert min(x, y) - half >= 0
            assert max(x, y) + half <= 64
        for (x, y, half), (u, v, other) in combinations(boxes, 2):
            assert max(abs(x - u), abs(y - v)) >= half + other + 1
        if scene.axis is not None:
            k = 0 if scene.axis == "horizontal" else 1
            first, second = scene.groups
            assert max(c[k] for c in first.centres) + first.extent / 2 < (
                min(c[k] for c in second.centres) - second.extent / 2
            )


@pytest.mark.parametrize("shape", SHAPES)
def test_a_turned_outline_stays_in_its_box_and_fills_it(shape: str) -> None:
    points = np.array(unit_outline(shape))
    for degrees in (-10, 0, 10):
        turn = np.radians(degrees)
        turned = points @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        assert np.abs(turned).max() <= 1.08
    assert np.ptp(points, axis=0).max() >= 1.6


def test_colours_are_far_from_the_backgrounds_they_are_drawn_on_and_from_each_other() -> None:
    for tint, rgb in TINTS.items():
        far = {c: float(np.linalg.norm(lab(ink) - lab(rgb))) for c, ink in COLOURS.items()}
        assert min(d for c, d in far.items() if c not in CLASHES.get(tint, ())) > 38, (tint, far)
    assert min(np.linalg.norm(lab(a) - lab(b)) for a, b in combinations(COLOURS.values(), 2)) > 38
    for scene, _ in scenes("eval", 300):
        assert all(g.colour not in CLASHES.get(scene.tint, ()) for g in scene.groups)


# --- captions -------------------------------------------------------------------------------------------------------


def test_counts_sizes_and_sides_in_captions_are_borne_out_by_the_pixels() -> None:
    checked = related = 0
    for scene, texts in scenes("train", 900):
        colours = {g.colour for g in scene.groups}
        if any(g.texture != "solid" for g in scene.groups) or len(colours) < len(scene.groups):
            continue
        image = render(scene, 64)
        parts = {colour: blobs(colour_mask(image, colour)) for colour in colours}
        middle = {colour: np.concatenate(parts[colour]).mean(axis=0) for colour in colours}
        for text in texts:
            for number, adjectives, colour, _ in COUNTED.findall(text):
                seen = parts[SAME_COLOUR.get(colour, colour)]
                assert len(seen) == COUNTS[number], text
                extent = np.mean([np.ptp(part, axis=0).max() + 1 for part in seen])
                for word, size in (("small", "small"), ("tiny", "small"), ("large", "large"), ("big", "large")):
                    if word in adjectives.split():
                        low, high = SIZES[size]
                        assert 0.72 * low <= extent <= 1.1 * high, text
                checked += 1
            told = [SAME_COLOUR.get(c, c) for c, _ in PAIR.findall(text)]
            for axis, sign, pattern in (
                (1, 1, r"left of|on the left and"),
                (1, -1, r"right of|on the right and"),
                (0, 1, r"above|over|higher than|at the top and"),
                (0, -1, r"below|under|beneath|lower than|at the bottom and"),
            ):
                if re.search(rf"\b({pattern})\b", text):
                    assert sign * (middle[told[1]][axis] - middle[told[0]][axis]) > 0, text
                    related += 1
    assert checked > 300
    assert related > 60


def test_captions_tell_only_what_is_there() -> None:
    """Every colour, shape and texture word is true of some group; a bare "a" never stands for several objects."""
    textures = {"striped": "striped", "checkered": "checkered", "dotted": "dotted", "hollow": "outlined"}
    for scene, texts in scenes("eval", 500):
        there = {(g.colour, g.shape): g for g in scene.groups}
        for text in texts:
            assert pairs_told(text) <= set(there), text
            for number, adjectives, colour, shape in COUNTED.findall(text):
                group = there[SAME_COLOUR.get(colour, colour), SAME_SHAPE.get(shape, shape)]
                assert COUNTS[number] == group.count, text
                assert all(textures[word] == group.texture for word in adjectives.split() if word in textures), text
            ground = re.search(r"(white|gr[ea]y|black|beige|cream|blue|navy|green|pink) background", text)
            if ground:
                same = {"gray": "grey", "cream": "beige", "navy": "dark blue"}
                assert same.get(ground[1], ground[1]) in scene.tint, text


def test_captions_differ_within_a_scene_and_full_ones_mostly_single_out_a_scene() -> None:
    sampled = scenes("eval", 500)
    assert np.mean([len(set(texts)) for _, texts in sampled]) > 4.8
    full = [texts[0] for _, texts in sampled]
    assert len(set(full)) >= 495
    lengths = [len(text.split()) for _, texts in sampled for text in texts]
    assert min(lengths) <= 3
    assert 16 <= max(lengths) <= 40


def test_articles_and_numbers_agree() -> None:
    for _, texts in scenes("train", 500):
        for text in texts:
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text), text
            assert not re.search(r"\b(there are|here are) (a (?!pair)|an |one )", text), text
            assert not re.search(r"\b(there is|here is) (two|three|four|a pair)", text), text


def test_words_holds_every_word_that_comes_out() -> None:
    known = set(words())
    assert list(words()) == sorted(known)
    texts = [text for split in ("train", "eval") for _, told in scenes(split, 1500) for text in told]
    texts += [template.format(name) for template in TEMPLATES for name in CLASS_NAMES]
    seen = {word for text in texts for word in text.split()}
    assert seen <= known
    assert known - seen <= {"background", "an"}, "words() names words that never come out"


# --- zero-shot ------------------------------------------------------------------------------------------------------


def test_train_has_no_zero_shot_task() -> None:
    assert open_rendered("rendered", "train", 5).zero_shot() is None


def test_zero_shot_shows_what_its_labels_say() -> None:
    task = open_rendered("rendered", "eval", None).zero_shot()
    assert task is not None
    assert len(task.images) == len(task.labels) == 900
    assert np.bincount(task.labels).tolist() == [10] * 90
    assert task.class_names == CLASS_NAMES
    assert {tuple(name.split()) for name in task.class_names} == {(c, s) for c in COLOURS for s in SHAPES}
    assert all(template.count("{}") == 1 for template in task.templates)
    silhouettes, shapes = [], []
    for i, (image, label) in enumerate(zip(task.images, task.labels, strict=True)):
        colour, shape = task.class_names[label].split()
        mask = colour_mask(Image.open(io.BytesIO(image)), colour)
        assert mask.sum() >= 8, (i, colour, shape)
        parts = blobs(mask)
        scene = sample_scene(scene_rng(0, "zero-shot", i), "eval", only=(colour, shape))
        if scene.groups[0].texture == "solid":
            assert len(parts) == 1
            top, left = parts[0].min(axis=0)
            bottom, right = parts[0].max(axis=0) + 1
            cut = Image.fromarray(mask[top:bottom, left:right].astype(np.uint8) * 255)
            silhouettes.append(np.asarray(cut.resize((16, 16)), dtype=float).ravel())
            shapes.append(shape)
    # Nearest other silhouette: only right if pictures of one shape name look alike, and unlike the others.
    stack, names = np.array(silhouettes), np.array(shapes)
    distance = np.linalg.norm(stack[:, None] - stack[None], axis=-1) + np.diag(np.full(len(stack), np.inf))
    assert (names[distance.argmin(axis=1)] == names).mean() > 0.9


def test_zero_shot_heeds_the_limit_and_keeps_classes_balanced() -> None:
    whole = open_rendered("rendered", "eval", None).zero_shot()
    part = open_rendered("rendered", "eval", 95).zero_shot()
    assert whole is not None
    assert part is not None
    assert part.images == whole.images[:95]
    assert part.labels == (*range(90), 0, 1, 2, 3, 4)
