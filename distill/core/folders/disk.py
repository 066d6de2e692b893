"""What went wrong with a disk, in words: full, read-only, no permission, broken. Left out: saying what was kept.

Writers that are no Python (safetensors, torch) raise exceptions of their own for the same faults; here they become OSError.
"""

import errno
import io
import math
import os
import re
import shutil
from pathlib import Path
from typing import IO, Any

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LOCKED = (errno.EROFS, errno.EACCES, errno.EPERM)
BROKEN = (errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE)

SHARED = Path("/dev/shm")  # where Linux keeps memory that processes share


def free_shared_bytes() -> float:
    """Bytes of memory for sharing between processes that are free; infinite where the system has no such place.

    A container often has 64 MB of it, and a process that writes beyond dies by a bus error.
    """
    return shutil.disk_usage(SHARED).free if SHARED.is_dir() else math.inf


def disk_message(error: BaseException, place: str = "") -> str:
    """What a disk refused and what to do about it, "" when the error is another one.

    Args:
        place: where it was written to, when the error does not say.
    """
    if not isinstance(error, OSError) or error.errno not in (*FULL, *LOCKED, *BROKEN):
        return ""
    where = repr(os.fspath(error.filename) if isinstance(error.filename, (str, os.PathLike)) else place or "the output")
    reason = os.strerror(error.errno)
    if error.errno in FULL:
        return f"The disk is full while writing {where} ({reason}). Free some space."
    if error.errno == errno.EROFS:
        return f"The disk of {where} is read-only ({reason}). Make it writable, or give a place on another one."
    if error.errno in LOCKED:
        return f"There is no permission for {where} ({reason}). Mend its permissions, or give another place."
    return f"The disk fails at {where} ({reason}). Look at the disk, or give a place on another one."


def as_disk_error(error: Exception, path: Path) -> Exception:
    """The same error with the path that was written; one of a foreign writer as the OSError that it stands for."""
    if isinstance(error, OSError):
        if error.errno is not None and not error.filename:
            return OSError(error.errno, os.strerror(error.errno), str(path))
        return error
    found = re.search(r"\(os error (\d+)\)", str(error))  # as Rust writes it
    number = int(found[1]) if found else 0
    return OSError(number, os.strerror(number), str(path)) if number in (*FULL, *LOCKED, *BROKEN) else error


class Writing(io.RawIOBase):
    """A file whose first failed write is kept: torch hides it, even a Ctrl-C, behind a failed check of its own.

    Attributes:
        failed: what the write raised, or None.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.failed: BaseException | None = None

    def writable(self) -> bool:
        """Yes."""
        return True

    def write(self, data: Any) -> int:
        """Write all of `data`."""
        try:
            return self._file.write(data)
        except BaseException as error:
            self.failed = self.failed or error
            raise
