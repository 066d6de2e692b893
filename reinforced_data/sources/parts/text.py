"""Bytes of captions and tables as text: UTF-8, UTF-16 by its mark, else the way Windows wrote western text, which is counted."""

import codecs
import re
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


def table_encoding(file: Path) -> str:
    """How a table's text is written, for `open`: "utf-16" by its mark, "utf-8-sig", or "cp1252" as a western Excel writes it.

    The latter only where no letter in it is UTF-8 and most letters beyond ASCII stand between others, as in "Käse": other
    languages' old encodings have them in a row, and reading those so would make nonsense of them.
    """
    with open(file, "rb") as stream:
        data = stream.read(READ_AT_MOST)
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            return "utf-16"
        decoder, found = codecs.getincrementaldecoder("utf-8")(), list[bytes]()
        whole = True
        while data:
            try:
                if whole:
                    decoder.decode(data)
            except UnicodeDecodeError:
                whole = False
            found += re.findall(rb"[\x80-\xff]+", data) if len(found) < READ_AT_MOST else []
            data = stream.read(READ_AT_MOST)
        try:
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            whole = False
    if whole:
        return "utf-8-sig"
    in_rows = sum(len(run) for run in found if len(run) > 1)
    western = in_rows * 2 <= sum(map(len, found)) and not any(map(_is_no_western, found))
    return "cp1252" if western else "utf-8-sig"


def _is_no_western(run: bytes) -> bool:
    """Whether bytes beyond ASCII are letters in UTF-8, or none in cp1252."""
    for encoding in ("utf-8", "cp1252"):
        try:
            run.decode(encoding)
        except UnicodeDecodeError:
            continue
        return encoding == "utf-8"
    return True


def decoded_file(file: Path) -> tuple[str, str]:
    """The same of a file's first `READ_AT_MOST` bytes; ("", "utf-8") of one that cannot be read."""
    try:
        with open(file, "rb") as stream:
            return decoded(stream.read(READ_AT_MOST))
    except OSError:
        return "", "utf-8"
