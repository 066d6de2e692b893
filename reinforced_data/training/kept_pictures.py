"""Pictures that a training process keeps decoded, since it meets them again in every epoch: small ones, and all of a small set."""

from typing import TYPE_CHECKING

from reinforced_data.pixels.rendering import SMALL_SIDE, reduction

if TYPE_CHECKING:
    from reinforced_data.pixels.picture import Picture

SMALL_BYTES = 512 << 20  # of images of at most SMALL_SIDE pixels, whose decoding costs more than keeping them
HELD_BYTES = 512 << 20  # of larger ones, by all the workers of a process together
_LEAST_SHARE = 0.5  # of a set; where less has room it is memory for little


class KeptPictures:
    """Pictures by the number of their sample, as far as budgets go. Copies in other processes start empty.

    Larger ones are kept where at least half of the set has room, judged by the first of them.

    Args:
        count: how many samples there are. output: side of the pixels that views become.
    """

    def __init__(self, count: int, output: int) -> None:
        self._count, self._output = count, output
        self._pictures: dict[int, Picture] = {}
        self._small_bytes = self._held_bytes = 0
        self._costs: dict[int, int] = {}  # of larger ones
        self._budget: int | None = None
        self._full = False  # no more larger ones are kept

    def get(self, index: int) -> "Picture | None":
        """The picture of a sample, if it is kept."""
        return self._pictures.get(index)

    def keep(self, index: int, picture: "Picture") -> bool:
        """Keep `picture` where that is worth it and there is room; says whether it is kept. Call `settle` after rendering it."""
        if max(picture.size) > SMALL_SIDE:
            if self._full or self._room(picture) == 0:
                return False
            picture.hold()
            self._costs[index] = 0
        else:
            size = picture.size[0] * picture.size[1] * 4  # Pillow holds RGB in four bytes
            if self._small_bytes + size > SMALL_BYTES:
                return False
            self._small_bytes += size
        self._pictures[index] = picture
        return True

    def settle(self, index: int) -> None:
        """Count what the picture of a sample holds by now, and let it go where that is too much."""
        before = self._costs.get(index)
        if before is None:
            return
        self._costs[index] = self._pictures[index].held_bytes
        self._held_bytes += self._costs[index] - before
        if self._budget is not None and self._held_bytes > self._budget:
            self._held_bytes -= self._costs.pop(index)
            del self._pictures[index]
            self._full = True

    def _room(self, picture: "Picture") -> int:
        """Bytes that larger pictures may take in this process; 0 where too small a share of the set has room."""
        if self._budget is None:
            from torch.utils.data import get_worker_info

            worker = get_worker_info()
            budget = HELD_BYTES // (worker.num_workers if worker is not None else 1)
            width, height = picture.size
            typical = width * height * 3 // reduction((0, 0, width, height), self._output) ** 2
            self._budget = budget if _LEAST_SHARE * typical * self._count <= budget else 0
        return self._budget

    def __reduce__(self) -> "tuple[type[KeptPictures], tuple[int, int]]":
        return KeptPictures, (self._count, self._output)
