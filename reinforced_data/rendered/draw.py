"""Draws a scene with Pillow: twice the size, then halved, so that edges are smooth. Left out: sampling.

The bytes are equal for equal scenes under one Pillow version; another version may round an edge pixel differently.
"""

import io
import math
from functools import lru_cache
from typing import TYPE_CHECKING

from reinforced_data.rendered.scene import RGB, SIDE, Group, Scene

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

_OVERSAMPLE = 2
Point = tuple[float, float]


def png(scene: Scene, size: int) -> bytes:
    """`scene` as an encoded RGB PNG of `size` x `size` pixels."""
    buffer = io.BytesIO()
    render(scene, size).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def render(scene: Scene, size: int) -> "Image.Image":
    """`scene` as an RGB image of `size` x `size` pixels."""
    from PIL import ImageDraw

    canvas = _background(scene, size * _OVERSAMPLE)
    draw = ImageDraw.Draw(canvas)
    scale = size * _OVERSAMPLE / SIDE
    for group in scene.groups:
        for (x, y), turn in zip(group.centres, group.turns, strict=True):
            _object(canvas, draw, group, _outline(group, x, y, turn, scale), (x * scale, y * scale), scale)
    return canvas.reduce(_OVERSAMPLE)


@lru_cache(maxsize=32)
def unit_outline(shape: str) -> tuple[Point, ...]:
    """The polygon of `shape` about the origin, y down, such that a turn of 10 degrees keeps it within [-1, 1]."""
    ring = [math.tau * k / 48 for k in range(48)]
    if shape == "circle":
        points = [(math.cos(t), math.sin(t)) for t in ring]
    elif shape == "star":
        radii = [1.0 if k % 2 == 0 else 0.42 for k in range(10)]
        points = [(r * math.sin(math.pi * k / 5), 0.06 - r * math.cos(math.pi * k / 5)) for k, r in enumerate(radii)]
    elif shape == "heart":
        # The usual sine curve of a heart, scaled into the box.
        points = [
            (
                0.92 * math.sin(t) ** 3,
                -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16.5 - 0.1,
            )
            for t in ring
        ]
    elif shape == "crescent":
        # Outer circle from horn to horn, and back along a circle shifted to the right.
        shift, inner = 0.48, 0.78
        cross_x = (1 - inner**2 + shift**2) / (2 * shift)
        horn, back = math.acos(cross_x), math.atan2(math.sqrt(1 - cross_x**2), cross_x - shift)
        outer_arc = [horn + (math.tau - 2 * horn) * k / 30 for k in range(31)]
        inner_arc = [-back - (math.tau - 2 * back) * k / 24 for k in range(1, 24)]
        points = [(math.cos(t) + 0.1, math.sin(t)) for t in outer_arc]
        points += [(shift + inner * math.cos(t) + 0.1, inner * math.sin(t)) for t in inner_arc]
    else:
        points = _STRAIGHT[shape]
    return tuple(points)


_STRAIGHT: dict[str, list[Point]] = {
    "square": [(-0.83, -0.83), (0.83, -0.83), (0.83, 0.83), (-0.83, 0.83)],
    "triangle": [(0.0, -0.95), (0.88, 0.72), (-0.88, 0.72)],
    "diamond": [(0.0, -1.0), (0.66, 0.0), (0.0, 1.0), (-0.66, 0.0)],
    "cross": [
        *((-0.31, -0.93), (0.31, -0.93), (0.31, -0.31), (0.93, -0.31), (0.93, 0.31), (0.31, 0.31)),
        *((0.31, 0.93), (-0.31, 0.93), (-0.31, 0.31), (-0.93, 0.31), (-0.93, -0.31), (-0.31, -0.31)),
    ],
    "arrow": [
        *((-0.95, -0.28), (0.02, -0.28), (0.02, -0.8), (0.97, 0.0), (0.02, 0.8), (0.02, 0.28), (-0.95, 0.28)),
    ],
    "house": [(0.0, -0.98), (0.86, -0.2), (0.62, -0.2), (0.62, 0.8), (-0.62, 0.8), (-0.62, -0.2), (-0.86, -0.2)],
}


def _outline(group: Group, x: float, y: float, turn: float, scale: float) -> list[Point]:
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    radius = group.extent / 2
    return [
        ((x + radius * (u * cos - v * sin)) * scale, (y + radius * (u * sin + v * cos)) * scale)
        for u, v in unit_outline(group.shape)
    ]


def second_ink(ink: RGB) -> RGB:
    """What a texture puts beside the colour: white on dark colours, near-black on light ones."""
    luma = 0.299 * ink[0] + 0.587 * ink[1] + 0.114 * ink[2]
    return (250, 250, 250) if luma < 135 else (35, 35, 35)


def _object(
    canvas: "Image.Image",
    draw: "ImageDraw.ImageDraw",
    group: Group,
    outline: list[Point],
    centre: Point,
    scale: float,
) -> None:
    from PIL import Image, ImageDraw

    if group.texture == "solid":
        draw.polygon(outline, fill=group.ink)
        return
    side = math.ceil(group.extent * scale) + 2
    left, top = round(centre[0] - side / 2), round(centre[1] - side / 2)
    moved = [(px - left, py - top) for px, py in outline]
    mask = Image.new("L", (side, side), 0)
    mask_draw = ImageDraw.Draw(mask)
    tile = Image.new("RGB", (side, side), group.ink)
    if group.texture == "outlined":
        # A line drawn astride the edge and kept inside the shape, so that a hollow thing is as large as a full one.
        width = (1.2 + 0.04 * group.extent) * scale
        shape_mask = Image.new("L", (side, side), 0)
        ImageDraw.Draw(shape_mask).polygon(moved, fill=255)
        mask_draw.line([*moved, *moved[:2]], fill=255, width=round(2 * width), joint="curve")
        canvas.paste(tile, (left, top), Image.composite(mask, shape_mask, shape_mask))
        return
    mask_draw.polygon(moved, fill=255)
    _texture(tile, group, side, scale)
    canvas.paste(tile, (left, top), mask)
    # A rim of the colour keeps the shape readable where the second ink is close to the background.
    draw.line([*outline, *outline[:2]], fill=group.ink, width=max(2, round(0.9 * scale)))


def _texture(tile: "Image.Image", group: Group, side: int, scale: float) -> None:
    from PIL import ImageDraw

    draw = ImageDraw.Draw(tile)
    ink = second_ink(group.ink)
    if group.texture == "striped":
        period = max(4.4, group.extent / 5) * scale
        angle = math.pi / 4 * int(group.phase * 4)
        dx, dy = math.cos(angle), math.sin(angle)
        steps = math.ceil(side / period)
        for k in range(-steps, steps + 1):
            x, y = side / 2 - dy * (k + 0.5) * period, side / 2 + dx * (k + 0.5) * period
            ends = [(x - dx * side, y - dy * side), (x + dx * side, y + dy * side)]
            draw.line(ends, fill=ink, width=round(0.45 * period))
        return
    if group.texture == "dotted":
        period = max(4.8, group.extent / 3.8) * scale
        radius = 0.29 * period
        steps = math.ceil(side / period / 2)
        for i in range(-steps, steps + 1):
            for j in range(-steps, steps + 1):
                x, y = side / 2 + i * period, side / 2 + j * period
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
        return
    cell = max(2.7, group.extent / 6) * scale
    steps = math.ceil(side / cell / 2)
    for i in range(-steps, steps):
        for j in range(-steps, steps):
            if (i + j) % 2 == 0:
                x, y = side / 2 + i * cell, side / 2 + j * cell
                draw.rectangle((x, y, x + cell, y + cell), fill=ink)


def _shade(ink: RGB, amount: float) -> RGB:
    """`ink` moved by `amount` in [0, 1]: towards black where it is light, towards white where it is dark."""
    goal = 0 if sum(ink) > 330 else 255
    red, green, blue = (round(channel + amount * (goal - channel)) for channel in ink)
    return red, green, blue


def _background(scene: Scene, side: int) -> "Image.Image":
    from PIL import Image, ImageDraw

    tint = scene.tint_ink
    if scene.pattern == "gradient":
        ramp = Image.linear_gradient("L")
        for _ in range(int(scene.phase * 4)):
            ramp = ramp.transpose(Image.Transpose.ROTATE_90)
        far, near = (Image.new("RGB", (256, 256), ink) for ink in (_shade(tint, 0.34), tint))
        return Image.composite(far, near, ramp).resize((side, side), Image.Resampling.BILINEAR)
    if scene.pattern == "noise":
        return _grain(scene, side)
    canvas = Image.new("RGB", (side, side), tint)
    if scene.pattern == "plain":
        return canvas
    draw = ImageDraw.Draw(canvas)
    scale = side / SIDE
    period = (6.5 + 3.5 * (scene.phase * 8 % 1)) * scale
    for k in range(math.ceil(side / period) + 1):
        at = (k + 0.3) * period
        if scene.pattern == "grid":
            for line in ((at, 0, at, side), (0, at, side, at)):
                draw.line(line, fill=_shade(tint, 0.26), width=round(1.2 * scale))
        elif scene.phase < 0.5:
            draw.rectangle((at, 0, at + period / 2, side), fill=_shade(tint, 0.17))
        else:
            draw.rectangle((0, at, side, at + period / 2), fill=_shade(tint, 0.17))
    return canvas


def _grain(scene: Scene, side: int) -> "Image.Image":
    """Grain of one image unit (a 64th), between the tint and a shade of it."""
    import random

    from PIL import Image

    cells = int(SIDE)
    grain = Image.frombytes("L", (cells, cells), random.Random(scene.noise_seed).randbytes(cells * cells))
    coarse, fine = (Image.new("RGB", (cells, cells), ink) for ink in (_shade(scene.tint_ink, 0.32), scene.tint_ink))
    return Image.composite(coarse, fine, grain).resize((side, side), Image.Resampling.NEAREST)
