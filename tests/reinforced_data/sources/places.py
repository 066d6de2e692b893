"""Places of every kind whose listings are kept where they are large, with names and keys as odd as people have them."""

import csv
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reinforced_data.pixels.decode import BadImageError

ODD = (
    "ünïcode/日本 語",
    "new\nline",
    "x" * 200,
    "os\udcff\udc80",
    "tab\there",
    "quote'\"",
    "dots.in.it",
    "sub/" * 20 + "deep",
)


def write(root: Path, files: Mapping[str, bytes | str]) -> Path:
    """Files of these contents below `root`."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def sidecars(root: Path) -> Path:
    """Images with captions beside them and in a folder of their own, in any case, some of them odd, some missing."""
    files: dict[str, bytes | str] = {}
    for number in range(40):
        files[f"a/{number:03d}.jpg"] = f"image {number}"
        if number % 3:
            files[f"a/{number:03d}.{'TXT' if number % 2 else 'txt'}"] = f"caption {number}\nanother {number}"
        if number % 5 == 0:
            files[f"a/{number:03d}.jpg.json"] = json.dumps({"caption": f"told {number}", "llm": f"written {number}"})
    for number, name in enumerate(ODD):
        files[f"{name}.png"] = f"odd image {number}"
        files[f"{name}.txt"] = f"odd caption {number}".encode() + b"\xe9" * (number % 2)
    files |= {
        "images/b/1.webp": "1",
        "captions/b/1.txt": "apart",
        "b/X.JPG": "one",
        "b/x.txt": "any case",
        "b/X.txt": "other case",
    }
    files |= {"LICENSE": "CC-BY-4.0\nmore", "notes.md": "", "a/masks/001.png": "m", ".hidden.jpg": "h", ".d/1.jpg": "h"}
    write(root, files)
    (root / "b" / "link.jpg").symlink_to(root / "a" / "001.jpg")
    (root / "b" / "broken.jpg").symlink_to(root / "nowhere.jpg")
    (root / "linked").symlink_to(root / "a")
    return root


def classes(root: Path) -> Path:
    """Class folders below parts, a name that is no UTF-8 among them."""
    names = ("red_fox", "grey wolf", "n01440764", "12-roses", "möwe\udcff")
    return write(
        root,
        {
            f"images/{part}/{name}/{number}.jpg": f"{part} {name!r} {number}"
            for part in ("train", "val")
            for name in names
            for number in range(9 if part == "train" else 3)
        },
    )


def plain(root: Path) -> Path:
    """Images alone, boxes in the texts beside them, in folders of dates."""
    return write(
        root,
        {f"2024-0{n % 7 + 1}/{n}.jpg": f"image {n}" for n in range(60)}
        | {f"2024-0{n % 7 + 1}/{n}.txt": "0 0.5 0.5 0.25 0.25" for n in range(0, 60, 2)},
    )


def parted(root: Path) -> Path:
    """Sub-folders named like splits, of images with captions."""
    return write(
        root,
        {f"{part}/{n}.jpg": f"{part} {n}" for part in ("train", "val") for n in range(12)}
        | {f"{part}/{n}.txt": f"{part} caption {n}" for part in ("train", "val") for n in range(12)},
    )


def table_rows(count: int = 50) -> list[dict[str, Any]]:
    """Rows of captions: several of one image, cells that are empty, nested or odd, and labels."""
    rows = []
    for number in range(count):
        image = (
            f"{number // 3}.jpg"
            if number < 30
            else f"{ODD[number % 4]}-{number}.jpg".encode("utf-8", "ignore").decode()
        )
        rows.append(
            {
                "file_name": image,
                "caption": "" if number % 11 == 0 else f"caption {number}, ünd\nline",
                "llm": f'["one of {number}", "two"]' if number % 4 else "",
                "label": ["fox", "wolf", ""][number // 3 % 3],
                "split": ["train", "val", "train", "restval"][number // 3 % 4],
                "id": str(number),
            }
        )
    return rows


def write_csv(file: Path, rows: list[dict[str, Any]]) -> Path:
    """A .csv or .tsv of these rows."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [*rows[0]], delimiter="\t" if file.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    return file


def images_of(root: Path, rows: list[dict[str, Any]], but: int = 4) -> Path:
    """The images that rows name, without every `but`-th."""
    names = dict.fromkeys(row["file_name"] for row in rows)
    return write(root, {name: f"image {name}" for place, name in enumerate(names) if place % but != but - 1})


def a_csv(root: Path) -> Path:
    """A table beside its images."""
    images_of(root / "t", table_rows())
    return write_csv(root / "t" / "all.csv", table_rows())


def a_tsv(root: Path) -> Path:
    """A table without splits or labels, its images in a folder beside it."""
    rows = [{name: row[name] for name in ("file_name", "caption", "llm")} for row in table_rows()]
    images_of(root / "t" / "photos", rows)
    return write_csv(root / "t" / "all.tsv", rows)


def a_jsonl(root: Path) -> Path:
    """Objects that are not alike: nested captions, numbers, keys of their own, a path that is none."""
    rows = [
        {**row, "caption": [row["caption"], {"raw": "nested"}], "label": n % 4} for n, row in enumerate(table_rows())
    ]
    rows[7] = {"file_name": None, "caption": 3.5, "more": {"a": float("inf")}}
    rows[8] = {"caption": "without an image \ud800"}
    images_of(root / "t", table_rows())
    return write(root, {"t/all.jsonl": "\n".join(map(json.dumps, rows))}) / "t" / "all.jsonl"


def a_coco(root: Path) -> Path:
    """COCO's captions of a folder of images."""
    images = [{"id": n, "file_name": f"{n:012d}.jpg"} for n in range(20)]
    notes = [{"image_id": n % 20, "caption": f"caption {n}"} for n in range(55)]
    write(root, {f"val2017/{image['file_name']}": f"image {image['id']}" for image in images})
    write(root, {"annotations/captions_val2017.json": json.dumps({"images": images, "annotations": notes})})
    return root


def tables(root: Path) -> Path:
    """A folder with a table for each part, of images in any folder of it."""
    for part in ("train", "test"):
        rows = [{"image": f"{part}-{n // 2}.jpg", "caption": f"{part} caption {n}"} for n in range(24)]
        write(root, {f"images/{row['image']}": row["image"] for row in rows})
        write_csv(root / f"captions_{part}.csv", rows)
    write(root, {"images/unnamed.jpg": "u", "readme.txt": "x", "more/one.txt": "y"})
    return root


def parquet(root: Path, *, images: bool = True, files: int = 3) -> Path:
    """Parquet files of several row groups: images that come again under other captions, or paths of them; nested captions."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (root / "q").mkdir(parents=True)
    for file in range(files):
        rows = range(20 * file, 20 * file + 20)
        image = [{"bytes": b"\xff\xd8\xff image %d" % (n % 33), "path": f"{n}.jpg"} for n in rows]
        columns = {
            "image": image if images else [f"{n % 33}.jpg" for n in rows],
            "captions": [[f"caption {n}", "ß" * (n % 3)] if n % 7 else None for n in rows],
            "llm": pa.array([f"written {n}" for n in rows], pa.string() if file else pa.large_string()),
            "label": pa.array([n % 5 if n % 6 else None for n in rows], pa.int64() if file else pa.int32()),
            "split": ["train" if n % 3 else "test" for n in rows],
        }
        pq.write_table(pa.table(columns), root / "q" / f"{file:05d}.parquet", row_group_size=7)
        os.utime(root / "q" / f"{file:05d}.parquet", ns=(10**18, 10**18))
    if not images:
        write(root / "q", {f"{n}.jpg": f"image {n}" for n in range(33)})
    return root / "q"


def parquet_of_paths(root: Path) -> Path:
    """See `parquet`."""
    return parquet(root, images=False)


def saved_set(root: Path) -> Path:
    """A set that `datasets` saved: images that come again, ids of their own, parts in a column, named labels."""
    import datasets

    count = 40
    data = datasets.Dataset.from_dict(
        {
            "image": [{"bytes": b"\xff\xd8\xff image %d" % (n % 25), "path": None} for n in range(count)],
            "caption": [f"caption {n}" for n in range(count)],
            "label": [n % 3 for n in range(count)],
            "split": [("train", "test", "train")[n % 3] for n in range(count)],
        },
        features=datasets.Features(
            {
                "image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
                "caption": datasets.Value("string"),
                "label": datasets.ClassLabel(names=["fox", "wolf", "grey owl"]),
                "split": datasets.Value("string"),
            }
        ),
    )
    data._fingerprint = "f" * 16
    data.save_to_disk(str(root / "saved"))
    return root / "saved"


# Name -> (how it is made, its columns of captions of a language model, the parts that are opened)
SPLITS = ("train", "eval", "given")
PLACES: dict[str, tuple[Callable[[Path], Path], Mapping[str, str], tuple[str, ...]]] = {
    "sidecars": (sidecars, {}, SPLITS),
    "sidecars with a key": (sidecars, {"llm": "x"}, SPLITS),
    "classes": (classes, {}, (*SPLITS, "named:val")),
    "plain": (plain, {}, SPLITS),
    "parted": (parted, {}, SPLITS),
    "csv": (a_csv, {"llm": "x"}, SPLITS),
    "tsv": (a_tsv, {"llm": "real"}, SPLITS),
    "jsonl": (a_jsonl, {}, SPLITS),
    "coco": (a_coco, {}, ("eval",)),
    "tables": (tables, {}, (*SPLITS, "named:test")),
    "parquet": (parquet, {"llm": "x"}, SPLITS),
    "parquet of paths": (parquet_of_paths, {"llm": "x"}, SPLITS),
    "saved set": (saved_set, {}, SPLITS),
}  # fmt: skip


def all_of(source: Any) -> dict[str, Any]:
    """Everything that a source says: how it was read, its fingerprint, and each sample or why it has none."""
    samples: list[Any] = []
    for index in range(len(source)):
        try:
            sample = source[index]
            samples.append((sample.key, sample.image, sample.captions, sample.label))
        except BadImageError as error:
            samples.append((error.key, error.reason))
    task = source.zero_shot()
    return {
        "fingerprint": source.fingerprint,
        "read_as": source.read_as,
        "samples": samples,
        "task": task and (task.labels, task.class_names, len(task.images)),
    }


def digest_of(said: Mapping[str, Any], root: Path) -> str:
    """A short hash of what `all_of` gives, without where the place lies."""
    samples = repr([said["samples"], said["task"], said["read_as"].to_json()]).replace(str(root), "ROOT")
    return hashlib.sha256(repr([said["fingerprint"], samples]).encode("utf-8", "surrogatepass")).hexdigest()[:16]
