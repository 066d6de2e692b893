"""What rendering views costs beside decoding: python -m benchmarks.loader --photos ../shared/data/flickr8k

Four tables, each over the same JPEGs (photos upsampled, with grain of 6 levels so that they compress like photos,
quality 85). Arms take turns in every round; printed are medians over the rounds and, of ratios, least to greatest.

- transforms: bytes to a square of pixels by one thread of one process, in processor time (so that other processes on the
  machine do not count): Pillow's decoding alone; torchvision's RandomResizedCrop (bicubic, scale 0.08 to 1) and RandAugment,
  to a uint8 tensor; open_clip's image_transform(is_train=True) at the same scale; our view preset "mobileclip" (the same
  crop and RandAugment), and its crop alone, by the rules "pillow" and "turbo". What a rule draws counts, and "turbo" reads as
  from a finished set.
- loader: whole batches from a stored set by the rules, with both replays of "pillow", as a share of decoding the same
  stored JPEGs with the same number of workers (wall time).
- held: batches of a set whose photos fit into memory decoded, kept so or not, in processor time.
- pixels: how far "turbo" is from Pillow's resize of the same crop, and how far apart a teacher and a student are who look
  at one view at sizes of their own (the larger one resized to the smaller by Pillow), in levels of 255.
"""

import argparse
import datetime
import io
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from distill.core.torch_compat import ensure_torchvision
from reinforced_data.labelling.reinforce import reinforce
from reinforced_data.labelling.settings import ReinforceSettings
from reinforced_data.pixels.decode import decode_rgb
from reinforced_data.pixels.picture import Picture
from reinforced_data.pixels.rendering import Rendering
from reinforced_data.pixels.views import draw_view, render_view
from reinforced_data.sample import Caption, RawSample, View
from reinforced_data.source import open_source
from reinforced_data.training import kept_pictures
from reinforced_data.training.loader import AHEAD, _Steps, batches
from reinforced_data.training.order import EpochOrder
from reinforced_data.training.pairs import StoredPairs
from reinforced_data.training.replay import stored_view
from tests.reinforced_data.stubs import ListSource, StubTeacher

BATCH = 16
RULES: tuple[Rendering, ...] = ("pillow", "turbo")
SIZES = ((224, 256), (224, 160), (336, 224), (224, 64))  # of teacher and student, pixels


def larger(data: bytes, width: int, height: int, seed: int) -> bytes:
    """A photo upsampled to width x height, with grain."""
    pixels = np.asarray(decode_rgb(data, "").resize((width, height), Image.Resampling.BICUBIC), float)
    grain = np.random.default_rng(seed).normal(0, 6, pixels.shape)
    stream = io.BytesIO()
    Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=85)
    return stream.getvalue()


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


# --- transforms ---


def arms(side: int) -> dict[str, Callable[[bytes], Any]]:
    """Name -> a JPEG -> what a training step would be given of it."""
    ensure_torchvision()
    import open_clip
    from torchvision import transforms

    def opened(data: bytes) -> Image.Image:
        return Image.open(io.BytesIO(data)).convert("RGB")

    bicubic = transforms.InterpolationMode.BICUBIC
    published = transforms.Compose([
        transforms.RandomResizedCrop(side, (0.08, 1.0), interpolation=bicubic), transforms.RandAugment(), transforms.PILToTensor(),
    ])  # fmt: skip
    theirs = open_clip.image_transform(side, is_train=True, aug_cfg={"scale": (0.08, 1.0)})

    def ours(rule: Rendering, operations: bool) -> Callable[[bytes], Any]:
        draws = np.random.default_rng(0)

        def render(data: bytes) -> Any:
            picture = Picture(data, "", rule, whole=True)
            view = draw_view("mobileclip", *picture.size, draws, rule)
            return picture.render(view if operations else View(view.box), side)

        return render

    return {
        "Pillow decodes": lambda data: opened(data),
        "torchvision": lambda data: published(opened(data)),
        "open_clip": lambda data: theirs(opened(data)),
        **{f"{rule}, crop": ours(rule, False) for rule in RULES},
        **{f"{rule}, crop and operations": ours(rule, True) for rule in RULES},
    }


def transforms_table(jpegs: dict[str, list[bytes]], side: int, rounds: int) -> None:
    print(f"\n| JPEGs | arm, to {side} px | ms | Pillow's decoding / arm | torchvision / arm | open_clip / arm |")
    print("|---|---|---:|---:|---:|---:|")
    for name, files in jpegs.items():
        every = arms(side)
        found: dict[str, list[float]] = {arm: [] for arm in every}
        for _ in range(rounds + 1):
            for arm, make in every.items():
                started = time.thread_time()
                for data in files:
                    make(data)
                found[arm].append((time.thread_time() - started) / len(files) * 1000)
        found = {arm: values[1:] for arm, values in found.items()}  # the first round warms up
        for arm, values in found.items():
            shares = [
                spread([other / own for other, own in zip(found[base], values, strict=True)])
                for base in ("Pillow decodes", "torchvision", "open_clip")
            ]
            print(f"| {name} | {arm} | {statistics.median(values):.2f} | " + " | ".join(shares) + " |", flush=True)


# --- the loader ---


def make_set(photos: list[bytes], preset: str, rule: Rendering, out: Path) -> Path:
    """A reinforced set of the photos under one preset and rule, by teachers that cost nothing."""
    raw = [RawSample(f"p{n}", data, (Caption(f"photo {n}"),)) for n, data in enumerate(photos)]
    teachers: Any = [StubTeacher("a", width=768, image_size=16), StubTeacher("b", width=768, image_size=16, seed=1)]
    settings = ReinforceSettings(view_preset=preset, rendering=rule, shard_size=64, batch_size=64)
    reinforce(ListSource(raw), teachers, out, settings)
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


def loader_row(folders: dict[Rendering, Path], size: int, workers: int, rounds: int, seconds: float) -> str:
    sets = {
        "exact": StoredPairs(folders["pillow"], size),
        "fast": StoredPairs(folders["pillow"], size, replay="fast"),
        "turbo": StoredPairs(folders["turbo"], size),
    }
    steps = 4 + max(4, int(seconds * decode_speed(sets["exact"], 10, workers) / BATCH))
    ratios: dict[str, list[float]] = {name: [] for name in sets}
    decoded = []
    for _ in range(rounds):
        decoded.append(decode_speed(sets["exact"], steps, workers))
        for name, pairs in sets.items():
            ratios[name].append(loader_speed(pairs, steps, workers) / decoded[-1])
    return " | ".join([f"{statistics.median(decoded):.0f}", *(spread(values) for values in ratios.values())])


def loader_table(jpegs: dict[str, list[bytes]], given: argparse.Namespace) -> None:
    print("\n| JPEGs | preset | student px | workers | decode/s | pillow, exact | pillow, fast | turbo |")
    print("|---|---|---:|---:|---:|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        for name, files in jpegs.items():
            for preset in given.presets:
                folders = {
                    rule: make_set(files, preset, rule, Path(temporary) / f"{name}-{preset}-{rule}") for rule in RULES
                }
                for size in given.sizes:
                    for workers in given.workers:
                        row = loader_row(folders, size, workers, given.rounds, given.seconds)
                        print(f"| {name} | {preset} | {size} | {workers} | {row} |", flush=True)


def held_table(jpegs: dict[str, list[bytes]], given: argparse.Namespace) -> None:
    """Batches of a set that fits, made by one thread, its photos kept decoded or not: processor time."""
    print("\n| JPEGs | preset | student px | ms a pair, kept | not kept / kept decoded |")
    print("|---|---|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        for name, files in jpegs.items():
            for preset in given.presets:
                folder = make_set(files, preset, "turbo", Path(temporary) / f"{name}-{preset}")
                for size in given.sizes:
                    ways = [warm_steps(folder, size, budget) for budget in (0, 512 << 20)]
                    spent: list[list[float]] = [[], []]
                    for turn in range(given.rounds):
                        for steps, times in zip(ways, spent, strict=True):
                            started = time.thread_time()
                            for step in range(8):
                                steps[8 * turn + step]
                            times.append((time.thread_time() - started) / 8 / BATCH * 1000)
                    ratio = spread([off / on for off, on in zip(*spent, strict=True)])
                    print(f"| {name} | {preset} | {size} | {statistics.median(spent[1]):.2f} | {ratio} |", flush=True)


def warm_steps(folder: Path, size: int, budget: int) -> Any:
    """A loader's steps after an epoch or more, in which it was decided what is kept."""
    kept_pictures.HELD_BYTES = budget
    steps = _Steps(StoredPairs(folder, size), BATCH, 0, 0, 1)
    for step in range(16):
        steps[step]
    return steps


# --- pixels ---


def levels(pairs: list[tuple[Any, Any]]) -> str:
    """Mean distance, the worst image's mean, the worst value; of pairs of [S, S, 3] uint8."""
    each = [np.abs(a.astype(int) - b.astype(int)) for a, b in pairs]
    means = [float(distance.mean()) for distance in each]
    return f"{statistics.mean(means):.2f} ({max(means):.2f}; {max(int(distance.max()) for distance in each)})"


def smaller(pixels: Any, side: int) -> Any:
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


def pixels_table(jpegs: dict[str, list[bytes]], given: argparse.Namespace) -> None:
    print("\nmean (worst image; worst value)\n")
    columns = [f"turbo - pillow, {size} px" for size in given.sizes]
    columns += [f"{rule}: {a} - {b} px" for a, b in SIZES for rule in RULES]
    print("| JPEGs | preset | fast - exact, 224 px | " + " | ".join(columns) + " |")
    print("|---|---|" + "---:|" * (1 + len(columns)))
    with tempfile.TemporaryDirectory() as temporary:
        for name, files in jpegs.items():
            for preset in given.presets:
                data = StoredPairs(make_set(files, preset, "turbo", Path(temporary) / f"{name}-{preset}"), 64).data
                views = [(data.image(n), data.view(n, 0), n) for n in range(len(data))]
                cells = [
                    levels(
                        [
                            (stored_view(data, n, view, 224), render_view(decode_rgb(file, ""), view, 224))
                            for file, view, n in views
                        ]
                    )
                ]
                for size in given.sizes:
                    cells.append(levels([(Picture(file, "", "turbo").render(view, size), render_view(decode_rgb(file, ""), view, size)) for file, view, _ in views]))  # fmt: skip
                for sides in SIZES:
                    for rule in RULES:
                        shown = [
                            [Picture(file, "", rule).render(view, side) for side in sides] for file, view, _ in views
                        ]
                        cells.append(levels([(smaller(a, min(sides)), smaller(b, min(sides))) for a, b in shown]))
                print(f"| {name} | {preset} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", required=True)
    parser.add_argument("--tables", nargs="+", default=["transforms", "loader", "held", "pixels"])
    parser.add_argument("--count", type=int, default=96)
    parser.add_argument(
        "--jpegs", nargs="+", default=["500x375", "1024x768"], help="sizes; 224x224 = the photos as they are"
    )
    parser.add_argument("--presets", nargs="+", default=["light", "mobileclip"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 224, 256])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.25, help="of decoding, per arm and round of the loader")
    parser.add_argument(
        "--held", action="store_true", help="let the loader keep photos decoded, as it does of a set that small"
    )
    given = parser.parse_args()
    if not given.held:
        kept_pictures.HELD_BYTES = 0  # the few photos here stand for a large set
    torch.set_num_threads(1)
    source = open_source(given.photos, "eval", given.count)
    photos = [source[n].image for n in range(len(source))]
    jpegs = {}
    for name in given.jpegs:
        width, height = (int(side) for side in name.split("x"))
        jpegs[name] = photos if name == "224x224" else [larger(data, width, height, n) for n, data in enumerate(photos)]
    sizes = ", ".join(f"{name} {statistics.mean(map(len, files)) / 1000:.0f} kB" for name, files in jpegs.items())
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} thread, {datetime.date.today()}; {sizes}"
    )
    if "transforms" in given.tables:
        transforms_table(jpegs, 224, given.rounds)
    if "loader" in given.tables:
        loader_table(jpegs, given)
    if "held" in given.tables:
        held_table(jpegs, given)
    if "pixels" in given.tables:
        pixels_table(jpegs, given)


if __name__ == "__main__":
    main()
