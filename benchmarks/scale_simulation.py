"""One billion images on paper: python benchmarks/scale_simulation.py [--out FILE]

Three kinds of figures, never mixed: published ones (`scale_model`), simulated ones (seeds 0, 1, 2), and what this script
measures here by doing it: bytes per stored sample with our own writer, manifests of up to a million shards written and
read by our own code, what opening places of every kind takes of a process, seconds per shard to write, open and hash. What is scaled up from a
smaller measurement is marked "linear". The page made from it: docs/scale.md.
"""

import argparse
import datetime
import hashlib
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.scale_listings import KINDS, listing_cost
from benchmarks.scale_model import Fleet, Job, int8_bytes, simulate
from reinforced_data.labelling.reinforce import reinforce
from reinforced_data.labelling.settings import ReinforceSettings
from reinforced_data.sample import Caption, RawSample
from reinforced_data.store.manifest import Manifest, Rejected, write_record
from reinforced_data.store.names import MANIFEST_FILE, SHARD_TABLE
from reinforced_data.store.shard_file import read_notes
from reinforced_data.store.shards import LISTED_SHARDS, ShardFacts, ShardTable
from teachers.spec import TeacherSpec

IMAGES = 1e9
JOBS = {"2 views, 1 + 2 captions": Job(2, 1, 2), "2 views, 1 + 5 captions": Job(2, 1, 5),
        "5 views, 1 + 2 captions": Job(5, 1, 2), "10 views, 1 + 5 captions": Job(10, 1, 5),
        "30 views, 1 + 5 captions": Job(30, 1, 5)}  # fmt: skip
PLANNED = "5 views, 1 + 2 captions"  # where MobileCLIP's own ablation saturates: 5 views, 2 captions
IMAGE_BYTES = 70_000  # DataComp-1B: 90 TB of 1.28 billion images (reference/mobileclip.md section 3.2)


class Random:
    """A teacher of width 768 that costs nothing: embeddings are unit rows of a seed."""

    device = "cpu"

    def __init__(self, name: str) -> None:
        self.spec = TeacherSpec(name, "stub", "stub", 768, 32, None, "softmax", "MIT", True)
        self.logit_scale, self.logit_bias, self.weights_sha256 = 100.0, 0.0, "0" * 64

    def _rows(self, count: int) -> Any:
        import torch

        return torch.nn.functional.normalize(torch.randn(count, 768, generator=torch.Generator().manual_seed(1)), dim=1)

    def encode_image(self, pixels: Any) -> Any:
        """[b, 768]."""
        return self._rows(len(pixels))

    def encode_text(self, captions: list[str]) -> Any:
        """[b, 768]."""
        return self._rows(len(captions))

    def describe(self) -> dict[str, object]:
        """Its name."""
        return {"name": self.spec.name}


class Tiny:
    """`count` samples of one small image each, with `captions` captions of 60 characters."""

    name, licence, fingerprint = "tiny", "CC0-1.0", "0" * 64

    def __init__(self, count: int, captions: int) -> None:
        stream = io.BytesIO()
        Image.new("RGB", (40, 40), (90, 120, 40)).save(stream, "JPEG")
        self.count, self.captions, self.image = count, captions, stream.getvalue()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> RawSample:
        texts = tuple(Caption(f"caption {c} of sample {index:09d}".ljust(60, "x")) for c in range(self.captions))
        return RawSample(f"{index:032x}", self.image, texts)

    def zero_shot(self) -> None:
        """None."""


def one_view(samples: int) -> ReinforceSettings:
    """One plain view an image, all samples in one shard."""
    return ReinforceSettings(views_per_image=1, view_preset="none", shard_size=samples)


def stored_bytes(job: Job, folder: Path) -> dict[str, float]:
    """Bytes per sample of a set made by our own writer, without the image, beside the embeddings alone."""
    source = Tiny(512, job.real + job.synthetic)
    settings = ReinforceSettings(views_per_image=job.views, view_preset="mobileclip", shard_size=512)
    manifest = reinforce(source, [Random("a"), Random("b")], folder, settings)  # type: ignore[arg-type,list-item]
    whole = sum(shard.size_bytes for shard in manifest.shards) / 512 - len(source.image)
    return {"reinforcement_bytes": whole, "int8_embedding_bytes": int8_bytes(job)}


def shard_seconds(folder: Path, samples: int) -> dict[str, float]:
    """What a shard costs besides labelling: opening its notes, hashing its bytes."""
    manifest = reinforce(Tiny(samples, 3), [Random("a"), Random("b")], folder, one_view(samples))  # type: ignore[arg-type,list-item]
    file = folder / manifest.shards[0].file
    started = time.perf_counter()
    for _ in range(20):
        read_notes(file)
    notes = (time.perf_counter() - started) / 20
    block = os.urandom(1 << 26)
    started = time.perf_counter()
    hashlib.sha256(block).hexdigest()
    return {"read_notes_seconds": notes, "sha256_bytes_per_second": len(block) / (time.perf_counter() - started)}


def manifest_cost(shards: int, rejected: int, folder: Path) -> dict[str, float]:
    """A made-up manifest of so many shards and listed rejections, written and read by our own code."""
    folder.mkdir()
    facts = [
        ShardFacts(file=f"shard-{n:05d}.arrow", sha256=hashlib.sha256(str(n).encode()).hexdigest(),
                   size_bytes=80_000_000 + n, samples=990, captions=2970, rejected=10)
        for n in range(shards)
    ]  # fmt: skip
    bad = [
        Rejected(key=f"{n:032x}", reason="it does not decode (OSError: image file is truncated)")
        for n in range(rejected)
    ]
    small = reinforce(Tiny(8, 1), [Random("a"), Random("b")], folder / "seed", one_view(8))  # type: ignore[arg-type,list-item]
    started = time.perf_counter()
    listed = ShardTable.written(folder, facts) if shards > LISTED_SHARDS else facts
    write_record(folder, Manifest(**{**dict(small), "shards": listed, "rejected": bad, "samples": shards * 990}))
    written = time.perf_counter() - started
    table = folder / SHARD_TABLE
    size = (folder / MANIFEST_FILE).stat().st_size + (table.stat().st_size if table.is_file() else 0)
    del listed, facts, bad
    code = (
        "import sys, time, psutil; from pathlib import Path; from reinforced_data.store.manifest import read_manifest; "
        "import pyarrow, pydantic; me = psutil.Process(); before, started = me.memory_full_info().uss, time.perf_counter(); "
        "kept = read_manifest(Path(sys.argv[1])); "
        "print(len(kept.shards), time.perf_counter() - started, (me.memory_full_info().uss - before) / 1e6)"
    )
    printed = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    kept, read, resident = map(float, printed.stdout.split())
    return {
        "shards": shards, "rejected_listed": rejected, "megabytes": size / 1e6, "write_seconds": written,
        "read_seconds": read, "own_megabytes": resident, "kept": kept,
    }  # fmt: skip


def simulated(job: Job) -> dict[str, list[dict[str, float]]]:
    """Makespans by number of tasks, and by shard size."""
    fleet = Fleet()

    def mean(shard: int, tasks: int) -> dict[str, float]:
        runs = [simulate(IMAGES, shard, tasks, job, fleet, seed) for seed in (0, 1, 2)]
        return {
            "shard": shard, "tasks": tasks, "tasks_per_worker": tasks / fleet.workers,
            "days": float(np.mean([run.hours for run in runs])) / 24, "ideal_days": runs[0].ideal_hours / 24,
            "lost_gpu_hours": float(np.mean([run.lost_gpu_hours for run in runs])),
            "idle_share": float(np.mean([run.idle_share for run in runs])),
        }  # fmt: skip

    sizes = (100, 1_000, 4_000, 10_000, 40_000, 100_000)
    return {
        "by_tasks": [mean(10_000, fleet.workers * many) for many in (1, 2, 4, 16, 64)],
        "by_shard_size": [mean(size, fleet.workers * 16) for size in sizes],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--most-shards", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=200_000, help="of the listing")
    parser.add_argument("--only", nargs="*", default=[], help="keys of what is measured, such as listing")
    parser.add_argument("--kinds", nargs="*", default=[], choices=[*KINDS], help="of places that are listed")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        parts: dict[str, Callable[[], Any]] = {
            "cost_per_million": lambda: {
                name: {
                    "label_gpu_hours": job.label_seconds * 1e6 / 3600,
                    "caption_gpu_hours": job.caption_seconds * 1e6 / 3600,
                    **stored_bytes(job, folder / f"stored-{place}"),
                }
                for place, (name, job) in enumerate(JOBS.items())
            },
            "shard": lambda: shard_seconds(folder / "shard", 1000),
            "manifests": lambda: [
                *(manifest_cost(n, 10_000, folder / f"m{n}") for n in (1_000, 10_000, 100_000, given.most_shards)),
                manifest_cost(1_000, 1_000_000, folder / "uncapped"),
            ],
            "listing": lambda: {
                kind: listing_cost(kind, given.rows, folder / f"listing-{kind}") for kind in given.kinds or KINDS
            },
            "simulated": lambda: simulated(JOBS[PLANNED]),
        }
        figures: dict[str, Any] = {
            "date": str(datetime.date.today()),
            "machine": f"{platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
            "image_bytes": IMAGE_BYTES,
            **{name: part() for name, part in parts.items() if name in (given.only or parts)},
        }
    text = json.dumps(figures, indent=2)
    print(text)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
