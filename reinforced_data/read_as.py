"""How a place of data was read, and what in it was left aside: one line for people, one object for programs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

NO_CAPTIONS = "no captions"
TARS = "tars"  # a kind
MOST_TOLD = 8  # kinds of unread things in the line; the JSON has them all


@dataclass(frozen=True)
class ReadAs:
    """How a place was read.

    Attributes:
        kind: what the place was taken for ("class folders", "table captions.csv", "tars").
        captions: where captions came from; "no captions" where there are none.
        classes: how many classes its labels have; 0 = no labels.
        split: which part of the place is served, and how it was divided.
        notes: what was done to what was found, each in a few words ("cells separated by ';'").
        unread: what was left aside -> how many; a path or pattern with a "/" or "*" names itself.
    """

    kind: str
    captions: str = NO_CAPTIONS
    classes: int = 0
    split: str = ""
    notes: tuple[str, ...] = ()
    unread: Mapping[str, int] = field(default_factory=dict)

    def but(self, *notes: str, **changes: Any) -> "ReadAs":
        """A copy with `changes`, and `notes` added."""
        return replace(self, **changes, notes=(*self.notes, *(note for note in notes if note)))

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> "ReadAs":
        """What `dataclasses.asdict` says of one, also when it has been JSON since."""
        return cls(**{**said, "notes": tuple(said["notes"])})

    def line(self) -> str:
        """The whole in one line: `read as: class folders (2 classes), captions made from templates; not read: 9 .heic`."""
        kind = f"{self.kind} ({counted(self.classes, 'class', 'classes')})" if self.classes else self.kind
        parts = [", ".join(filter(None, (kind, self.captions, self.split))), *self.notes]
        told = [_told(name, count) for name, count in self.unread.items()]
        more = [f"{len(told) - MOST_TOLD} more kinds"] if len(told) > MOST_TOLD else []
        left = [f"not read: {', '.join([*told[:MOST_TOLD], *more])}"] if told else []
        return _storable(f"read as: {'; '.join([*parts, *left])}")

    def to_json(self) -> dict[str, Any]:
        """One object, `line` included."""
        return {
            "kind": self.kind,
            "captions": self.captions,
            "classes": self.classes,
            "split": self.split,
            "notes": list(map(_storable, self.notes)),
            "not_read": {_storable(name): count for name, count in self.unread.items()},
            "line": self.line(),
        }


def counted(count: int, one: str, several: str) -> str:
    """ "1 class", "2 classes"."""
    return f"{count} {one if count == 1 else several}"


def left_out(reasons: Mapping[str, int], most: int = 4) -> str:
    """Why samples were left out, for people: "14 (no caption), 3 (the file ... cannot be read) and 2 for other reasons"."""
    told = [f"{count} ({reason})" for reason, count in [*reasons.items()][:most]]
    rest = sum([*reasons.values()][most:])
    return ", ".join(told) + (f" and {rest} for other reasons" if rest else "")


def _storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()  # file names on Linux need not be UTF-8


def _told(name: str, count: int) -> str:
    if "/" in name or "*" in name:
        return name.removeprefix("./") if count == 1 else f"{name} ({count})"
    return f"{count} {name.removesuffix('s') if count == 1 else name}"


def listed(names: Iterable[str], most: int = 3) -> str:
    """Names in a row, the rest as a number: "a, b, c and 4 more"."""
    found = list(names)
    return ", ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "")
