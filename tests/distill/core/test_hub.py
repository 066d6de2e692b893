"""`distill.core.folders.hub`: order of look-up, and the refusal, which runs in a process of its own with an empty cache."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from distill.core.errors import DistillError
from distill.core.folders import hub

REPO, FILE = "apple/DFN2B-CLIP-ViT-L-14", "open_clip_pytorch_model.bin"
ROOT = Path(__file__).resolve().parents[3]
CALL = (
    "from distill.core.folders.hub import find_weights\n"
    f"find_weights({REPO!r}, {FILE!r}, what='the weights of teacher dfn-vitl14', alternatives=('x.safetensors',))\n"
)


def refuse(home: Path, call: str = CALL, **extra: str) -> tuple[str, float]:
    """(message, seconds) of the refusal in a fresh process."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "DISTILL_")) and "proxy" not in k.lower()}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", call],
        env={**clean, "HF_HOME": str(home), "PYTHONPATH": str(ROOT), **extra},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    return done.stderr, time.monotonic() - began


def check_message(message: str, home: Path) -> None:
    last = message.strip().splitlines()[-1]
    assert last.startswith("distill.core.errors.DistillError: Cannot find the weights of teacher dfn-vitl14")
    for part in (FILE, REPO, str(home), "DISTILL_WEIGHTS", "hf download", "--teacher PATH"):
        assert part in last
    assert not [file for file in home.rglob("*") if file.is_file()], "something was left behind"


@pytest.mark.process
def test_refusal_where_the_hub_does_not_answer(tmp_path: Path) -> None:
    """A server that accepts and says nothing is the slowest case: it is left after the time that one request may take."""
    assert hub._REQUEST_SECONDS <= 8
    call = "import distill.core.folders.hub\ndistill.core.folders.hub._REQUEST_SECONDS = 1.0\n" + CALL
    with socket.create_server(("127.0.0.1", 0)) as silent:
        message, seconds = refuse(tmp_path, call, HF_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}")
    check_message(message, tmp_path)
    assert "cannot be reached" in message
    assert 1 < seconds < 15  # 20 s is what all first contacts together may take


@pytest.mark.process
def test_refusal_where_nothing_listens(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as once:
        port = once.getsockname()[1]
    message, seconds = refuse(tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{port}", DISTILL_WEIGHTS=str(tmp_path / "w"))
    check_message(message, tmp_path)
    assert str(tmp_path / "w" / REPO.replace("/", "--") / FILE) in message
    assert seconds < 30


@pytest.mark.process
def test_refusal_when_told_to_stay_offline(tmp_path: Path) -> None:
    message, seconds = refuse(tmp_path, HF_HUB_OFFLINE="1")
    check_message(message, tmp_path)
    assert "HF_HUB_OFFLINE is set" in message
    assert seconds < 30


@pytest.mark.parametrize("inside", [REPO.replace("/", "--"), REPO, "."])
def test_folders_of_the_variable(inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "second" / inside
    place.mkdir(parents=True)
    (place / FILE).write_bytes(b"x")
    monkeypatch.setenv("DISTILL_WEIGHTS", os.pathsep.join([str(tmp_path / "first"), str(tmp_path / "second")]))
    assert hub.find_weights(REPO, FILE, what="w").samefile(place / FILE)
    assert hub.find_weights(REPO, "other.bin", what="w", alternatives=(FILE,)).samefile(place / FILE)


def test_cache_is_used_before_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / f"models--{REPO.replace('/', '--')}"
    (repo / "snapshots" / commit).mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots" / commit / FILE).write_bytes(b"x")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "_from_network", lambda *_: pytest.fail("asked the network"))
    assert hub.find_weights(REPO, FILE, what="w") == repo / "snapshots" / commit / FILE


class _Hub(threading.Thread):
    """Answers HEAD for one known file, then sends half of it and hangs up."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            with connection:
                request = connection.recv(65536).decode(errors="replace")
                known = FILE in request.split("\r\n")[0]
                status = "200 OK" if known else "404 Not Found"
                extra = "" if known else "X-Error-Code: EntryNotFound\r\n"
                connection.sendall(
                    f'HTTP/1.1 {status}\r\nETag: "abc"\r\nX-Repo-Commit: {"0" * 40}\r\n{extra}'
                    f"Content-Length: {1000 if known else 0}\r\nConnection: close\r\n\r\n".encode()
                )
                if known and request.startswith("GET"):
                    connection.sendall(b"x" * 500)


@pytest.mark.process
def test_a_broken_download_leaves_nothing(tmp_path: Path) -> None:
    """The first name is unknown to the server, the second breaks off half way, again and again."""
    server = _Hub()
    server.start()
    call = CALL.replace(repr(FILE), "'unknown.safetensors'").replace("'x.safetensors'", repr(FILE))
    call = "import time\ntime.sleep = lambda seconds: None  # between huggingface_hub's attempts\n" + call
    try:
        done = subprocess.run(
            [sys.executable, "-c", call],
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()},
                "HF_HOME": str(tmp_path),
                "HF_ENDPOINT": f"http://127.0.0.1:{server.port}",
                "HF_HUB_DISABLE_PROGRESS_BARS": "1",
                "PYTHONPATH": str(ROOT),
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        server.server.close()
    assert "DistillError: Cannot find" in done.stderr
    assert "broke off" in done.stderr
    assert not [
        file for file in tmp_path.rglob("*") if file.stat().st_size and "blobs" in file.parts and file.is_file()
    ]
    assert not list(tmp_path.rglob("*.incomplete"))


def test_leftovers_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / "theirs.incomplete").write_bytes(b"x")

    def interrupted() -> None:
        with hub._no_leftovers(tmp_path):
            (tmp_path / "ours.incomplete").write_bytes(b"x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [file.name for file in tmp_path.iterdir()] == ["theirs.incomplete"]


def test_gated_and_unknown_repositories_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import errors

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for kind, words in (
        (errors.GatedRepoError, "accept its terms"),
        (errors.RepositoryNotFoundError, "no such repository"),
        (errors.EntryNotFoundError, "holds no file called"),
    ):
        failure = kind.__new__(kind)  # their constructors want a live response
        monkeypatch.setattr(hub, "_first_contact", lambda *_, answer=failure: answer)
        with pytest.raises(DistillError, match=words):
            hub.find_weights(REPO, FILE, what="w")
