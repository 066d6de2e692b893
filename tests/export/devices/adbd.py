"""A stand-in for a phone's adb daemon: `python adbd.py ROOT PORT` answers the real `adb` client and server over TCP.

The folder ROOT is the phone's file system; programs in ROOT/.bin stand in front of this computer's own (getprop, dumpsys, df).
It speaks what `adb connect`, `shell` and `push`/`pull` need: CNXN, OPEN, OKAY, WRTE, CLSE without authentication; the services
shell: and shell,v2: (with exit status), and sync: STAT, SEND, RECV (protocol.txt and file_sync_service.h of Android's adb).
"""

import asyncio
import contextlib
import os
import struct
import subprocess
import sys
from pathlib import Path

CNXN, OPEN, OKAY, WRTE, CLSE = (
    int.from_bytes(word, "little") for word in (b"CNXN", b"OPEN", b"OKAY", b"WRTE", b"CLSE")
)
VERSION, LARGEST = 0x01000001, 256 * 1024
BANNER = b"device::ro.product.name=standin;ro.product.model=Stand_in;ro.product.device=standin;features=shell_v2,cmd"
STDOUT, STDERR, EXIT = 1, 2, 3  # kinds of packets in shell,v2


class Stream:
    """One service that the client has opened."""

    def __init__(self, connection: "Connection", ours: int, theirs: int) -> None:
        self.connection, self.ours, self.theirs = connection, ours, theirs
        self.arrived: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.taken = asyncio.Event()
        self.rest = b""
        self.closed = False

    async def write(self, data: bytes) -> None:
        for start in range(0, len(data), LARGEST):
            self.taken.clear()
            await self.connection.send(WRTE, self.ours, self.theirs, data[start : start + LARGEST])
            await self.taken.wait()

    async def read(self, count: int) -> bytes:
        while len(self.rest) < count:
            more = await self.arrived.get()
            if more is None:
                raise EOFError
            self.rest += more
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken


class Connection:
    """One adb server that has connected."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, root: Path) -> None:
        self.reader, self.writer, self.root = reader, writer, root
        self.streams: dict[int, Stream] = {}
        self.count = 0
        self.sending = asyncio.Lock()
        self.tasks: set[asyncio.Task[None]] = set()

    async def send(self, command: int, first: int, second: int, data: bytes = b"") -> None:
        async with self.sending:
            head = struct.pack("<6I", command, first, second, len(data), sum(data) & 0xFFFFFFFF, command ^ 0xFFFFFFFF)
            self.writer.write(head + data)
            await self.writer.drain()

    async def serve(self) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                command, theirs, ours, size, _, _ = struct.unpack("<6I", await self.reader.readexactly(24))
                data = await self.reader.readexactly(size) if size else b""
                stream = self.streams.get(ours)
                if command == CNXN:
                    await self.send(CNXN, VERSION, LARGEST, BANNER)
                elif command == OPEN:
                    self.count += 1
                    opened = self.streams[self.count] = Stream(self, self.count, theirs)
                    await self.send(OKAY, opened.ours, theirs)
                    task = asyncio.create_task(self.answer(opened, data.rstrip(b"\0").decode()))
                    self.tasks.add(task)
                    task.add_done_callback(self.tasks.discard)
                elif stream is None:
                    continue
                elif command == OKAY:
                    stream.taken.set()
                elif command == WRTE:
                    await stream.arrived.put(data)
                    await self.send(OKAY, stream.ours, theirs)
                elif command == CLSE:
                    stream.closed = True
                    stream.taken.set()
                    await stream.arrived.put(None)
        self.writer.close()

    async def answer(self, stream: Stream, service: str) -> None:
        with contextlib.suppress(EOFError, OSError):
            if service.startswith("sync:"):
                await self.sync(stream)
            elif service.startswith("shell"):
                await self.shell(stream, service)
        if not stream.closed:
            await self.send(CLSE, stream.ours, stream.theirs)
        self.streams.pop(stream.ours, None)

    async def shell(self, stream: Stream, service: str) -> None:
        head, _, command = service.partition(":")
        second = "v2" in head.split(",")
        environ = {
            "PATH": f"{self.root}/.bin:/usr/bin:/bin", "HOME": str(self.root), "ANDROID_DATA": f"{self.root}/data",
        }  # fmt: skip
        process = await asyncio.create_subprocess_shell(
            command or "true",
            cwd=self.root,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if second else subprocess.STDOUT,
        )

        async def pump(pipe: asyncio.StreamReader | None, kind: int) -> None:
            while pipe and (part := await pipe.read(32768)):
                await stream.write(struct.pack("<BI", kind, len(part)) + part if second else part)

        await asyncio.gather(pump(process.stdout, STDOUT), pump(process.stderr, STDERR))
        status = await process.wait()
        if second:
            await stream.write(struct.pack("<BIB", EXIT, 1, status & 255))

    async def sync(self, stream: Stream) -> None:
        while True:
            kind, size = struct.unpack("<4sI", await stream.read(8))
            if kind == b"QUIT":
                return
            said = (await stream.read(size)).decode()
            if kind in (b"STAT", b"LSTA"):
                try:
                    found = os.lstat(self.path(said))
                    facts = (found.st_mode, found.st_size, int(found.st_mtime))
                except OSError:
                    facts = (0, 0, 0)
                await stream.write(struct.pack("<4s3I", b"STAT", *facts))
            elif kind == b"SEND":
                await self.receive(stream, said)
            elif kind == b"RECV":
                await self.give(stream, said)

    async def receive(self, stream: Stream, said: str) -> None:
        name, _, mode = said.rpartition(",")
        failed = ""
        try:
            file = open(self.path(name), "wb")  # noqa: SIM115 - closed below, also where the disk is full
        except OSError as error:
            file, failed = None, str(error)
        while True:
            kind, size = struct.unpack("<4sI", await stream.read(8))
            if kind == b"DONE":
                break
            part = await stream.read(size)
            if file is not None and not failed:
                try:
                    file.write(part)
                    file.flush()
                except OSError as error:
                    failed = os.strerror(error.errno or 0)
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()
        if failed:
            words = failed.encode()
            await stream.write(struct.pack("<4sI", b"FAIL", len(words)) + words)
            return
        os.chmod(self.path(name), int(mode) & 0o777)
        await stream.write(struct.pack("<4sI", b"OKAY", 0))

    async def give(self, stream: Stream, name: str) -> None:
        try:
            data = self.path(name).read_bytes()
        except OSError as error:
            words = str(error).encode()
            await stream.write(struct.pack("<4sI", b"FAIL", len(words)) + words)
            return
        for start in range(0, len(data), 65536):
            part = data[start : start + 65536]
            await stream.write(struct.pack("<4sI", b"DATA", len(part)) + part)
        await stream.write(struct.pack("<4sI", b"DONE", 0))

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")


async def main(root: Path, port: int) -> None:
    server = await asyncio.start_server(
        lambda reader, writer: Connection(reader, writer, root).serve(), "127.0.0.1", port
    )
    print("ready", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]).absolute(), int(sys.argv[2])))
