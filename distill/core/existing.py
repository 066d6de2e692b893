"""What to do about an output folder that already holds something: one word, the same for runs, sets and selections."""

import enum

from distill.core.errors import UsageError


class Existing(enum.Enum):
    """The answer a call gives about what is already there.

    REFUSE raises, RESUME continues the same job, OVERWRITE replaces it, EXTEND adds to what is finished.
    """

    REFUSE = "refuse"
    RESUME = "resume"
    OVERWRITE = "overwrite"
    EXTEND = "extend"

    @classmethod
    def of(cls, *, resume: bool = False, overwrite: bool = False, extend: bool = False) -> "Existing":
        """The answer that these flags of a command line mean. Raises UsageError when more than one is set."""
        said = [word for word, given in (("resume", resume), ("overwrite", overwrite), ("extend", extend)) if given]
        if len(said) > 1:
            raise UsageError(f"Say only one of {' and '.join(f'--{word}' for word in said)}.")
        return cls(said[0]) if said else cls.REFUSE
