"""Everything written is atomic: temporary name beside the target, fsync, rename. A name that exists is whole.

Also the hashes that manifests carry. `kill -9` at any moment leaves at worst a `.partial-*` leftover, which the next
writer of the same name removes. Only where the system cannot exchange two folders can it leave a replaced folder under
its `.aside-*` name: `restore_asides` gives it its name back.
"""

import contextlib
import ctypes
import functools
import hashlib
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from distill.core.errors import DamagedError
from distill.core.folders.disk import as_disk_error

PARTIAL = ".partial-"
ASIDE = ".aside-"
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
        with _naming(path):
            yield temporary
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
            os.replace(temporary, path)
        fsync_dir(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """A disk's error inside names `path`, whichever writer it comes from."""
    try:
        yield
    except Exception as error:
        named = as_disk_error(error, path)
        if isinstance(named, OSError) and PARTIAL in str(named.filename):
            named.filename = str(path)  # what people know, not the temporary name
        if named is error:
            raise
        raise named from error


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left in `folder`: not the temporary files of other processes that live.

    Of another machine's processes nothing is known; their files go when they have not been written to for a day.
    """
    for file in folder.glob(PARTIAL + "*"):
        host, _, rest = file.name.removeprefix(PARTIAL).partition("-")
        if _abandoned(host, rest.partition("-")[0], file):
            file.unlink(missing_ok=True)


def _abandoned(host: str, pid: str, path: Path) -> bool:
    return (host == _HOST and pid.isdigit() and not _lives(int(pid))) or _age_s(path) > _DAY_S


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
    """Yield a temporary folder to fill; on success it becomes `path`, replacing whatever was there in one step.

    Files and folders inside are on the disk before the name is. Linux and macOS exchange the two names, so that a reader
    finds the old or the new version at every moment. File systems without that, and Windows, rename the old one
    to `.aside-*` first and put it back if the second rename fails; after a kill between the two, `restore_asides`
    does (every next `staged_dir` in the same parent folder calls it).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    restore_asides(path.parent)
    temporary = _partial(path)
    _remove(temporary)
    temporary.mkdir()
    try:
        with _naming(path):
            yield temporary
            _sync_tree(temporary)
            if not os.path.lexists(path):
                os.rename(temporary, path)
            elif not exchange(temporary, path):
                _replace_by_aside(temporary, path)
        fsync_dir(path.parent)
    finally:
        _remove(temporary)  # what was not finished, or the old version


def restore_asides(folder: Path) -> None:
    """Give replaced folders in `folder` their names back where a kill fell before the new version had the name.

    Those whose new version is there are removed. A live writer's are left alone, and another machine's for a day.
    """
    for aside in folder.glob(ASIDE + "*"):
        host, pid, name = [*aside.name.removeprefix(ASIDE).split("-", 2), "", ""][:3]
        path = folder / name
        if not name or not _abandoned(host, pid, aside):
            continue
        if os.path.lexists(path):
            _remove(aside)
        else:
            os.rename(aside, path)
            fsync_dir(folder)


def exchange(a: Path, b: Path) -> bool:
    """Swap two existing names in one step. False = this system or file system cannot, and nothing has changed."""
    call = _exchange_call()
    return call is not None and call(os.fsencode(a), os.fsencode(b)) == 0


@functools.cache
def _exchange_call() -> Callable[[bytes, bytes], int] | None:
    """The C library's call: renameat2(RENAME_EXCHANGE) on Linux, renamex_np(RENAME_SWAP) on macOS, or None."""
    name = {"linux": "renameat2", "darwin": "renamex_np"}.get(sys.platform)
    try:
        function = getattr(ctypes.CDLL(None), name) if name else None
    except (OSError, AttributeError):
        return None
    if function is None:
        return None
    function.restype = ctypes.c_int
    if name == "renamex_np":
        function.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint)
        return lambda a, b: int(function(a, b, 2))
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    here = -100  # AT_FDCWD: paths are relative to the working directory
    return lambda a, b: int(function(here, a, here, b, 2))


def _replace_by_aside(new: Path, path: Path) -> None:
    aside = path.with_name(f"{ASIDE}{_HOST}-{os.getpid()}-{path.name}")
    _remove(aside)
    os.utime(path)  # the age of a name set aside counts from now
    try:
        os.rename(path, aside)
        os.rename(new, path)
    except BaseException:  # Ctrl-C too, before or after a rename has happened
        if not os.path.lexists(path):
            os.rename(aside, path)
        raise
    fsync_dir(path.parent)
    _remove(aside)


def _sync_tree(folder: Path) -> None:
    for parent, _, files in os.walk(folder):
        for name in files:
            with open(os.path.join(parent, name), "rb") as written:
                os.fsync(written.fileno())
        fsync_dir(Path(parent))


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder as far as the system lets us; what stays has a name that nobody reads."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


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
    """The JSON value in `path`. Raises DamagedError, which is a ValueError too, where it holds none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedError(
            f"{str(path)!r} cannot be read ({error}). It is damaged or cut short: copy it again, or remove it and make it anew."
        ) from error


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
