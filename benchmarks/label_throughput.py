"""How much of the bare models' speed is left when labelling: decoding, drawing and rendering views, hashing and writing included.

    python -m benchmarks.label_throughput [--images 16] [--views 2] [--rounds 4] [--workers 2] [--device cpu]

By default two teachers of different input size and a captioner. All arms see the same batches: the first labelling (not timed) records every input
that a model is given; the bare arm replays those through the models and does nothing else. The other arms label with threads (0) and with the numbers
of processes that --workers names. Rounds go through the arms in turns; printed are the ratios of their times, median and range: of the clock's, and of the processors', which is what is left on a machine that others
use too (where models run on the processor, whatever else it does is time that they do not have). Weights are random,
which changes no time but the captioner's, who talks until its last token. Images are the shared Flickr8k photos where they are there, enlarged to
500 x 375 and encoded anew as JPEG of quality 90 (a common size of photo collections; decoding the 224-pixel originals would flatter us), else smooth
noise of that size.
"""

import argparse
import datetime
import io
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from reinforced_data.labelling.plan import make_plan
from reinforced_data.labelling.preparation.ahead import prepared
from reinforced_data.labelling.preparation.prepare import Preparation
from reinforced_data.labelling.reinforce import reinforce
from reinforced_data.labelling.settings import ReinforceSettings
from reinforced_data.sample import Caption, RawSample
from reinforced_data.source import open_source
from teachers.captioner import CaptionSettings
from teachers.load import load_teacher
from teachers.load_captioner import load_captioner
from teachers.spec import TeacherSpec

FLICKR = Path(__file__).resolve().parents[2] / "shared" / "data" / "flickr8k"
SIZE = (500, 375)
TEACHERS = ("open_clip:ViT-B-16/openai", "open_clip:ViT-B-32-256/datacomp_s34b_b86k")
CAPTIONER = "coca:coca_ViT-B-32/laion2b_s13b_b90k"


class Recorded:
    """A model that keeps what it is given, and gives it again to the model alone."""

    ASKED = ("encode_image", "encode_text", "caption")

    def __init__(self, model) -> None:
        self._model, self.keep = model, True
        self._calls: list[tuple[str, tuple]] = []

    def __getattr__(self, name: str):
        of_model = getattr(self._model, name)
        if name not in self.ASKED:
            return of_model

        def ask(*given):
            if self.keep:
                self._calls.append((name, given))
            return of_model(*given)

        return ask

    def bare(self) -> None:
        """The same batches through the model alone; what comes back is fetched from its device."""
        for name, given in self._calls:
            answer = getattr(self._model, name)(*given)
            if isinstance(answer, torch.Tensor):
                answer.cpu()


class Photos:
    name, licence, fingerprint = "photos", "unknown", "0"

    def __init__(self, count: int) -> None:
        source = open_source(str(FLICKR), "train", limit=count) if FLICKR.is_dir() else None
        self.samples = []
        for number in range(count):
            if source is not None:
                raw = source[number]
                image, captions = Image.open(io.BytesIO(raw.image)).convert("RGB"), raw.captions
            else:
                noise = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
                image, captions = Image.fromarray(noise), tuple(Caption(f"noise {number} {c}") for c in range(5))
            stream = io.BytesIO()
            image.resize(SIZE, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
            self.samples.append(RawSample(f"p{number}", stream.getvalue(), captions))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> RawSample:
        return self.samples[index]

    def zero_shot(self):
        return None


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", action="append", help="may be repeated")
    parser.add_argument("--captioner", default=CAPTIONER, help="none = without")
    parser.add_argument("--captions", type=int, default=1, help="that the captioner writes of an image")
    parser.add_argument("--caption-tokens", type=int, default=16)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--preset", default="mobileclip")
    parser.add_argument("--rendering", default="pillow")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--shard-size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--workers", type=int, nargs="*", default=[])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--preparation-alone", action="store_true", help="no models: decoding and rendering only")
    return parser.parse_args(argv)


def models_of(given: argparse.Namespace) -> tuple[list[Recorded], list[Recorded]]:
    teachers = [Recorded(load_teacher(name, random_weights=True)) for name in given.teacher or TEACHERS]
    captioners = []
    if given.captioner != "none":
        spoken = CaptionSettings(
            captions=given.captions, max_tokens=given.caption_tokens, min_tokens=given.caption_tokens
        )
        captioners.append(Recorded(load_captioner(given.captioner, spoken, random_weights=True)))
    for model in (*teachers, *captioners):
        model.to(given.device)
    return teachers, captioners


Times = dict[str, list[tuple[float, float]]]  # per arm and round, seconds on the clock and of all processors


def processor_s() -> float:
    """Seconds of processors so far, of this process and of those that it has seen end."""
    return sum(os.times()[:4])


def rounds(arms: dict[str, Callable[[], None]], count: int) -> Times:
    """What every arm took; every round begins with another arm."""
    times: Times = {name: [] for name in arms}
    names = list(arms)
    for number in range(count):
        at = number % len(names)
        for name in names[at:] + names[:at]:
            began, spent = time.perf_counter(), processor_s()
            arms[name]()
            times[name].append((time.perf_counter() - began, processor_s() - spent))
        told = (f"{name} {times[name][-1][0]:.2f} s ({times[name][-1][1]:.2f} s of processors)" for name in names)
        print(f"round {number + 1}: " + ", ".join(told), flush=True)
    return times


class Sizes:
    """Stands for a teacher where samples are prepared and no model is asked."""

    def __init__(self, side: int) -> None:
        self.spec = TeacherSpec(f"of {side} pixels", "stub", "stub", 8, side, None, "softmax", "MIT", True)
        self.logit_scale, self.logit_bias, self.weights_sha256 = 1.0, 0.0, "0" * 64

    def describe(self) -> dict[str, object]:
        return {}


def preparation_alone(given: argparse.Namespace) -> None:
    """Samples a second that threads and processes make ready for teachers of 224 and 256 pixels, from the first one that is ready on."""
    photos, sides = Photos(64), [Sizes(224), Sizes(256)]
    torch.set_num_threads(1)
    print("| rule | preset | made ready by | samples/s |\n|---|---|---|---:|")
    for rule in ("pillow", "turbo"):
        for preset in ("light", "mobileclip"):
            settings = ReinforceSettings(views_per_image=given.views, view_preset=preset, rendering=rule)
            preparation = Preparation(photos, sides, [], make_plan(photos, sides, [], settings, 0))

            def draw(workers: int, preparation: Preparation = preparation) -> float:
                samples = prepared(preparation, (place % 64 for place in range(given.images)), workers)
                for _ in range(given.images // 2):  # all are at work by then
                    next(samples)
                began = time.perf_counter()
                rest = sum(1 for _ in samples)
                return rest / (time.perf_counter() - began)

            found: dict[int, list[float]] = {workers: [] for workers in (0, *given.workers)}
            for _ in range(given.rounds):
                for workers in found:
                    found[workers].append(draw(workers))
            for workers, rates in found.items():
                ratios = [rate / threads for rate, threads in zip(rates, found[0], strict=True)]
                share = (
                    ""
                    if workers == 0
                    else f", {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) of threads"
                )
                name = f"{workers} processes" if workers else f"{min(8, os.cpu_count() or 1)} threads"
                print(f"| `{rule}` | `{preset}` | {name} | {statistics.median(rates):.0f}{share} |", flush=True)


def main(argv: list[str] | None = None) -> None:
    given = arguments(argv)
    if given.preparation_alone:
        preparation_alone(given)
        return
    teachers, captioners = models_of(given)
    photos = Photos(given.images)
    settings = ReinforceSettings(
        views_per_image=given.views,
        view_preset=given.preset,
        rendering=given.rendering,
        batch_size=given.batch_size,
        shard_size=given.shard_size,
    )

    def label(workers: int = 0) -> None:
        with tempfile.TemporaryDirectory() as folder:
            reinforce(photos, teachers, Path(folder) / "set", settings, captioners=captioners, workers=workers)

    def bare() -> None:
        for model in (*teachers, *captioners):
            model.bare()

    label()
    for model in (*teachers, *captioners):
        model.keep = False
    arms: dict[str, Callable[[], None]] = {"bare": bare, "threads": label}
    arms |= {f"{count} processes": lambda count=count: label(count) for count in given.workers}
    times = rounds(arms, given.rounds)
    where = (
        torch.cuda.get_device_name()
        if given.device != "cpu"
        else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    names = " and ".join([*(given.teacher or TEACHERS), *([given.captioner] if captioners else [])])
    print(
        f"\n{names}; {given.images} images x {given.views} views ({given.preset}, {given.rendering}), 5 captions each and {given.captions} written; "
        f"{where}, load {os.getloadavg()[0]:.1f}, {datetime.date.today()}\n\n"
        "| decoded and rendered by | share of the bare models' speed | by processor time | views/s of each teacher |\n|---|---:|---:|---:|"
    )
    for name in list(arms)[1:]:
        cells = []
        for clock in (0, 1):
            shares = [alone[clock] / told[clock] for alone, told in zip(times["bare"], times[name], strict=True)]
            cells.append(f"{statistics.median(shares):.3f} ({min(shares):.3f} to {max(shares):.3f})")
        rate = given.images * given.views / statistics.median(took for took, _ in times[name])
        print(f"| {name} | {cells[0]} | {cells[1]} | {rate:.1f} |")


if __name__ == "__main__":
    main()
