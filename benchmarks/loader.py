"""What the loader costs beyond decoding: python benchmarks/loader.py --photos ../shared/data/flickr8k

Per case (size of the JPEGs, view preset, student size, workers) three arms take turns in one run, for several rounds:
"decode" has the same number of workers decode the same stored JPEGs whole, in the same order, and do nothing else;
"exact" and "fast" are the loader with either replay. Printed: samples/s of decode, the ratio of either arm to it as
the median of the rounds (least to greatest), and the mean difference of fast from exact pixels in levels of 255 (worst
image), operations included. Larger JPEGs are the photos upsampled, with grain of 6 levels so that they compress like
photos, quality 85. The views are stored by a teacher that costs nothing; two embeddings of 768 are read per sample.
"""

import argparse
import datetime
import io
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from reinforced_data.labelling.reinforce import reinforce
from reinforced_data.labelling.settings import ReinforceSettings
from reinforced_data.pixels.decode import decode_rgb
from reinforced_data.pixels.views import render_view
from reinforced_data.sample import Caption, RawSample
from reinforced_data.source import open_source
from reinforced_data.training.loader import AHEAD, batches
from reinforced_data.training.order import EpochOrder
from reinforced_data.training.pairs import StoredPairs
from reinforced_data.training.replay import stored_view
from tests.reinforced_data.stubs import ListSource, StubTeacher

BATCH = 16


def larger(data: bytes, width: int, height: int, seed: int) -> bytes:
    """A photo upsampled to width x height, with grain."""
    pixels = np.asarray(decode_rgb(data, "").resize((width, height), Image.Resampling.BICUBIC), float)
    grain = np.random.default_rng(seed).normal(0, 6, pixels.shape)
    stream = io.BytesIO()
    Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=85)
    return stream.getvalue()


def make_set(photos: list[bytes], preset: str, out: Path) -> Path:
    """A reinforced set of the photos under one preset."""
    raw = [RawSample(f"p{n}", data, (Caption(f"photo {n}"),)) for n, data in enumerate(photos)]
    teachers: Any = [StubTeacher("a", width=768, image_size=16), StubTeacher("b", width=768, image_size=16, seed=1)]
    reinforce(ListSource(raw), teachers, out, ReinforceSettings(view_preset=preset, shard_size=64, batch_size=64))
    return out


class Decode:
    """Step -> the same samples as the loader's step, decoded and dropped."""

    def __init__(self, pairs: StoredPairs) -> None:
        self.data = pairs.data

    def __getitem__(self, step: int) -> int:
        epoch, place = divmod(step, len(self.data) // BATCH)
        for index in EpochOrder(0, epoch, len(self.data)).samples(place * BATCH, (place + 1) * BATCH):
            decode_rgb(self.data.image(int(index)), "")
        return step


def speed(source: Any, steps: int) -> float:
    """Samples per second after the first two batches of each worker's start-up."""
    skip = 4
    for step, _ in enumerate(source):
        if step == skip - 1:
            started = time.perf_counter()
    return (steps - skip) * BATCH / (time.perf_counter() - started)


def decode_speed(pairs: StoredPairs, steps: int, workers: int) -> float:
    from torch.utils.data import DataLoader

    return speed(DataLoader(Decode(pairs), batch_size=None, sampler=range(steps), num_workers=workers,
                            prefetch_factor=AHEAD), steps)  # type: ignore[arg-type]  # fmt: skip


def loader_speed(pairs: StoredPairs, steps: int, workers: int) -> float:
    return speed(batches(pairs, batch_size=BATCH, seed=0, first_step=0, last_step=steps, workers=workers), steps)


def difference(pairs: StoredPairs) -> tuple[float, float]:
    """Mean and worst image's mean distance of fast from exact pixels."""
    data, size, values = pairs.data, pairs.image_size, []
    for index in range(min(32, len(data))):
        view = data.view(index, 0)
        exact = render_view(data.decoded(index), view, size).astype(int)
        values.append(float(np.abs(stored_view(data, index, view, size).astype(int) - exact).mean()))
    return statistics.mean(values), max(values)


def case(folder: Path, size: int, workers: int, rounds: int, seconds: float) -> str:
    exact, fast = StoredPairs(folder, size), StoredPairs(folder, size, replay="fast")
    steps = 4 + max(4, int(seconds * decode_speed(exact, 10, workers) / BATCH))
    found: dict[str, list[float]] = {"decode": [], "exact": [], "fast": []}
    for _ in range(rounds):
        found["decode"].append(decode_speed(exact, steps, workers))
        found["exact"].append(loader_speed(exact, steps, workers))
        found["fast"].append(loader_speed(fast, steps, workers))
    cells = [f"{statistics.median(found['decode']):.0f}"]
    for arm in ("exact", "fast"):
        ratios = [a / b for a, b in zip(found[arm], found["decode"], strict=True)]
        cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    mean, worst = difference(exact)
    return " | ".join([*cells, f"{mean:.2f} ({worst:.2f})"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--count", type=int, default=96)
    parser.add_argument("--jpegs", nargs="+", default=["224x224", "500x375", "1024x768"])
    parser.add_argument("--presets", nargs="+", default=["light", "mobileclip"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 224, 256])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.25, help="of decoding, per arm and round")
    given = parser.parse_args()
    torch.set_num_threads(1)
    source = open_source(given.photos, "eval", given.count)
    photos = [source[n].image for n in range(len(source))]
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} thread, {datetime.date.today()}\n")
    print("| JPEGs | kB | preset | student px | workers | decode/s | exact / decode | fast / decode | fast - exact |")
    print("|---|---:|---|---:|---:|---:|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        for name in given.jpegs:
            width, height = (int(side) for side in name.split("x"))
            jpegs = photos if name == "224x224" else [larger(data, width, height, n) for n, data in enumerate(photos)]
            kilobytes = statistics.mean(map(len, jpegs)) / 1000
            for preset in given.presets:
                folder = make_set(jpegs, preset, Path(temporary) / f"{name}-{preset}")
                for size in given.sizes:
                    for workers in given.workers:
                        row = case(folder, size, workers, given.rounds, given.seconds)
                        print(f"| {name} | {kilobytes:.0f} | {preset} | {size} | {workers} | {row} |", flush=True)


if __name__ == "__main__":
    main()
