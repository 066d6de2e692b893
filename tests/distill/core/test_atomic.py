"""Atomic files: a name that exists is whole, whatever happens while it is written."""

import functools
import hashlib
import os
import shutil
import socket
import subprocess
import sys

import pytest

from distill.core import atomic


def test_an_exception_leaves_the_old_file_and_no_leftover(tmp_path):
    path = tmp_path / "a"
    atomic.write_text(path, "old")
    with pytest.raises(ZeroDivisionError), atomic.staged_file(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]
    with pytest.raises(ZeroDivisionError), atomic.staged_dir(tmp_path / "d") as folder:
        (folder / "x").write_text("half")
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.process
def test_a_kill_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    atomic.write_text(path, "old")
    code = f"""
import os, pathlib
from distill.core import atomic
with atomic.staged_file(pathlib.Path({str(path)!r})) as t:
    t.write_text("half")
    os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert path.read_text() == "old"
    atomic.write_text(path, "new")
    assert os.listdir(tmp_path) == ["a"]
    assert path.read_text() == "new"


def test_staged_dir_replaces_a_folder_whole(tmp_path):
    for content in ("one", "two"):
        with atomic.staged_dir(tmp_path / "d") as folder:
            (folder / content).write_text(content)
    assert os.listdir(tmp_path / "d") == ["two"]


OLD = {"a": "old a", "sub/b": "old b"}
NEW = {"a": "new a", "sub/c": "new c"}
CALLS = ("rename", "fsync", "rmdir", "unlink", "utime", "mkdir")
ORIGINALS = {name: getattr(os, name) for name in CALLS}


def contents(folder):
    return {file.relative_to(folder).as_posix(): file.read_text() for file in folder.rglob("*") if file.is_file()}


def fill(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


def around_every_call(monkeypatch, hook):
    """Call `hook(count)` before and after each call of the system that staged_dir makes, and the exchange."""
    count = 0

    def wrapped(original, *args, **kwargs):
        nonlocal count
        count += 1
        hook(count)
        result = original(*args, **kwargs)
        count += 1
        hook(count)
        return result

    for name in CALLS:
        monkeypatch.setattr(os, name, functools.partial(wrapped, getattr(os, name)))
    monkeypatch.setattr(atomic, "exchange", functools.partial(wrapped, atomic.exchange))


def replace(path, files):
    with atomic.staged_dir(path) as folder:
        fill(folder, files)


@pytest.fixture(params=["exchange", "aside"])
def way(request, monkeypatch, tmp_path):
    """Both ways of replacing: by an exchange, as Linux and macOS can, and without."""
    if request.param == "aside":
        monkeypatch.setattr(atomic, "exchange", lambda a, b: False)
    else:
        for name in ("x", "y"):
            (tmp_path / name).mkdir()
        if not atomic.exchange(tmp_path / "x", tmp_path / "y"):
            pytest.skip("this file system cannot exchange two names")
        shutil.rmtree(tmp_path / "x")
        shutil.rmtree(tmp_path / "y")
    return request.param


def test_a_kill_or_a_reader_at_every_moment_finds_the_old_or_the_new_folder(tmp_path, monkeypatch, way):
    path = tmp_path / "work" / "d"
    replace(path, OLD)
    seen = []
    with monkeypatch.context() as patch:

        def snapshot(count):
            if len(seen) < count:
                seen.append(None)
                with monkeypatch.context() as plain:
                    for name, function in ORIGINALS.items():
                        plain.setattr(os, name, function)
                    shutil.copytree(path.parent, tmp_path / f"moment-{count}")

        around_every_call(patch, snapshot)
        replace(path, NEW)
    assert len(seen) > 10
    whole = []
    for moment in (tmp_path / f"moment-{count + 1}" for count in range(len(seen))):
        if way == "exchange":
            assert (moment / "d").is_dir()
        atomic.restore_asides(moment)
        whole.append(contents(moment / "d"))
        replace(moment / "d", {"a": "after"})
        assert [file.name for file in moment.iterdir()] == ["d"]
        assert contents(moment / "d") == {"a": "after"}
    turn = whole.index(NEW)
    assert whole[:turn] == [OLD] * turn
    assert whole[turn:] == [NEW] * (len(whole) - turn)


def test_a_failing_call_at_every_place_leaves_the_old_or_the_new_folder(tmp_path, monkeypatch, way):
    path = tmp_path / "d"
    reached = True
    place = 0
    while reached:
        place += 1
        shutil.rmtree(path, ignore_errors=True)
        replace(path, OLD)
        reached = False
        with monkeypatch.context() as patch:

            def fail(count, place=place):
                nonlocal reached
                if count == place:
                    reached = True
                    raise OSError(28, "No space left on device")

            around_every_call(patch, fail)
            try:
                replace(path, NEW)
            except OSError:
                assert contents(path) in (OLD, NEW)
            else:
                assert contents(path) == NEW
        atomic.restore_asides(tmp_path)
        assert contents(path) in (OLD, NEW)
        assert not [file for file in tmp_path.iterdir() if file.name.startswith(atomic.ASIDE)]
    assert place > 10


def test_files_and_folders_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    order = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda fd: order.append(os.stat(fd).st_ino) or fsync(fd))
    monkeypatch.setattr(os, "rename", lambda a, b: order.append("rename") or rename(a, b))
    replace(tmp_path / "d", OLD)
    at = order.index("rename")
    needed = {entry.stat().st_ino for entry in (tmp_path / "d", *(tmp_path / "d").rglob("*"))}
    assert needed <= set(order[:at])
    assert tmp_path.stat().st_ino in order[at:]


def test_asides_of_the_living_and_names_that_only_look_like_one_stay(tmp_path):
    host = socket.gethostname().replace("-", "_")
    names = [f"{atomic.ASIDE}{host}-{os.getppid()}-d", f"{atomic.ASIDE}elsewhere-1-e", f"{atomic.ASIDE}notes"]
    for name in names:
        (tmp_path / name).mkdir()
    atomic.restore_asides(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(names)


def test_a_file_or_a_link_in_the_way_is_replaced(tmp_path, way):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "file").write_text("old")
    for name in ("link", "file"):
        replace(tmp_path / name, NEW)
        assert contents(tmp_path / name) == NEW
        assert not (tmp_path / name).is_symlink()
    assert contents(tmp_path / "elsewhere") == {"mine": "kept"}


def test_hashes(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    assert atomic.sha256_file(tmp_path / "a") == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    assert atomic.sha256_json({"b": 1, "a": [2]}) == atomic.sha256_json({"a": [2], "b": 1})
    assert atomic.sha256_json({"a": 1}) != atomic.sha256_json({"a": 2})


@pytest.mark.process
def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path):
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    ).stdout.strip()
    host = socket.gethostname().replace("-", "_")
    with atomic.staged_file(tmp_path / "shard", shared=True) as mine:
        mine.write_text("half")
        stale = mine.with_name(mine.name.replace(str(os.getpid()), dead))
        other = mine.with_name(f"{atomic.PARTIAL}elsewhere-{dead}-shard")
        parent = mine.with_name(f"{atomic.PARTIAL}{host}-{os.getppid()}-shard")
        for file in (stale, other, parent):
            file.write_text("half")
        ancient = other.with_name(f"{atomic.PARTIAL}elsewhere-1-shard")
        ancient.write_text("half")
        os.utime(ancient, (0, 0))
        mine.rename(tmp_path / "kept-aside")
        atomic.remove_leftovers(tmp_path)
        assert sorted(file.name for file in tmp_path.iterdir()) == sorted(["kept-aside", other.name, parent.name])
        (tmp_path / "kept-aside").rename(mine)
    assert (tmp_path / "shard").read_text() == "half"
