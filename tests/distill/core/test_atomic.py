"""Atomic files: a name that exists is whole, whatever happens while it is written."""

import hashlib
import os
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
