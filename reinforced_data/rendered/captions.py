"""Words a scene in several ways, from a bare partial phrase to everything there is to say, and always truly.

Captions are lower-case words and spaces, without punctuation. Left out: negation, and anything a person could dispute
(nothing is "near the left" unless it is well off the middle).
"""

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass

from reinforced_data.rendered.scene import ALLOWED, COLOURS, SHAPES, SIDE, TINTS, Group, Scene

NUMBERS: dict[int, tuple[str, ...]] = {
    1: ("a", "a", "a", "one", "a single"),
    2: ("two", "two", "a pair of"),
    3: ("three",),
    4: ("four",),
}
SIZE_WORDS = {
    "small": ("small", "small", "tiny", "little"),
    "medium": ("medium", "medium sized"),
    "large": ("large", "large", "big"),
}
COLOUR_WORDS: dict[str, tuple[str, ...]] = {c: (c,) for c in COLOURS} | {
    "purple": ("purple", "purple", "violet"),
    "cyan": ("cyan", "cyan", "turquoise"),
}
NOUNS: dict[str, tuple[tuple[str, str], ...]] = {s: ((s, s + "s"),) for s in SHAPES} | {
    "circle": (("circle", "circles"), ("circle", "circles"), ("disc", "discs")),
    "square": (("square", "squares"), ("square", "squares"), ("box", "boxes")),
    "cross": (("cross", "crosses"), ("cross", "crosses"), ("plus sign", "plus signs")),
    "crescent": (("crescent", "crescents"), ("crescent moon", "crescent moons"), ("moon", "moons")),
    "diamond": (("diamond", "diamonds"), ("diamond", "diamonds"), ("rhombus", "rhombuses")),
}
THINGS = (("shape", "shapes"), ("object", "objects"), ("thing", "things"))
BEFORE = {
    "solid": ("solid", "filled"),
    "striped": ("striped", "striped", "stripy"),
    "dotted": ("dotted", "dotted", "spotted"),
    "checkered": ("checkered", "checkered", "checked"),
    "outlined": ("outlined", "outlined", "hollow"),
}
AFTER = {"striped": ("with stripes",), "dotted": ("with dots", "with spots"), "checkered": ("with checks",)}
RELATIONS = {
    ("horizontal", True): ("left of", "to the left of", "on the left of", "next to", "beside"),
    ("horizontal", False): ("right of", "to the right of", "on the right of", "next to", "beside"),
    ("vertical", True): ("above", "over", "higher than"),
    ("vertical", False): ("below", "under", "beneath", "lower than"),
}
SIDES = {"horizontal": ("on the left", "on the right"), "vertical": ("at the top", "at the bottom")}
TINT_WORDS: dict[str, tuple[str, ...]] = {
    "white": ("white",),
    "grey": ("grey", "gray"),
    "black": ("black",),
    "beige": ("beige", "cream"),
    "light blue": ("light blue", "pale blue"),
    "dark blue": ("dark blue", "navy"),
    "light green": ("light green", "pale green"),
    "light pink": ("light pink", "pale pink"),
}
PATTERN_WORDS = {
    "plain": ("plain",),
    "gradient": ("gradient", "shaded"),
    "noise": ("noisy", "grainy"),
    "grid": ("grid", "gridded"),
    "stripes": ("striped", "lined"),
}
PLACES = {
    "left": ("on the left side", "near the left edge"),
    "right": ("on the right side", "near the right edge"),
    "top": ("near the top", "in the upper part"),
    "bottom": ("near the bottom", "in the lower part"),
    "middle": ("in the middle", "in the centre"),
}
GROUNDS = ("on {}", "on {}", "against {}", "in front of {}")
FRAMES = (
    "{}",
    "{}",
    "{}",
    "there {be} {}",
    "a picture of {}",
    "a picture showing {}",
    "an image of {}",
    "an image with {}",
    "this picture shows {}",
    "a drawing of {}",
    "here {be} {}",
    "we see {}",
)
TEMPLATES = (
    "{}",
    "a {}",
    "a picture of a {}",
    "there is a {}",
    "an image of one {}",
    "a picture showing a single {}",
)
# What zero-shot classification asks: the colours of object and background, whatever the shape.
CLASSES = tuple((colour, tint) for tint in TINTS for colour in ALLOWED[tint])
CLASS_NAMES = tuple(f"{colour} object on a {tint} background" for colour, tint in CLASSES)


@dataclass(frozen=True)
class _Detail:
    """What a caption tells of each group; colour and shape are not both left out."""

    size: bool = True
    texture: bool = True
    colour: bool = True
    shape: bool = True
    count: bool = True


def captions(scene: Scene, rng: random.Random) -> tuple[str, ...]:
    """Five captions: everything, two that drop some details, one of structure without background, one short."""
    everything = _Detail()
    told = [
        _sentence(scene, rng, everything, everything, ground=True),
        _sentence(scene, rng, _some(rng), _some(rng), ground=True),
        _sentence(scene, rng, _some(rng), _some(rng), ground=rng.random() < 0.5),
        _sentence(scene, rng, everything, everything, ground=False),
        _short(scene, rng),
    ]
    return tuple(told)


def _some(rng: random.Random) -> _Detail:
    return _Detail(size=rng.random() < 0.6, texture=rng.random() < 0.6, count=rng.random() < 0.85)


def _sentence(scene: Scene, rng: random.Random, first: _Detail, second: _Detail, ground: bool) -> str:
    """All groups and how they lie, framed."""
    if scene.axis is None:
        group = scene.groups[0]
        body, count = _phrase(group, rng, first), group.count
        place = _place(group)
        if place and rng.random() < 0.5:
            body += " " + rng.choice(PLACES[place])
    else:
        forward = rng.random() < 0.5
        a, b = scene.groups if forward else scene.groups[::-1]
        count = a.count
        one, two = _phrase(a, rng, first), _phrase(b, rng, second)
        if rng.random() < 0.25:
            near, far = SIDES[scene.axis] if forward else SIDES[scene.axis][::-1]
            body = f"{one} {near} and {two} {far}"
        else:
            body = f"{one} {rng.choice(RELATIONS[scene.axis, forward])} {two}"
    if ground:
        body += " " + rng.choice(GROUNDS).format(_ground(scene, rng))
    return _framed(body, count, rng)


def _short(scene: Scene, rng: random.Random) -> str:
    """One group, or both with few details; never words that would fit the scene's other group as well."""
    roll = rng.random()
    group = rng.choice(scene.groups)
    others = [g for g in scene.groups if g is not group]
    if roll < 0.45:
        return _framed(_phrase(group, rng, _some(rng)), group.count, rng)
    if roll < 0.6 and all(g.shape != group.shape for g in others):
        return _framed(_phrase(group, rng, _Detail(colour=False, size=rng.random() < 0.5)), group.count, rng)
    if roll < 0.75 and all(g.colour != group.colour for g in others):
        return _framed(_phrase(group, rng, _Detail(shape=False, size=rng.random() < 0.5)), group.count, rng)
    bare = _Detail(size=False, texture=False)
    if others and roll < 0.9:
        body = f"{_phrase(group, rng, bare)} and {_phrase(others[0], rng, bare)}"
        return _framed(body, group.count, rng)
    body = _phrase(group, rng, bare) + " " + rng.choice(GROUNDS).format(_ground(scene, rng))
    return _framed(body, group.count, rng)


def _phrase(group: Group, rng: random.Random, detail: _Detail) -> str:
    """A noun phrase for `group`. Without a count, several objects become a bare plural, never "a"."""
    adjectives, tail = [], ""
    if detail.size:
        adjectives.append(rng.choice(SIZE_WORDS[group.size]))
    if detail.texture:
        if group.texture in AFTER and rng.random() < 0.25:
            tail = " " + rng.choice(AFTER[group.texture])
        elif group.texture != "solid" or rng.random() < 0.4:
            adjectives.append(rng.choice(BEFORE[group.texture]))
    if detail.colour:
        adjectives.append(rng.choice(COLOUR_WORDS[group.colour]))
    singular, plural = rng.choice(NOUNS[group.shape] if detail.shape else THINGS)
    rest = " ".join([*adjectives, singular if group.count == 1 else plural]) + tail
    if group.count > 1 and not detail.count:
        return rest
    number = rng.choice(NUMBERS[group.count]) if detail.count else "a"
    return _an(f"{number} {rest}")


def _ground(scene: Scene, rng: random.Random) -> str:
    words_ = [rng.choice(PATTERN_WORDS[scene.pattern]), rng.choice(TINT_WORDS[scene.tint])]
    if scene.pattern == "plain" and rng.random() < 0.5:
        words_ = words_[1:]
    elif rng.random() < 0.2:
        words_ = [rng.choice(words_)]
    return _an("a " + " ".join(words_) + " background")


def _place(group: Group) -> str | None:
    """Where a single object is, when that is beyond dispute."""
    if group.count > 1:
        return None
    x, y = (coordinate / SIDE for coordinate in group.centres[0])
    if abs(x - 0.5) < 0.08 and abs(y - 0.5) < 0.08:
        return "middle"
    name, off = max(
        (("left", 0.5 - x), ("right", x - 0.5), ("top", 0.5 - y), ("bottom", y - 0.5)), key=lambda pair: pair[1]
    )
    return name if off > 0.16 else None


def _framed(body: str, count: int, rng: random.Random) -> str:
    frame = rng.choice(FRAMES)
    return frame.replace("{be}", "is" if count == 1 else "are").format(body)


def _an(phrase: str) -> str:
    """`phrase` with its leading "a" turned into "an" before a vowel."""
    return re.sub(r"^a (?=[aeiou])", "an ", phrase)


def words() -> tuple[str, ...]:
    """Every word that a caption, class name or template can hold: lower case, sorted, no punctuation."""

    def texts() -> Iterable[str]:
        tables = (NUMBERS, SIZE_WORDS, COLOUR_WORDS, BEFORE, AFTER, RELATIONS, SIDES, TINT_WORDS, PATTERN_WORDS, PLACES)
        for table in tables:
            for entries in table.values():
                yield from entries
        for pairs in (*NOUNS.values(), THINGS):
            for pair in pairs:
                yield from pair
        yield from (*GROUNDS, *FRAMES, *TEMPLATES, *CLASS_NAMES, "a an and background is are")

    return tuple(sorted({word for text in texts() for word in re.findall(r"[a-z]+", text.replace("{be}", ""))}))
