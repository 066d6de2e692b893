"""Bytes of captions and tables as text: UTF-8, UTF-16 by its mark, else the way Windows wrote western text, which is counted."""

from pathlib import Path

READ_AT_MOST = 1 << 20  # bytes of a caption file


def decoded(data: bytes) -> tuple[str, str]:
    """(text, encoding): "utf-8", "utf-16" by its byte-order mark, else "cp1252" (single bytes it has not become U+FFFD)."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace"), "utf-16"
    try:
        return data.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError as error:
        if len(data) >= READ_AT_MOST and error.reason == "unexpected end of data":  # cut in the middle of a letter
            return data[: error.start].decode("utf-8-sig"), "utf-8"
        return data.decode("cp1252", "replace"), "cp1252"


def decoded_file(file: Path) -> tuple[str, str]:
    """The same of a file's first `READ_AT_MOST` bytes; ("", "utf-8") of one that cannot be read."""
    try:
        with open(file, "rb") as stream:
            return decoded(stream.read(READ_AT_MOST))
    except OSError:
        return "", "utf-8"
