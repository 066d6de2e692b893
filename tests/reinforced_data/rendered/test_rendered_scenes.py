"""Rendered scenes: captions that the pixels bear out, held-out pairs in eval alone, objects that can be read."""

import re
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from reinforced_data.rendered import COLOURS, HELD_OUT, SHAPES, captions, sample_scene, scene_rng, words
from reinforced_data.rendered.captions import CLASS_NAMES, TEMPLATES
from reinforced_data.rendered.draw import render, unit_outline
from reinforced_data.rendered.scene import CLASHES, SIZES, TINTS, Scene

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
        structure(sample_scene(scene_rng(0, "zero-shot", i), "eval", only=("red", "white"))) for i in range(300)
    }
    assert not train & (held | zero_shot)


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
