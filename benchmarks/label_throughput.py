"""How much of the bare teacher's speed is left when labelling: decoding, drawing and rendering views, hashing and writing included.

    python benchmarks/label_throughput.py [--teacher open_clip:ViT-B-16/openai] [--images 96] [--views 2] [--rounds 4] [--device cpu]

Both arms see the same batches: the first labelling (not timed) records every input that the teacher is given; the bare arm replays those through the
teacher and does nothing else. Rounds alternate the arms; printed are the ratios of their times, median and range. The teacher has random weights, which
changes no time. Images are the shared Flickr8k photos where they are there, enlarged to 500 x 375 and encoded anew as JPEG of quality 90 (a common size of
photo collections; decoding the 224-pixel originals would flatter us), else smooth noise of that size.
"""

import argparse
import datetime
import io
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from reinforced_data.labelling.reinforce import reinforce
from reinforced_data.labelling.settings import ReinforceSettings
from reinforced_data.sample import Caption, RawSample
from reinforced_data.source import open_source
from teachers.load import load_teacher

FLICKR = Path(__file__).resolve().parents[2] / "shared" / "data" / "flickr8k"
SIZE = (500, 375)


class Recorded:
    """A teacher that keeps what it is given."""

    def __init__(self, teacher) -> None:
        self._teacher, self.images, self.texts, self.keep = teacher, [], [], True

    def __getattr__(self, name: str):
        return getattr(self._teacher, name)

    def encode_image(self, pixels):
        if self.keep:
            self.images.append(pixels.clone())
        return self._teacher.encode_image(pixels)

    def encode_text(self, captions):
        if self.keep:
            self.texts.append(captions)
        return self._teacher.encode_text(captions)

    def bare(self) -> None:
        """The same batches through the teacher alone."""
        for pixels in self.images:
            self._teacher.encode_image(pixels).cpu()
        for captions in self.texts:
            self._teacher.encode_text(captions).cpu()


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="open_clip:ViT-B-16/openai")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--preset", default="mobileclip")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    teacher = load_teacher(given.teacher, random_weights=True)
    teacher.to(given.device)
    recorded, photos, ratios, rates = Recorded(teacher), Photos(given.images), [], []

    def label() -> None:
        with tempfile.TemporaryDirectory() as folder:
            reinforce(
                photos,
                [recorded],
                Path(folder) / "set",
                ReinforceSettings(views_per_image=given.views, view_preset=given.preset, batch_size=given.batch_size),
            )

    label()
    recorded.keep = False
    for number in range(given.rounds):
        times = {}
        for name, arm in (
            (("bare", recorded.bare), ("label", label)) if number % 2 else (("label", label), ("bare", recorded.bare))
        ):
            began = time.perf_counter()
            arm()
            times[name] = time.perf_counter() - began
        ratios.append(times["bare"] / times["label"])
        rates.append(given.images * given.views / times["label"])
        print(
            f"round {number + 1}: bare {times['bare']:.2f} s, labelling {times['label']:.2f} s, ratio {ratios[-1]:.3f}",
            flush=True,
        )
    where = (
        torch.cuda.get_device_name()
        if given.device != "cpu"
        else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    print(
        f"{given.teacher}, {given.images} images x {given.views} views ({given.preset}), 5 captions each, {where}, {datetime.date.today()}: labelling at "
        f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) of the bare forward; {statistics.median(rates):.1f} views/s"
    )


if __name__ == "__main__":
    main()
