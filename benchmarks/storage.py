"""Bytes per sample beside Apple's layout, on the same numbers: 30/6, 10/6, 5/6 and 2/6 views/texts, two teachers of 768.

    python benchmarks/storage.py [--samples 64]

Apple's layout (DataCompDR, published description): per sample a `.pth.gz` (gzip of a torch.save of bf16 embeddings) or `.npz` (fp32), `.paug.json`,
`.syn.json`, `.json`, `.url.txt`, as members of a tar. Ours: a shard file, its image bytes left out. The embeddings are unit vectors of independent normal
numbers (those of a real teacher compress no better), views are drawn with the preset "mobileclip", captions are 5 synthetic of 9 to 13 words and one real.
Compared are the embeddings alone (their columns against the `.pth.gz`) and everything that is stored of a sample.
"""

import argparse
import datetime
import gzip
import io
import json
import platform
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch

from reinforced_data.pixels.views import draw_view
from reinforced_data.sample import Caption
from reinforced_data.store.dtypes import EMBED_DTYPES
from reinforced_data.store.manifest import SCHEMA_VERSION, Plan, SourceFacts
from reinforced_data.store.row import Row
from reinforced_data.store.shard_file import write_shard

WIDTHS = {"dfn-vitl14": 768, "dfn-vitl14-39b": 768}
WORDS = (
    "a",
    "photo",
    "of",
    "the",
    "small",
    "brown",
    "dog",
    "running",
    "over",
    "grass",
    "with",
    "red",
    "ball",
    "near",
    "water",
    "people",
    "street",
    "two",
)
IMAGE = b"\xff\xd8\xff"  # stands for the image, whose bytes both layouts would hold alike


def unit(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
    values = rng.standard_normal((rows, width))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def make(count: int, views: int, texts: int) -> list[Row]:
    rows = []
    for number in range(count):
        rng = np.random.default_rng(number)
        sentence = lambda: " ".join(rng.choice(WORDS, int(rng.integers(9, 14)))).capitalize() + "."  # noqa: B023, E731
        rows.append(
            Row(
                key=f"{number:032x}",
                image=IMAGE,
                image_sha256=f"{number:064x}",
                width=500,
                height=375,
                captions=[
                    Caption(sentence(), "real" if place == 0 else "synthetic:coca-vitl14") for place in range(texts)
                ],
                views=[draw_view("mobileclip", 500, 375, rng) for _ in range(views)],
                image_embeds={name: unit(rng, views, width) for name, width in WIDTHS.items()},
                text_embeds={name: unit(rng, texts, width) for name, width in WIDTHS.items()},
            )
        )
    return rows


def ours(rows: list[Row], dtype: str) -> tuple[float, float]:
    """(embedding bytes, all bytes but the image's) per sample."""
    facts = [{"name": name, "width": width} for name, width in WIDTHS.items()]
    source = SourceFacts(name="s", location="s", licence="s", fingerprint="s", samples=len(rows))
    plan = Plan(
        schema_version=SCHEMA_VERSION, source=source, teachers=facts, captioners=[], sentences=False, view_preset="mobileclip", views_per_image=1, seed=0,
        embed_dtype=dtype, shard_size=len(rows), batch_size=1, versions={}, parents=[],
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard"
        write_shard(path, plan, "0" * 64, rows, [])
        whole = path.stat().st_size / len(rows) - len(IMAGE)
    per_number = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}[dtype]
    counted = len(rows[0].views) + len(rows[0].captions)
    embeds = sum(counted * (width * per_number + (4 if dtype == "int8" else 0)) for width in WIDTHS.values())
    return float(embeds), whole


def apples(rows: list[Row], kind: str) -> tuple[float, float]:
    """(bytes of the .npz or .pth.gz, all bytes of the tar) per sample."""
    embeds, tar_bytes = 0, io.BytesIO()
    with tarfile.open(fileobj=tar_bytes, mode="w") as tar:

        def add(name: str, data: bytes) -> int:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
            return len(data)

        for row in rows:
            image = np.concatenate([row.image_embeds[name] for name in WIDTHS], axis=1)
            text = np.concatenate([row.text_embeds[name] for name in WIDTHS], axis=1)
            packed = io.BytesIO()
            if kind == "npz":
                np.savez_compressed(packed, image_emb=image, text_emb=text)
                embeds += add(row.key + ".npz", packed.getvalue())
            else:
                torch.save(
                    {"image_emb": torch.from_numpy(image).bfloat16(), "text_emb": torch.from_numpy(text).bfloat16()},
                    packed,
                )
                embeds += add(row.key + ".pth.gz", gzip.compress(packed.getvalue()))
            boxes = [
                [round(v.box[1] * 375), round(v.box[0] * 500), round(v.box[3] * 375), round(v.box[2] * 500)]
                for v in row.views
            ]
            ops = [[[place, magnitude] for place, (_, magnitude) in enumerate(v.ops)] for v in row.views]
            add(
                row.key + ".paug.json",
                json.dumps({"param_aug": json.dumps([list(pair) for pair in zip(boxes, ops, strict=True)])}).encode(),
            )
            add(
                row.key + ".syn.json", json.dumps({"syn_text": [caption.text for caption in row.captions[1:]]}).encode()
            )
            add(row.key + ".txt", row.captions[0].text.encode())
            add(row.key + ".json", json.dumps({"uid": row.key, "sha256": row.image_sha256}).encode())
    return embeds / len(rows), len(tar_bytes.getvalue()) / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=64)
    given = parser.parse_args()
    print(
        f"{platform.machine()}, {datetime.date.today()}, {given.samples} samples; kB per sample: embeddings / everything but the image\n"
    )
    print(
        "| views/texts | npz fp32 | pth.gz bf16 | "
        + " | ".join(f"ours {dtype}" for dtype in EMBED_DTYPES)
        + " | int8 to pth.gz: embeddings, everything, ours whole to theirs .pth.gz alone |"
    )
    print("|---|" + "---:|" * (3 + len(EMBED_DTYPES)))
    for views in (30, 10, 5, 2):
        rows = make(given.samples, views, 6)
        npz, pth = apples(rows, "npz"), apples(rows, "pth")
        own = {dtype: ours(rows, dtype) for dtype in EMBED_DTYPES}
        cells = [npz, pth, *own.values()]
        int8 = own["int8"]
        ratios = f"{int8[0] / pth[0]:.3f}, {int8[1] / pth[1]:.3f}, {int8[1] / pth[0]:.3f}"
        print(f"| {views}/6 | " + " | ".join(f"{a / 1000:.1f} / {b / 1000:.1f}" for a, b in cells) + f" | {ratios} |")


if __name__ == "__main__":
    main()
