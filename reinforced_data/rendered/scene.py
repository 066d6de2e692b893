"""What a rendered scene is and how one is sampled: groups of equal objects, a relation, a background.

Lengths are in units of a 64th of the image's side, whatever its size in pixels. Left out: pixels (`draw`) and words
(`captions`). Random numbers come from `random.Random` seeded with a SHA-256, never from `hash()`, so that scene i is
the same in every process and order.
"""

import hashlib
import random
from dataclasses import dataclass
from typing import Literal

VERSION = "rendered-2"
"""Goes into every seed and fingerprint: change it whenever a change here would move a pixel or a word."""

SIDE = 64.0
GAP = 1.6  # least distance between two objects' boxes: their antialiased edges never meet
RGB = tuple[int, int, int]
Axis = Literal["horizontal", "vertical"]

COLOURS: dict[str, RGB] = {
    "red": (215, 30, 40),
    "orange": (245, 130, 20),
    "yellow": (245, 215, 40),
    "green": (35, 150, 60),
    "cyan": (40, 200, 215),
    "blue": (25, 98, 220),
    "purple": (140, 40, 160),
    "pink": (245, 120, 185),
    "brown": (120, 72, 40),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "crescent", "arrow", "house")
SIZES: dict[str, tuple[float, float]] = {"small": (11.0, 13.0), "medium": (16.5, 18.8), "large": (24.0, 28.5)}
"""Side of an object's box. The gaps between the ranges keep the words apart."""
TEXTURES = ("solid", "striped", "dotted", "checkered", "outlined")
PATTERNS = ("plain", "gradient", "noise", "grid", "stripes")
TINTS: dict[str, RGB] = {
    "white": (246, 246, 246),
    "grey": (150, 150, 150),
    "black": (22, 22, 22),
    "beige": (232, 214, 176),
    "light blue": (192, 214, 242),
    "dark blue": (26, 32, 78),
    "light green": (194, 230, 190),
    "light pink": (248, 208, 216),
}
CLASHES: dict[str, frozenset[str]] = {
    "black": frozenset({"brown"}),
    "beige": frozenset({"yellow"}),
    "light blue": frozenset({"cyan"}),
    "dark blue": frozenset({"blue", "purple", "brown"}),
    "light green": frozenset({"cyan"}),
    "light pink": frozenset({"pink"}),
}
"""Colours too close to a tint to be read on it (a test holds every other pair apart in CIE Lab)."""

HELD_OUT = frozenset(
    (colour, shape) for i, colour in enumerate(COLOURS) for j, shape in enumerate(SHAPES) if (i + 3 * j) % 7 == 0
)
"""Pairs that only the eval split shows. A fixed pattern rather than a draw: every colour and every shape is held out
once or twice, and a train split of one seed never meets the eval split of another."""

ALLOWED = {tint: tuple(c for c in COLOURS if c not in CLASHES.get(tint, ())) for tint in TINTS}
_THIN = frozenset({"star", "heart", "cross", "crescent", "arrow"})
_MOST = {"small": 4, "medium": 3, "large": 2}  # objects of a size that fit in half a scene
_EVAL_SHARE = 8  # one structure in so many belongs to the eval split


@dataclass(frozen=True)
class Group:
    """Equal objects, and where each one is.

    Attributes:
        extent: side of each object's box.
        centres: one (x, y) per object, y down.
        turns: rotation of each object, degrees.
        phase: in [0, 1), picks the direction and offset of the texture.
        ink: the colour as drawn, a little off the palette's.
    """

    shape: str
    colour: str
    size: str
    texture: str
    extent: float
    centres: tuple[tuple[float, float], ...]
    turns: tuple[float, ...]
    phase: float
    ink: RGB

    @property
    def count(self) -> int:
        """Number of objects, 1 to 4."""
        return len(self.centres)


@dataclass(frozen=True)
class Scene:
    """One or two groups on a background. With two, the first is left of the second (or above: `axis`).

    Attributes:
        tint: name of the background's colour; `tint_ink` is it as drawn.
        phase: in [0, 1), picks the background pattern's direction and period.
        noise_seed: seeds the grain of a "noise" background.
    """

    groups: tuple[Group, ...]
    axis: Axis | None
    pattern: str
    tint: str
    tint_ink: RGB
    phase: float
    noise_seed: int


@dataclass(frozen=True)
class _Kind:
    """A group before it is laid out."""

    shape: str
    colour: str
    size: str
    texture: str
    count: int


def scene_rng(*parts: object) -> random.Random:
    """A generator seeded by the SHA-256 of VERSION and `parts` (ints and strings, joined by slashes)."""
    text = "/".join([VERSION, *map(str, parts)])
    return random.Random(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big"))


SINGLE_SHARE = 0.25  # of scenes with one group of objects; teachers learn shapes sooner from more of them


def sample_scene(
    rng: random.Random,
    split: str,
    only: tuple[str, str] | None = None,
    single: float = SINGLE_SHARE,
) -> Scene:
    """A scene of `split` ("train" or "eval").

    The splits share no structure (the tuple of names and counts that a full caption tells), and held-out pairs occur
    in "eval" alone. `only` = (colour, tint) asks for one single object of that
    colour, of any shape, on that background; `single` is the share of scenes with
    one group of objects instead of two.
    """
    while True:
        pattern = rng.choice(PATTERNS)
        if only is None:
            tint = rng.choice(tuple(TINTS))
            kinds = _kinds(rng, tint, split, single)
        else:
            colour, tint = only
            shape, size = rng.choice(SHAPES), rng.choice(tuple(SIZES))
            kinds = (_Kind(shape, colour, size, _texture(rng, shape, size), 1),)
        axis: Axis | None = rng.choice(("horizontal", "vertical")) if len(kinds) == 2 else None
        if (split == "eval") == _belongs_to_eval(repr((pattern, tint, axis, kinds))):
            return _lay_out(rng, kinds, axis, pattern, tint)


def _belongs_to_eval(structure: str) -> bool:
    return hashlib.sha256(structure.encode()).digest()[0] % _EVAL_SHARE == 0


def _kinds(rng: random.Random, tint: str, split: str, single: float) -> tuple[_Kind, ...]:
    number = 1 if rng.random() < single else 2
    kinds: list[_Kind] = []
    while len(kinds) < number:
        colour, shape = rng.choice(ALLOWED[tint]), rng.choice(SHAPES)
        if split != "eval" and (colour, shape) in HELD_OUT:
            continue
        if any((k.colour, k.shape) == (colour, shape) for k in kinds):
            continue  # "two red stars" must not be able to mean either group
        size = rng.choice(tuple(SIZES))
        count = rng.randint(1, 4 if number == 1 else _MOST[size])
        kinds.append(_Kind(shape, colour, size, _texture(rng, shape, size), count))
    return tuple(kinds)


def _texture(rng: random.Random, shape: str, size: str) -> str:
    """A texture that can still be told from the others on so small or thin a shape."""
    if size == "small":
        return rng.choice(("solid", "striped") if shape in _THIN else ("solid", "striped", "checkered", "outlined"))
    if size == "medium" and shape == "crescent":
        return rng.choice(("solid", "striped", "dotted", "checkered"))
    return rng.choice(TEXTURES)


def _lay_out(rng: random.Random, kinds: tuple[_Kind, ...], axis: Axis | None, pattern: str, tint: str) -> Scene:
    extents = [rng.uniform(*SIZES[k.size]) for k in kinds]
    boxes = [(0.0, 0.0, SIDE, SIDE)]
    if axis is not None:
        # The cut leaves each side wide enough for its objects in a row, and more room where there are more of them.
        low, high = extents[0] + 2 * GAP, SIDE - extents[1] - 2 * GAP
        demand = [k.count * e * e for k, e in zip(kinds, extents, strict=True)]
        wish = SIDE * (0.5 + 0.4 * (demand[0] / sum(demand) - 0.5)) + rng.uniform(-6, 6)
        cut = min(max(wish, low), high)
        if axis == "horizontal":
            boxes = [(0.0, 0.0, cut, SIDE), (cut, 0.0, SIDE, SIDE)]
        else:
            boxes = [(0.0, 0.0, SIDE, cut), (0.0, cut, SIDE, SIDE)]
    groups = tuple(
        Group(
            shape=kind.shape,
            colour=kind.colour,
            size=kind.size,
            texture=kind.texture,
            extent=extent,
            centres=_place(rng, kind.count, extent, box),
            turns=tuple(rng.uniform(-10, 10) for _ in range(kind.count)),
            phase=rng.random(),
            ink=_near(rng, COLOURS[kind.colour], 10),
        )
        for kind, extent, box in zip(kinds, extents, boxes, strict=True)
    )
    return Scene(groups, axis, pattern, tint, _near(rng, TINTS[tint], 7), rng.random(), rng.getrandbits(32))


def _near(rng: random.Random, ink: RGB, spread: int) -> RGB:
    red, green, blue = (min(255, max(0, channel + rng.randint(-spread, spread))) for channel in ink)
    return red, green, blue


def _place(
    rng: random.Random, count: int, extent: float, box: tuple[float, float, float, float]
) -> tuple[tuple[float, float], ...]:
    """Centres of `count` objects inside `box` (left, top, right, bottom), boxes at least GAP apart."""
    half = extent / 2 + GAP / 2
    left, top, right, bottom = box[0] + half, box[1] + half, box[2] - half, box[3] - half
    for _ in range(12):
        centres: list[tuple[float, float]] = []
        for _ in range(count * 4):
            x, y = rng.uniform(left, right), rng.uniform(top, bottom)
            if all(max(abs(x - u), abs(y - v)) >= extent + GAP for u, v in centres):
                centres.append((x, y))
                if len(centres) == count:
                    return tuple(centres)
    return _in_cells(rng, count, half, box)


def _in_cells(
    rng: random.Random, count: int, half: float, box: tuple[float, float, float, float]
) -> tuple[tuple[float, float], ...]:
    """The fallback that always fits: one object per cell of a row, a column, or (whole scene, 3 or 4) a square."""
    width, height = box[2] - box[0], box[3] - box[1]
    if width == height and count > 2:
        columns, rows = 2, 2
    else:
        columns, rows = (count, 1) if width > height else (1, count)
    cells = rng.sample([(i, j) for j in range(rows) for i in range(columns)], count)
    step_x, step_y = width / columns, height / rows
    return tuple(
        (
            box[0] + i * step_x + rng.uniform(half, step_x - half),
            box[1] + j * step_y + rng.uniform(half, step_y - half),
        )
        for i, j in cells
    )
