"""How a photo becomes the pixels that an exported image tower takes, in words and numbers that an app is written from.

Left out: doing it (`distill.evaluation.evalset.pixels` is what the figures were measured with).
"""

from typing import Any

from export.app.form import Form

# open_clip's words for the ways to make a square, and the ones that say what is done.
MODES = {"shortest": "crop", "squash": "squash", "longest": "pad"}
STEPS = {
    "crop": (
        "resize so that the shorter side is {shorter} pixels; the longer one becomes int({shorter} * longer / shorter)",
        "crop the middle {size} x {size} pixels: left = round((width - {size}) / 2), top likewise, halves to even",
    ),
    "squash": ("resize to {size} x {size} pixels, whatever the shape was",),
    "pad": (
        "resize so that the longer side is {size} pixels; the shorter one becomes round({size} * shorter / longer), at "
        "least 1",
        "fill up with black to {size} x {size} pixels: the image begins at ({size} - side) // 2",
    ),
}


def preprocess_block(
    image_size: int, resize_mode: str, interpolation: str, resize_to: int | None = None
) -> dict[str, Any]:
    """The block "preprocess" of an artifact.

    Args:
        image_size: pixels, of the square.
        resize_mode: "shortest", "squash" or "longest", in open_clip's words.
        interpolation: "bicubic" or "bilinear"; whatever is not bilinear is bicubic, as in open_clip.
        resize_to: pixels of the shorter side before the square is cut out of it; None = those of the square.
    """
    mode = MODES[resize_mode]
    kernel = "bilinear" if interpolation == "bilinear" else "bicubic"
    return {
        "size": [image_size, image_size],
        **({"shorter_side": resize_to or image_size} if mode == "crop" else {}),
        "resize_mode": mode,
        "open_clip_resize_mode": resize_mode,
        "interpolation": kernel,
        "antialias": True,
        "channel_order": "RGB",
        "layout": "NCHW",
        "dtype": "float32",
        "value_range": [0.0, 1.0],
        "normalisation": "inside the graph: mean and standard deviation must not be applied again",
        "steps": [
            "decode to 8-bit RGB in sRGB, turned upright as its EXIF orientation says, white under transparent pixels",
            *(step.format(size=image_size, shorter=resize_to or image_size) for step in STEPS[mode]),
            f"the resize is {kernel} with antialiasing (a kernel as wide as the reduction), rounded to 8 bits, as "
            "Pillow does it",
            "divide by 255; channels first, in the order R, G, B",
        ],
    }


def in_form(block: dict[str, Any], form: Form) -> dict[str, Any]:
    """The block "preprocess" of files that take their pixels in this form, from that of floats."""
    if form.pixels == "float":
        return block
    last = {
        "NCHW": "keep the bytes; channels first, in the order R, G, B",
        "NHWC": "keep the bytes; R, G and B of each pixel together, as a decoded photo has them",
        "picture": "hand over the picture (CVPixelBuffer, CGImage)",
    }[form.layout]
    return {
        **block,
        "layout": form.layout,
        "dtype": "uint8",
        "value_range": [0, 255],
        "normalisation": "inside the graph: neither division by 255 nor mean and standard deviation must be applied again",
        "steps": [*block["steps"][:-1], last],
    }
