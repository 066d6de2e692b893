"""One process at a time works in a folder; a dead one blocks nobody."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from distill.core.folders.lock import LOCK_FILE, BusyError, leave, refuse_busy, take, working_in


def test_held_while_the_work_lasts(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "export"
    with working_in(folder, "distill export"):
        assert json.loads((folder / LOCK_FILE).read_text())["pid"] == os.getpid()
        with pytest.raises(
            BusyError, match=rf"distill export is at work in .*export.* process {os.getpid()} on "
        ) as caught:
            take(folder, "distill profile")
        assert caught.value.exit_status == 1
    assert [child.name for child in folder.iterdir()] == []
    with working_in(folder, "again"):
        pass


def test_given_back_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(KeyError), working_in(tmp_path, "x"):
        raise KeyError
    refuse_busy(tmp_path)


def test_a_refused_call_leaves_the_lock_of_the_other(tmp_path: Path) -> None:
    with working_in(tmp_path, "first"):
        with pytest.raises(BusyError), working_in(tmp_path, "second"):
            raise AssertionError("not reached")
        assert json.loads((tmp_path / LOCK_FILE).read_text())["what"] == "first"


def _holder(folder: Path, **changes: object) -> Path:
    """The lock of this process in `folder`, changed."""
    with working_in(folder, "distill export"):
        holder = json.loads((folder / LOCK_FILE).read_text())
    (folder / LOCK_FILE).write_text(json.dumps(holder | changes))
    return folder


def test_dead_processes_do_not_block(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    take(_holder(tmp_path / "gone", pid=gone.pid), "next")
    leave(tmp_path / "gone")
    # The number was given to another process since: this one, which began at another time.
    take(_holder(tmp_path / "number", started=time.time() - 10_000), "next")
    leave(tmp_path / "number")
    zombie = subprocess.Popen([sys.executable, "-c", ""])
    while psutil.Process(zombie.pid).status() != psutil.STATUS_ZOMBIE:  # ended, and not asked for its status yet
        time.sleep(0.01)
    started = psutil.Process(zombie.pid).create_time()
    take(_holder(tmp_path / "zombie", pid=zombie.pid, started=started), "next")
    leave(tmp_path / "zombie")
    zombie.wait()


def test_another_machine_blocks_while_it_touches_its_lock(tmp_path: Path) -> None:
    folder = _holder(tmp_path / "export", host="elsewhere", pid=1)
    with pytest.raises(BusyError, match="on elsewhere"):
        refuse_busy(folder)
    leave(folder)  # not ours to remove
    assert (folder / LOCK_FILE).exists()
    os.utime(folder / LOCK_FILE, (time.time() - 600,) * 2)
    take(folder, "next")
    leave(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_a_damaged_lock_does_not_block(tmp_path: Path, text: str) -> None:
    (tmp_path / LOCK_FILE).write_text(text)
    with working_in(tmp_path, "next"):
        pass


def test_of_many_at_once_one_holds(tmp_path: Path) -> None:
    stale = subprocess.Popen([sys.executable, "-c", ""])
    stale.wait()
    _holder(tmp_path, pid=stale.pid)
    won, together = [], threading.Barrier(8)

    def contend() -> None:
        together.wait()
        try:
            take(tmp_path, "x")
            won.append(1)
        except BusyError:
            pass

    threads = [threading.Thread(target=contend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    leave(tmp_path)
    assert len(won) == 1


@pytest.mark.process
def test_a_killed_process_does_not_block(tmp_path: Path) -> None:
    code = "import sys, pathlib; from distill.core.folders.lock import take; take(pathlib.Path(sys.argv[1]), 'distill train'); print(1, flush=True); sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdin is not None
    child.stdout.readline()
    with pytest.raises(BusyError, match=f"distill train is at work in .* process {child.pid} on "):
        refuse_busy(tmp_path)
    child.kill()
    child.wait()
    child.stdin.close()
    child.stdout.close()
    with working_in(tmp_path, "next"):
        pass
