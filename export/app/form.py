"""`Form`: how an exported file takes its inputs: how many at a call, and pixels as floats or as the bytes of a decoded photo.

Left out: how a photo becomes a square (`export.app.preprocess`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from distill.core.arrays import Array

PixelType = Literal["float", "uint8"]
# "NCHW": planes of R, G and B; "NHWC": R, G and B of each pixel together; "picture": a CVPixelBuffer or CGImage.
Layout = Literal["NCHW", "NHWC", "picture"]


@dataclass(frozen=True)
class Form:
    """How a file takes its inputs.

    Attributes:
        batch: inputs at a call, always so many.
        pixels: "float", RGB in [0, 1], or "uint8", RGB from 0 to 255; what follows is in the graph.
        layout: of the pixels; other than "NCHW" for "uint8" alone.
        further: other numbers of inputs that the same file takes at a call.
    """

    batch: int = 1
    pixels: PixelType = "float"
    layout: Layout = "NCHW"
    further: tuple[int, ...] = ()

    @property
    def each(self) -> "tuple[Form, ...]":
        """A form for each number of inputs that the file takes."""
        return tuple(replace(self, batch=size, further=()) for size in (self.batch, *self.further))

    @property
    def graph(self) -> str:
        """Which graph a file of this form is made from. A picture's is that of floats, behind Core ML's own conversion."""
        kind = "float" if self.pixels == "float" or self.layout == "picture" else f"uint8-{self.layout}"
        return f"{kind}-any" if self.further else kind

    def given(self, value: "Array") -> "Array":
        """Inputs as a file takes them.

        Args:
            value: float32 pixels [b, 3, S, S] in [0, 1], or tokens, which stay as they are.

        Returns:
            Pixels in this form; of a picture the 8-bit values as floats [b, 3, S, S], which is what Core ML's graph is given.
        """
        if value.ndim != 4 or self.pixels == "float":
            return value
        import numpy as np

        numbers = np.clip(np.round(value * 255), 0, 255)
        if self.layout == "picture":
            return numbers.astype(np.float32)
        numbers = numbers.astype(np.uint8)
        return numbers.transpose(0, 2, 3, 1) if self.layout == "NHWC" else numbers

    def run(self, runner: "Callable[[Array], Array]", values: "Array") -> "Iterator[Array]":
        """What a file says to `values` [n, ...], a call after the other; rows that fill up the last call are left out."""
        import numpy as np

        left = len(values)
        for rows in batches(values, self.batch):
            yield np.asarray(runner(np.ascontiguousarray(self.given(rows))))[:left]
            left -= self.batch

    def describe(self, shape: tuple[int, ...]) -> str:
        """The input in words, as an artifact has it.

        Args:
            shape: [n, 3, S, S] or [n, L], of the inputs in the form of floats.
        """
        sizes: list[Any] = ["|".join(str(form.batch) for form in self.each), *shape[1:]]
        if len(shape) == 2:
            return f"int32{_plain(sizes)} token ids as `tokenizer` says: start, pieces, end, padding"
        if self.pixels == "float":
            return f"float32{_plain(sizes)} RGB in [0, 1], resized as `preprocess` says; normalisation is inside"
        if self.layout == "picture":
            return f"image{_plain(sizes)} a picture of 8-bit RGB (CVPixelBuffer), resized as `preprocess` says; the rest is inside"
        if self.layout == "NHWC":
            sizes = [sizes[0], *sizes[2:], sizes[1]]
        return f"uint8{_plain(sizes)} RGB from 0 to 255, resized as `preprocess` says; division and normalisation are inside"


def batches(values: "Array", size: int) -> "Iterator[Array]":
    """[n, ...] -> [size, ...] after each other; the last one is filled up with its last row."""
    import numpy as np

    for at in range(0, len(values), size):
        rows = values[at : at + size]
        yield rows if len(rows) == size else np.concatenate([rows, np.repeat(rows[-1:], size - len(rows), axis=0)])


def _plain(sizes: list[Any]) -> str:
    return f"[{','.join(map(str, sizes))}]"
