"""The page server's doors, what a page may post, and the whole way through a real headless Chromium where one is here."""

import http.client
import json
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distill.core.errors import DistillError, UsageError
from export.artifacts.record import ExportArtifact
from export.device import list_devices
from export.devices.parts.browser import browser_name, checked
from export.devices.parts.page_server import PageServer, Refusal, qr_code
from export.devices.web import runtime_folder, runtime_version
from export.latency.measure import profile
from export.settings import ProfileSettings


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PageServer]:
    (tmp_path / "page.html").write_text("<p>here</p>")

    def answer(value: Any) -> Any:
        if value == "bad":
            raise Refusal("That is bad.")
        return {"got": value["x"]}

    served = PageServer({"/": tmp_path / "page.html", "/job.json": b"{}"}, {"/result": answer})
    yield served
    served.close()


def _ask(
    server: PageServer, path: str, *, cookie: str = "", host: str = "", body: Any = None
) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    headers = {"Host": host or f"127.0.0.1:{server.port}"} | ({"Cookie": cookie} if cookie else {})
    connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read().decode()
    connection.close()
    return found


def test_one_browser_gets_in_by_the_token_and_nobody_else(server: PageServer) -> None:
    assert server.host == "127.0.0.1"  # unless --lan is said
    for path in ("/", "/?token=", "/?token=wrong", f"/?token={server.token}x", "/job.json"):
        assert _ask(server, path)[0] == 403
    assert _ask(server, f"/?token={server.token}", host=f"evil.example:{server.port}")[0] == 403  # DNS rebinding
    status, headers, _ = _ask(server, f"/?token={server.token}")
    assert (status, headers["Location"]) == (303, "/")
    assert {"HttpOnly", "SameSite=Strict"} <= set(headers["Set-Cookie"].split("; "))
    cookie = headers["Set-Cookie"].split(";")[0]
    status, headers, body = _ask(server, "/", cookie=cookie)
    assert (status, body) == (200, "<p>here</p>")
    policy = headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy  # nothing from anywhere else
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert _ask(server, f"/?token={server.token}")[0] == 403  # it works once
    assert _ask(server, "/", cookie="distill=guess")[0] == 403
    for path in ("/../page.html", "/etc/passwd"):
        assert _ask(server, path, cookie=cookie)[0] == 404
    assert _ask(server, "/result", body={"x": 1})[0] == 403
    assert _ask(server, "/result", body={"x": 1}, cookie=cookie)[::2] == (200, '{"got": 1}')
    assert _ask(server, "/result", body="bad", cookie=cookie)[::2] == (400, "That is bad.")
    assert _ask(server, "/result", body={"y": 1}, cookie=cookie)[0] == 400
    assert _ask(server, "/other", body={}, cookie=cookie)[0] == 404


def test_odd_visitors_are_refused_quietly(server: PageServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Secrets of any letters, and one who leaves while the page is sent: no traceback on the terminal of the job."""
    assert _ask(server, "/?token=%C3%A4%F0%9F%98%80")[0] == 403
    server.admit(server.token)
    assert _ask(server, "/", cookie='distill="\\303\\244"')[0] == 403  # as cookies write letters beyond ASCII
    with socket.create_connection(("127.0.0.1", server.port)) as visitor:
        visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # leaves by a reset
        visitor.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n".encode())
    assert _ask(server, "/")[0] == 403  # it still serves
    assert capsys.readouterr().err == ""


def test_a_port_that_is_taken(server: PageServer) -> None:
    with pytest.raises(UsageError, match=f"127.0.0.1:{server.port} .*Choose another port"):
        PageServer({}, {}, port=server.port)


def test_the_code_is_read_back_by_its_size() -> None:
    """A QR code of the address is square, with a quiet zone, and other for another address."""
    lines = qr_code("http://192.0.2.7:8000/?token=abc").splitlines()
    assert len(lines) > 10
    assert qr_code("http://192.0.2.7:8000/?token=abd") != "\n".join(lines)


DESCRIBED = [{"folder": "onnx-fp32", "tower": "image"}, {"folder": "onnx-fp32", "tower": "text"}]
GOOD = [
    {**entry, "ms": [1.0, 2.0], "cosine": 1.0, "load_ms": 1, "threads": 1, "backend": "wasm"} for entry in DESCRIBED
]


def test_what_a_page_may_post() -> None:
    assert checked({"about": {}, "results": GOOD}, DESCRIBED)["results"] == GOOD
    for wrong in (
        [],
        GOOD[:1],
        [*GOOD, {**GOOD[0], "folder": "other"}],
        [{**GOOD[0], "ms": []}, GOOD[1]],
        [{**GOOD[0], "ms": [-1.0]}, GOOD[1]],
        [{**GOOD[0], "ms": ["1"]}, GOOD[1]],
        [{**GOOD[0], "cosine": float("nan")}, GOOD[1]],
    ):
        with pytest.raises(Refusal):
            checked({"about": {}, "results": wrong}, DESCRIBED)


@pytest.mark.parametrize(
    ("about", "name"),
    [
        ({"brands": [{"brand": "Chromium", "version": "156"}, {"brand": "Not.A/Brand", "version": "9"}, {"brand": "Google Chrome", "version": "156"}],
          "platform": "Android"}, "Google Chrome 156 on Android"),
        ({"agent": "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0) AppleWebKit/605 Version/19.0 Mobile/15E148 Safari/604", "platform": "iPhone"},
         "Safari 19.0 on iPhone"),
        ({"agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "platform": "Linux x86_64"}, "Firefox 140.0 on Linux x86_64"),
        ({}, "a browser on an unknown system"),
    ],
)  # fmt: skip
def test_names_of_browsers(about: dict[str, Any], name: str) -> None:
    assert browser_name(about) == name


def test_the_runtime_is_looked_for_and_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match=f"npm install --prefix {tmp_path}/web onnxruntime-web@1"):
        runtime_folder("")
    (web,) = [info for info in list_devices() if info.kind == "web"]
    assert not web.ready
    package = tmp_path / "web" / "node_modules" / "onnxruntime-web"
    (package / "dist").mkdir(parents=True)
    (package / "dist" / "ort.webgpu.min.mjs").touch()
    (package / "package.json").write_text('{"version": "1.30.0"}')
    assert runtime_version(runtime_folder("")) == "1.30.0"
    assert runtime_folder(str(package)) == runtime_folder(str(package / "dist")) == package / "dist"
    with pytest.raises(UsageError, match=r"profile\.web_runtime"):
        runtime_folder(str(tmp_path))
    with pytest.raises(UsageError, match=r"profile\.web_runtime"):
        list_devices(ProfileSettings(web_runtime=str(tmp_path)))


def _chromium(address: str, home: Path) -> "subprocess.Popen[bytes]":
    """A headless browser that keeps the page open; which hosts it looks up is in its log."""
    words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={home / 'chrome'}"]
    with open(home / "chrome.log", "wb") as log:
        return subprocess.Popen(["chromium", *words, "--enable-logging=stderr", address], stdout=log, stderr=log)


@pytest.fixture
def browser() -> None:
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not here (Debian: apt install chromium)")
    try:
        runtime_folder("")
    except UsageError as missing:
        pytest.skip(str(missing))


@pytest.mark.process
def test_a_browser_times_the_files(browser: None, exported: tuple[Path, list[ExportArtifact]], tmp_path: Path) -> None:
    """Chromium opens the page, runs both towers by onnxruntime-web, agrees with the golden embeddings, and posts its times."""
    export = tmp_path / "onnx-fp32"
    shutil.copytree(exported[0] / "onnx-fp32", export)
    opened: list[subprocess.Popen[bytes]] = []

    def look(done: int, total: int, note: str) -> None:
        if "http://" in note:
            opened.append(_chromium(note.split()[-1], tmp_path))

    try:
        rows = profile(
            [export], None, ProfileSettings(devices=("web",), runs=4, warmup_runs=1, seconds=90), progress=look
        )
    finally:
        for process in opened:
            process.kill()
            process.wait()
    assert {row.source for row in rows} == {"measured (browser)"}
    assert {row.tower for row in rows} == {"image", "text"}
    for row in rows:
        assert row.output_cosine is not None
        assert row.output_cosine > 0.99999
        assert row.runs == 4
        assert row.p50_ms is not None
        assert 0 < row.p50_ms <= (row.p99_ms or 0)
        assert row.runtime.startswith(f"ONNX Runtime Web {runtime_version(runtime_folder(''))}, wasm")
        assert row.conditions["browser"]["isolated"]  # so that threads are possible
    console = [line for line in (tmp_path / "chrome.log").read_text(errors="replace").splitlines() if "CONSOLE" in line]
    assert not [
        line for line in console if "Refused" in line or "Error" in line
    ]  # the page asks for nothing from elsewhere


@pytest.mark.process
def test_a_file_that_browsers_do_not_run(exported: tuple[Path, list[ExportArtifact]], tmp_path: Path) -> None:
    shutil.copytree(exported[0] / "coreml-fp16", tmp_path / "coreml-fp16")
    folder = tmp_path / "runtime"
    folder.mkdir()
    (folder / "ort.webgpu.min.mjs").touch()
    settings = ProfileSettings(devices=("web",), web_runtime=str(folder), seconds=0.2)
    with pytest.raises(UsageError, match="Browsers run ONNX files"):
        profile([tmp_path / "coreml-fp16"], None, settings)
    shutil.copytree(exported[0] / "onnx-fp32", tmp_path / "onnx-fp32")
    threads = threading.active_count()
    with pytest.raises(DistillError, match="No browser posted its times in 0 s"):
        profile([tmp_path / "onnx-fp32"], None, settings)
    assert threading.active_count() == threads  # nobody serves any more
