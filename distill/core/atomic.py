"""Everything written is atomic: temporary name beside the target, fsync, rename. A name that exists is whole.

Also the hashes that manifests carry. `kill -9` at any moment leaves at worst a `.partial-*` leftover, which the next
writer of the same name removes.
"""

import contextlib
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PARTIAL = ".partial-"
_HOST = socket.gethostname().replace("-", "_")
_DAY_S = 24 * 3600


def _partial(path: Path, owner: str = "") -> Path:
    return path.with_name(PARTIAL + owner + path.name)


def fsync_dir(path: Path) -> None:
    """Make a rename inside `path` durable (a no-op where directories cannot be opened, as on Windows)."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


@contextlib.contextmanager
def staged_file(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write to; on success it becomes `path`, on an exception it is removed.

    With `shared`, several processes may write the same `path` at once: each has a temporary name of its own, and the
    last rename wins. What a kill leaves then has no next writer that removes it: call `remove_leftovers`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _partial(path, f"{_HOST}-{os.getpid()}-" if shared else "")
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
        fsync_dir(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left in `folder`: not the temporary files of other processes that live.

    Of another machine's processes nothing is known; their files go when they have not been written to for a day.
    """
    for file in folder.glob(PARTIAL + "*"):
        host, _, rest = file.name.removeprefix(PARTIAL).partition("-")
        pid = rest.partition("-")[0]
        if (host == _HOST and pid.isdigit() and not _lives(int(pid))) or _age_s(file) > _DAY_S:
            file.unlink(missing_ok=True)


def _lives(pid: int) -> bool:
    """Whether another process of this machine has that number; where asking is not safe (Windows), say yes."""
    if pid == os.getpid():
        return False
    try:
        if os.name != "nt":  # there, os.kill would kill
            os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # not ours to signal, so it is there
        return True
    return True


def _age_s(file: Path) -> float:
    try:
        return time.time() - file.stat().st_mtime
    except OSError:
        return 0.0


@contextlib.contextmanager
def staged_dir(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success it becomes `path` (which must not exist, or is replaced)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _partial(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with open(file, "rb") as written:
                    os.fsync(written.fileno())
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
        fsync_dir(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(path: Path, data: bytes, *, shared: bool = False) -> None:
    """Write `data` to `path` atomically. `shared`: see `staged_file`."""
    with staged_file(path, shared=shared) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path` atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any, *, shared: bool = False) -> None:
    """Write `value` as indented JSON, keys in the order given, atomically. `shared`: see `staged_file`."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(), shared=shared)


def read_json(path: Path) -> Any:
    """The JSON value in `path`."""
    return json.loads(path.read_text(encoding="utf-8"))


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:  # Python 3.10 has no hashlib.file_digest
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hex SHA-256 of a JSON value in canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
