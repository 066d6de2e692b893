"""Malformed inputs, the same on every run: images, captions, tables, tars and published records, by what is wrong."""

import io
import json
import struct
import tarfile
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.reinforced_data.sources.tar_tools import add
from tests.reinforced_data.stubs import encoded, picture

FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "TIFF": "tif", "BMP": "bmp"}
MUST_SERVE = ("ok ", "odd ")  # what begins so is unusual, not broken
MUST_REJECT = ("bad ",)


def flipped(data, seed, count, first=0, last=None):
    rng = np.random.default_rng(seed)
    array = np.frombuffer(data, np.uint8).copy()
    places = rng.integers(first, last or len(data), count)
    array[places] = rng.integers(0, 256, count, dtype=np.uint8)
    return array.tobytes()


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of(width, height, *chunks, depth=8, colour=2):
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(bytes(64)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + body + png_chunk(b"IEND", b"")


def images():
    """Name (with an ending) -> bytes."""
    found = {}
    for format, ending in FORMATS.items():
        whole = encoded(picture(len(found), 40, 30), format)
        found[f"ok whole {format}.{ending}"] = whole
        other = "png" if ending != "png" else "jpg"
        found[f"odd wrong ending {format}.{other}"] = whole
        for length in (1, 4, 12, len(whole) // 4, len(whole) // 2):
            found[f"bad cut at {length} {format}.{ending}"] = whole[:length]
        found[f"last byte gone {format}.{ending}"] = whole[:-1]
        for seed in range(3):
            found[f"header flips {seed} {format}.{ending}"] = flipped(whole, seed, 4, 0, 40)
            found[f"body flips {seed} {format}.{ending}"] = flipped(whole, seed, 8, 20)
        middle = len(whole) // 3
        found[f"zero middle {format}.{ending}"] = whole[:middle] + bytes(middle) + whole[2 * middle :]
        found[f"twice {format}.{ending}"] = whole + whole
    return {**found, **special_images()}


def special_images():
    rgb = picture(99, 32, 24)
    turned = Image.Exif()
    turned[0x0112] = 6
    wrong_turn = Image.Exif()
    wrong_turn[0x0112] = 77
    frames = [picture(n, 16, 16) for n in range(3)]
    grey16 = Image.fromarray(np.arange(768, dtype=np.uint16).reshape(24, 32) * 80)
    bomb = png_chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(80 << 20), 9))
    return {
        "odd cmyk.jpg": encoded(rgb.convert("CMYK"), "JPEG"),
        "odd 16 bit.png": encoded(grey16),
        "odd palette.png": encoded(rgb.quantize(8)),
        "odd palette see-through.gif": encoded(rgb.quantize(8), "GIF", transparency=3),
        "odd animated.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "odd animated.webp": encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "odd animated.png": encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "odd turned.jpg": encoded(rgb, "JPEG", exif=turned),
        "odd turned wrongly.jpg": encoded(rgb, "JPEG", exif=wrong_turn),
        "odd one bit.png": encoded(rgb.convert("1")),
        "odd one pixel.png": encoded(rgb.resize((1, 1))),
        "odd ribbon.png": encoded(rgb.resize((3000, 1))),
        "odd see-through.png": encoded(picture(5, 9, 9, "RGBA")),
        "odd progressive.jpg": encoded(rgb, "JPEG", progressive=True),
        "odd garbage profile.jpg": encoded(rgb, "JPEG", icc_profile=b"\xff" * 300),
        "odd comment.jpg": encoded(rgb, "JPEG", comment=b"\xff\x00" * 400),
        "bad empty.jpg": b"",
        "bad zeros.jpg": bytes(5000),
        "bad text.jpg": b"not an image",
        "bad page.png": b"<html><body>404 Not Found</body></html>",
        "bad vector.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "bad postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "bad pdf.jpg": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
        "bad zip.png": b"PK\x03\x04" + bytes(60),
        "bad float.tif": encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"),
        "bad bomb of 10^10.png": png_of(100_000, 100_000),
        "bad bomb of 1.2 * 10^8.png": png_of(12_000, 10_000),
        "bad bomb of 4 * 10^9.gif": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(40),
        "bad bomb.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
        "bad no width.png": png_of(0, 10),
        "bad unknown depth.png": png_of(8, 8, depth=7),
        "text bomb.png": png_of(8, 8, bomb),
    }  # fmt: skip


def captions():
    """What a caption file may hold: name -> bytes."""
    return {
        "broken": b'{"caption": ', "empty": b"", "blank": b" \n\t\n", "nul": b"a\0b", "megabyte": b"word " * 210_000,
        "one word of a megabyte": b"w" * (1 << 20), "control": bytes(range(32)) + b"x", "bom": b"\xef\xbb\xbfhello",
        "utf-16": "hello".encode("utf-16"), "latin": "caf\xe9".encode("latin-1"), "binary": flipped(bytes(3000), 1, 3000),
        "surrogate": b'{"caption": "a \\ud800 b"}', "surrogate key": b'{"\\ud800": 1, "caption": "x"}',
        "nested": b"[" * 100_000, "nested deep": b"[" * 400 + b"]" * 400, "nested objects": b'{"caption":' * 300 + b"1" + b"}" * 300,
        "huge number": b"9" * 6000, "infinite": b'{"caption": 1e999}', "nan": b'{"caption": NaN}', "true": b"true",
        "null": b"null", "number": b"3", "list of all": b'[1, null, true, {"text": "t"}, ["u"], 2.5, "v"]',
        "many": json.dumps([f"c {n}" for n in range(20_000)]).encode(), "empty key": b'{"": "", "caption": ""}',
        "twice": b'{"caption": "a", "caption": "b"}', "object": b'{"caption": {"text": {"caption": "deep"}}}',
        "right to left": "\u202eabc \u200b\ufeff".encode(), "emoji": ("\U0001f468\u200d\U0001f469" * 500).encode(),
        "line ends": b"a\rb\r\nc\x85d\x0be", "html": b"<script>alert(1)</script>", "quote": b'"',
    }  # fmt: skip


def tables():
    """Table files beside a whole image "a.png": name -> bytes."""
    head = b"path,caption\n"
    line = '{"path": "a.png", "caption": "x"}\n'
    paths = {
        "folder": ".", "nothing": "", "nul": "a\0.png", "long": "x" * 5000, "address": "https://x.org/a.png", "gone": "b.png",
        "endless": "/dev/zero", "pipe": "pipe", "up": "../../../../etc/passwd", "itself": "t.jsonl", "user": "~nobody/x",
    }  # fmt: skip
    cells = {"number": 3, "list": ["a.png"], "object": {"bytes": 3}, "null": None, "true": True, "empty object": {}}
    found = {
        "latin.csv": head + "a.png,caf\xe9".encode("latin-1"), "utf16.csv": (head.decode() + "a.png,x").encode("utf-16"),
        "nul.csv": head + b"a.png,a\0b\n", "short rows.csv": b"path,caption,label\na.png\na.png,x\n", "long rows.csv": head + b"a.png,x,y,z\n",
        "empty.csv": b"", "only head.csv": head, "no head.csv": b"a.png,x\n", "blank lines.csv": b"\n\n" + head + b"\n\na.png,x\n\n",
        "same names.csv": b"path,path,caption\na.png,b,c\n", "open quote.csv": head + b'a.png,"x\n', "quotes.csv": head + b'a.png,"x"y"z"\n',
        "big cell.csv": head + b"a.png," + b"x" * 300_000, "carriage.csv": b"path,caption\ra.png,x\r", "bom.csv": b"\xef\xbb\xbf" + head + b"a.png,x\n",
        "binary.csv": flipped(bytes(2000), 2, 2000), "wrong split.tsv": head + b"a.png,x\n", "no names.csv": b",,\n1,2,3\n",
        "labels.csv": b"path,label\na.png,\na.png,nan\na.png,-1\n", "array.jsonl": b"[1]\n", "word.jsonl": b'"a.png"\n',
        "cut.jsonl": line.encode() + b'{"path": ', "deep.jsonl": b'{"path":' * 5000, "blank.jsonl": b"\n\n", "empty.jsonl": b"",
        "surrogate.jsonl": b'{"path": "\\ud800.png", "caption": "\\udfff"}\n', "nan.jsonl": b'{"path": NaN, "caption": Infinity}\n',
        "deep caption.jsonl": b'{"path": "a.png", "caption": ' + b"[" * 300 + b"]" * 300 + b"}\n",
        "odd labels.jsonl": b'{"path": "a.png", "label": [1]}\n{"path": "c.png", "label": {"a": 1}}\n{"path": "d", "label": 1.5}\n',
        "keys.jsonl": b'{"path": "a.png", "key": null}\n{"path": "c.png", "key": [1]}\n',
        **{f"path {name}.jsonl": json.dumps({"path": path, "caption": "x"}).encode() for name, path in paths.items()},
        **{f"cell {name}.jsonl": json.dumps({"path": cell, "caption": cell}).encode() for name, cell in cells.items()},
    }  # fmt: skip
    return {**found, **parquets()}


def parquet(columns, **options):
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream, **options)
    return stream.getvalue()


def parquets():
    png = encoded(picture(3, 9, 9))
    whole = parquet({"key": ["a", "b", "c"], "image": [png] * 3, "caption": ["x", "y", "z"]}, row_group_size=1)
    wrong_text = pa.StringArray.from_buffers(2, pa.py_buffer(struct.pack("<iii", 0, 2, 4)), pa.py_buffer(b"\xff\xfeok"))
    found = {
        "cut": whole[:-9], "no end": whole[:-1], "half": whole[: len(whole) // 2], "magic alone": b"PAR1" * 2, "empty": b"",
        "footer length": whole[:-8] + b"\xff\xff\xff\x7f" + whole[-4:], "no rows": parquet({"image": pa.array([], pa.binary())}),
        "no image column": parquet({"colour": ["red"]}), "images null": parquet({"image": pa.array([None, png], pa.binary())}),
        "images of numbers": parquet({"image": [1, 2]}), "images in lists": parquet({"image": [[png]]}),
        "images in objects": parquet({"image": [{"bytes": None, "path": None}, {"bytes": png, "path": "x"}]}),
        "odd objects": parquet({"image": [{"a": 1}]}), "text that is none": parquet({"image": [png] * 2, "caption": wrong_text}),
        "keys that are none": parquet({"image": [png] * 2, "key": wrong_text}), "labels in lists": parquet({"image": [png], "label": [[1]]}),
        "labels nan": parquet({"image": [png] * 2, "label": [1.5, float("nan")]}), "labels null": parquet({"image": [png], "label": pa.nulls(1)}),
        "captions null": parquet({"image": [png], "caption": pa.nulls(1)}), "captions as bytes": parquet({"image": [png], "caption": [b"\xff"]}),
    }  # fmt: skip
    for seed in range(6):
        found[f"footer flips {seed}"] = flipped(whole, seed, 3, len(whole) - 200, len(whole) - 8)
        found[f"page flips {seed}"] = flipped(whole, seed, 6, 4, len(whole) - 400)
    return {f"{name}.parquet": data for name, data in found.items()}


def tars():
    """Name -> bytes. All but those that begin "open " hold a whole image "zz" or break before it."""
    png = encoded(picture(4, 9, 9))

    def tar(*members, format=tarfile.GNU_FORMAT, **facts):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=format) as out:
            for name, data in members:
                add(out, name, data, **(facts if name != "zz.png" else {}))
            if members[-1][0] == "zz.png":
                add(out, "zy.png", png)  # two, so that one can be held out
        return stream.getvalue()

    whole = tar(("a.png", png), ("a.txt", b"x"), ("b.png", png), ("zz.png", png))
    names = {
        "up": "../a.png", "absolute": "/a.png", "inside up": "x/../../a.png", "windows": "..\\a.png", "drive": "C:\\a.png",
        "long": "x" * 5000 + ".png", "dots": "....png", "no ending": "a", "no stem": ".png", "slash": "a/", "surrogate": "\udcff.png",
        "control": "a\n\x1b[31m.png", "deep": "d/" * 600 + "a.png", "empty part": "a//b.png", "this": "./a.png",
    }  # fmt: skip
    kinds = {"link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "char": tarfile.CHRTYPE, "block": tarfile.BLKTYPE, "fifo": tarfile.FIFOTYPE, "unknown": b"Z", "contiguous": tarfile.CONTTYPE}  # fmt: skip
    found = {f"name {word}": tar((name, png), ("zz.png", png)) for word, name in names.items()}
    found |= {f"type {word}": tar(("a.png", b""), ("zz.png", png), type=kind, linkname="/etc/passwd") for word, kind in kinds.items()}  # fmt: skip
    found |= {
        "twice": tar(("a.png", png), ("a.png", png), ("zz.png", png)), "empty image": tar(("a.png", b""), ("zz.png", png)),
        "open empty": b"", "open zeros": bytes(10240), "open text": b"hello" * 400, "open no images": tar(("a.txt", b"x")),
        "open gzip": zlib.compress(whole), "pax": tar(("é" * 90 + ".png", png), ("zz.png", png), format=tarfile.PAX_FORMAT),
        "chain": tarfile.TarInfo.create_pax_global_header({"a": "b"}) * 3000 + whole, "rest": whole + b"more" * 1000,
    }  # fmt: skip
    for seed in range(12):
        found[f"flips {seed}"] = flipped(whole, seed, 3, 0, 1536)
        found[f"cut {seed}"] = whole[: 100 + 371 * seed]
    return found
