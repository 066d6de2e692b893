"""The terms and the origin of an exported model, as they are written into its files and beside them.

A file that is copied into an app loses its folder, so formats that have a place for metadata carry the terms inside
(`Target.sign`); LICENSE lies beside every file, also of those that have none. Left out: collecting the terms, which
training does (the student's card).
"""

import json
from dataclasses import dataclass
from typing import Any

LICENSE_FILE = "LICENSE"


@dataclass(frozen=True)
class Notice:
    """What is written into an exported file.

    Attributes:
        licence: the terms of the student and of everything that it is made of, in words.
        student: its name; "" where the export was not told.
        teachers: the names of those that it learned from.
    """

    licence: str
    student: str = ""
    teachers: tuple[str, ...] = ()

    @classmethod
    def of(cls, licence: str, provenance: dict[str, Any]) -> "Notice":
        """From an export's licence and provenance."""
        return cls(licence, str(provenance.get("student", "")), tuple(map(str, provenance.get("teachers") or ())))

    @property
    def origin(self) -> str:
        """One line: which student, from which teachers."""
        learned = f", distilled from {', '.join(self.teachers)}" if self.teachers else ""
        return f"student {self.student}{learned}" if self.student else "a student that was not named"

    def describe(self, tower: str | None) -> str:
        """One line about a tower's file; None = one that holds them all."""
        if tower is None:
            return f"The towers of {self.origin}, a function each."
        what = "zero-shot classifier" if tower == "classifier" else f"{tower} tower"
        return f"The {what} of {self.origin}."


def licence_text(notice: Notice, provenance: dict[str, Any]) -> str:
    """What stands in LICENSE."""
    facts = "\n".join(f"  {key}: {_plain(value)}" for key, value in provenance.items())
    return (
        f"The files in this folder are {notice.origin}, exported with distill.\n\n"
        f"Licence: {notice.licence}\n\n"
        "These are the terms of all that the model is made of (data, captioners, teachers, inherited weights), as far as "
        "they were known when it was trained.\n\n"
        f"Provenance:\n{facts}\n"
    )


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
