"""Which part of a place serves a split: parts that the place names (train, val2017, a column), else a share held out."""

import hashlib
import heapq
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from distill.core.errors import UsageError, nearest
from reinforced_data.source import NAMED, Split
from reinforced_data.sources.parts.kept.compact import AllBut

Remember = Callable[[str, Callable[[], Any]], Any]  # (name, how it is found out) -> what was found out

TRAIN_NAMES = ("train", "training")
EVAL_NAMES = ("dev", "val", "validation", "valid", "eval", "test", "testing")  # the first that is there serves "eval"
HOLDOUT_SHARE, HOLDOUT_MOST = 0.1, 1000
_PART = re.compile(
    rf"(restval|{'|'.join((*TRAIN_NAMES, *EVAL_NAMES))})(?:[-_ ]?(?:\d{{2,5}}|images|imgs|set|split|data))*"
)


def part_of(name: str) -> str | None:
    """The part that a name says as a whole: "train2017" -> "train", "test_images" -> "test"; or None.

    "restval" is what Karpathy's COCO adds to its train part.
    """
    found = _PART.fullmatch(name.lower())
    return {"restval": "train"}.get(found[1], found[1]) if found else None


def part_of_file(stem: str) -> str | None:
    """The part that a file's name begins with: "test-00000-of-00002" -> "test"; or None."""
    return part_of(stem) or part_of(re.split(r"[-._]", stem)[0])


def forget(name: str, find: Callable[[], Any]) -> Any:
    """A `Remember` that keeps nothing."""
    return find()


@dataclass(frozen=True)
class Choice:
    """What of a place serves a split.

    Attributes:
        parts: names of the parts that are read; none = the place as a whole.
        hold_out: whether a share of them is set apart for evaluation.
        divided: whether the place itself names parts to train on and parts to evaluate on.
    """

    parts: tuple[str, ...]
    hold_out: bool
    divided: bool = False

    def told(self, split: Split) -> str:
        """The same for a person."""
        which = f"part {' + '.join(self.parts)}" if self.parts else "all of it"
        if not self.hold_out:
            return which
        share = f"{HOLDOUT_SHARE:.0%} (at most {HOLDOUT_MOST}), held out by hash of the key"
        return f"{which} but {share}" if split == "train" else f"of {which} {share}"


def choose(found: Sequence[str], split: Split, where: str, *, divide: bool = False) -> Choice:
    """Which of the parts `found` serve `split`.

    Args:
        divide: whether a place with evaluation parts alone is trained on by holding a share of them out.

    Raises UsageError when a part that is named is not there, and for "train" when there are evaluation parts alone.
    """
    train = tuple(name for name in TRAIN_NAMES if name in found)
    evaluation = [name for name in EVAL_NAMES if name in found]
    if split.startswith(NAMED):
        wanted = split.removeprefix(NAMED)
        known = [name for name in found if name == wanted] or [name for name in found if name == part_of(wanted)]
        if not known:
            raise UsageError(
                f"{where} has no part {wanted!r}: its parts are {', '.join(found) or 'not named'}. {nearest(wanted, found)}"
            )
        return Choice((known[0],), hold_out=False, divided=True)
    if split == "given":
        return Choice((evaluation[0],) if evaluation else train, hold_out=False, divided=len(found) > 1)
    if train and evaluation:
        return Choice(train if split == "train" else (evaluation[0],), hold_out=False, divided=True)
    if train or (divide and evaluation):
        return Choice(train or (evaluation[0],), hold_out=True)
    if evaluation and split == "train":
        raise UsageError(
            f"{where} has only {', '.join(evaluation)} data and none called train. Train on another place, or rename "
            "the part to train on to 'train'."
        )
    return Choice((evaluation[0],), hold_out=False) if evaluation else Choice((), hold_out=True)


def held_out_rows(keys: Sequence[str], split: Split, where: str, remember: Remember = forget) -> Sequence[int]:
    """Rows of `split` when a place names no splits: 10 % (at most 1,000, at least 1) by hash of the key are "eval".

    `remember`: where the rows that are held out are kept once they are known, which takes a look at every key.
    """
    if split == "eval" and len(keys) < 2:
        raise UsageError(f"{where} holds {len(keys)} sample(s); at least 2 are needed to hold one out for evaluation.")
    count = max(1, min(HOLDOUT_MOST, round(HOLDOUT_SHARE * len(keys)))) if len(keys) > 1 else 0

    def find() -> list[int]:
        hashed = ((hashlib.sha256(b"holdout:" + _utf8(key)).digest(), row) for row, key in enumerate(keys))
        return sorted(row for _, row in heapq.nsmallest(count, hashed))

    held = remember("held-out", find)
    return held if split == "eval" else AllBut(len(keys), held)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # of a file name, or of JSON, which need not be valid
