"""`PageServer`: a few known files and answers for one browser, on this computer or in its own network.

Whoever comes must bring the token of the address, once: the first browser that does gets a cookie, and nobody else gets in after
that. The page may load nothing from anywhere else (Content-Security-Policy), and a name that is not ours is refused (a site that
points its own name at this computer). Threads of WebAssembly and WebGPU need what browsers call a secure context: this computer by
its own name, or a phone through `adb reverse`. Left out: what is served.
"""

import hmac
import json
import secrets
import socket
import sys
from collections.abc import Callable
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

from typing_extensions import override

from distill.core.errors import DistillError, UsageError

LOOPBACK = "127.0.0.1"
COOKIE = "distill"
LARGEST_POST = 20_000_000
HTTP = 80  # a browser leaves this port out of the name that it asks for
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".wasm": "application/wasm",
    ".json": "application/json",
    ".jpg": "image/jpeg",
    ".png": "image/png",
}
HEADERS = {
    # Nothing from elsewhere; WebAssembly is compiled, and its threads are workers made of blobs.
    "Content-Security-Policy": "default-src 'self'; script-src 'self' blob: 'wasm-unsafe-eval'; worker-src 'self' blob:; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    # Both together let the page share memory between threads.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Refusal(Exception):
    """What is wrong with a posted value, in words for the page; its status is 400."""


class PageServer:
    """Serves until it is closed.

    Args:
        files: path in the address ("/", "/style.css") -> a file, or the bytes of a JSON answer.
        answers: path -> what answers a posted JSON value with another. It may raise `Refusal`.
        lan: whether other devices of the network may come; else this computer alone.
        port: 0 = any free one.

    Raises UsageError for a port that is taken, DistillError where there is no network.
    """

    def __init__(
        self,
        files: dict[str, Path | bytes],
        answers: dict[str, Callable[[Any], Any]],
        *,
        lan: bool = False,
        port: int = 0,
    ) -> None:
        self.files, self.answers = files, answers
        self.token, self._session = secrets.token_urlsafe(16), secrets.token_urlsafe(24)
        self._used = False
        self._lock = Lock()
        self.host = own_address() if lan else LOOPBACK
        handler = type("Handler", (_Handler,), {"page": self})
        try:
            self._server = _Server((self.host, port), handler)
        except OSError as error:
            raise UsageError(
                f"The page cannot be served at {self.host}:{port} ({error.strerror}). Choose another port."
            ) from None
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        names = {self.host} if lan else {LOOPBACK, "localhost"}
        self.names = {f"{name}:{self.port}" for name in names} | (names if self.port == HTTP else set())
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """What a browser is opened with, once."""
        return f"http://{self.host}:{self.port}/?token={self.token}"

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def admit(self, token: str) -> str:
        """The session of the one who brings the right token for the first time; "" for everybody else."""
        with self._lock:
            if self._used or not _same(token, self.token):
                return ""
            self._used = True
            return self._session

    def knows(self, session: str) -> bool:
        """Whether a cookie is that of the browser that was let in."""
        return self._used and _same(session, self._session)


def _same(given: str, ours: str) -> bool:
    """Whether two secrets are the same, in a time that tells nothing; as bytes, since `compare_digest` takes only ASCII letters."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), ours.encode())


class _Server(ThreadingHTTPServer):
    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle of a file is no news."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    page: PageServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "distill", ""

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        if not self._is_for_us():
            return self._refuse(403, "This page answers only to its own address.")
        if not self._has_session():
            token = parse_qs(address.query).get("token", [""])[0]
            session = self.page.admit(token)
            if not session:
                return self._refuse(
                    403, "The token in the address is wrong, or was used by another browser. Start anew."
                )
            self.send_response(303)
            self.send_header("Location", address.path)
            self.send_header("Set-Cookie", f"{COOKIE}={session}; HttpOnly; SameSite=Strict; Path=/")
            return self._end(b"")
        found = self.page.files.get(address.path)
        if found is None:
            return self._refuse(404, "There is no such page.")
        kind = KINDS[".json"] if isinstance(found, bytes) else KINDS.get(found.suffix, "application/octet-stream")
        self.send_response(200)
        self.send_header("Content-Type", kind)
        return self._end(found if isinstance(found, bytes) else found.read_bytes())

    def do_POST(self) -> None:
        if not self._is_for_us() or not self._has_session():
            return self._refuse(403, "This page was not let in.")
        answer = self.page.answers.get(urlsplit(self.path).path)
        size = self.headers.get("Content-Length", "")
        if answer is None or not size.isdigit() or int(size) > LARGEST_POST:
            return self._refuse(404 if answer is None else 413, "Nothing is taken here.")
        try:
            result = answer(json.loads(self.rfile.read(int(size))))
        except Refusal as refusal:
            return self._refuse(400, str(refusal))
        except (ValueError, KeyError, TypeError) as error:
            return self._refuse(400, f"That was not understood: {error}")
        self.send_response(200)
        self.send_header("Content-Type", KINDS[".json"])
        return self._end(json.dumps(result).encode())

    def _is_for_us(self) -> bool:
        return self.headers.get("Host", "") in self.page.names

    def _has_session(self) -> bool:
        cookie: SimpleCookie = SimpleCookie(self.headers.get("Cookie", ""))
        return COOKIE in cookie and self.page.knows(cookie[COOKIE].value)

    def _refuse(self, status: int, words: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.close_connection = True
        self._end(words.encode())

    def _end(self, body: bytes) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: the terminal belongs to the job."""


def own_address() -> str:
    """This computer's address in its own network. Nothing is sent. Raises DistillError where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(
                ("192.0.2.1", 9)
            )  # of the block for documentation (RFC 5737); asks only which way it would go
            found = str(probe.getsockname()[0])
        except OSError as error:
            raise DistillError(f"This computer is in no network ({error.strerror}); leave --lan out.") from None
    return found


def qr_code(text: str) -> str:
    """The text as a QR code of block characters, for a terminal."""
    import io

    import segno

    out = io.StringIO()
    segno.make(text, error="l").terminal(out, compact=True)
    return out.getvalue()
