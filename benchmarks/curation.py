"""What the filters cost, and how the perceptual hash behaves on real photos.

    python benchmarks/curation.py scale [--rows 5000 20000] [--width 768]   seconds and memory per filter, made-up embeddings
    python benchmarks/curation.py hash --data ../shared/data/flickr8k       bits between photos and their altered copies

`scale` runs every filter in a process of its own and prints its peak memory; the growth from the smaller to the larger set, less that of
"none" (open the set and read all keys), is what a sample costs. Sets are of one-pixel images, so that nothing but the filters is measured.
"""

import argparse
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FILTERS = {
    "none": "",
    "score": "score:keep=0.2",
    "clusters": "clusters:k=100,keep=0.3",
    "balance": "balance:cap=50",
    "duplicates": "duplicates:min=0.95",
    "mix": "mix:size=1",
}


def make(folder: Path, rows: int, width: int) -> None:
    """A set of `rows` samples with two views and three captions each, every embedding random."""
    import numpy as np
    from PIL import Image

    from reinforced_data.labelling.reinforce import reinforce
    from reinforced_data.labelling.settings import ReinforceSettings
    from reinforced_data.sample import Caption, RawSample
    from tests.reinforced_data.stubs import ListSource, StubTeacher, encoded

    class Random(StubTeacher):
        def encode_image(self, pixels):
            import torch

            return torch.randn(len(pixels), width, generator=generator)

        def encode_text(self, captions):
            import torch

            return torch.randn(len(captions), width, generator=generator)

    import torch

    generator = torch.Generator().manual_seed(0)
    teacher = Random("random", image_size=1)
    teacher.spec = teacher.spec.__class__(**{**teacher.spec.__dict__, "width": width})
    words = (Path(__file__).parents[1] / "reinforced_data/curation/everyday.txt").read_text().splitlines()[2:]
    rng = np.random.default_rng(0)
    picture = encoded(Image.new("RGB", (2, 2)))

    def sample(i: int) -> RawSample:
        texts = [
            f"a {words[rng.integers(len(words))]} and a {words[rng.integers(len(words))]} number {i}" for _ in range(3)
        ]
        return RawSample(f"sample-{i:08d}", picture + str(i).encode(), tuple(Caption(text) for text in texts))

    source = ListSource([sample(i) for i in range(rows)])
    reinforce(source, [teacher], folder, ReinforceSettings(shard_size=2000, batch_size=1024))


def one(folder: Path, text: str) -> dict[str, float]:
    """Seconds and peak bytes of one filter, in this process."""
    from reinforced_data.curation.curate import curate
    from reinforced_data.store.reader import ReinforcedData

    data = ReinforcedData(folder)
    started = time.perf_counter()
    # Without a filter: what every chain does, open the set and read all keys.
    kept = curate(data, [text]).kept if text else len([data.text(i).key for i in range(len(data))])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": time.perf_counter() - started, "peak_bytes": peak, "kept": kept}


def scale(rows: list[int], width: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for count in rows:
            # In a process of its own: a child's peak memory begins at that of its parent.
            subprocess.run([sys.executable, __file__, "make", f"{folder}/{count}", str(count), str(width)], check=True)
        for name, text in FILTERS.items():
            for count in rows:
                call = [sys.executable, __file__, "one", f"{folder}/{count}", text]
                result = json.loads(subprocess.run(call, capture_output=True, text=True, check=True).stdout)
                print(
                    f"{name:12} {count:8} rows  {result['seconds']:7.2f} s  peak {result['peak_bytes'] / 1e6:7.1f} MB  "
                    f"kept {result['kept']}",
                    flush=True,
                )


def copies(image):
    """Altered copies of a photo, by name."""
    from PIL import Image

    def jpeg(picture, quality):
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=quality)
        return Image.open(stream)

    width, height = image.size
    return {
        "JPEG quality 50": jpeg(image, 50),
        "half size, JPEG 75": jpeg(image.resize((width // 2, height // 2), Image.Resampling.BICUBIC), 75),
        "double size": image.resize((width * 2, height * 2), Image.Resampling.BICUBIC),
        "2 % cropped off each side": image.crop(
            (width // 50, height // 50, width - width // 50, height - height // 50)
        ),
        "10 % cropped off each side": image.crop(
            (width // 10, height // 10, width - width // 10, height - height // 10)
        ),
        "brighter by 20 %": image.point(lambda value: min(255, int(value * 1.2))),
    }


def photos(location: str, limit: int) -> None:
    import numpy as np

    from reinforced_data.curation.image_hash import near_hashes, perceptual_hash
    from reinforced_data.pixels.decode import decode_rgb
    from reinforced_data.source import open_source

    source = open_source(location, "train", limit)
    hashes, apart, seconds = [], {}, 0.0
    for index in range(len(source)):
        raw = source[index]
        image = decode_rgb(raw.image, raw.key)
        started = time.perf_counter()
        value = perceptual_hash(image)
        seconds += time.perf_counter() - started
        hashes.append(value)
        if index % 10 == 0:
            for name, copy in copies(image).items():
                apart.setdefault(name, []).append((perceptual_hash(copy) ^ value).bit_count())
    print(f"{len(hashes)} photos, {1e3 * seconds / len(hashes):.2f} ms each for the hash alone (decoding not counted)")
    for name, bits in apart.items():
        within = "  ".join(f"<={b}: {100 * np.mean(np.array(bits) <= b):5.1f} %" for b in (0, 2, 4, 6, 8, 10))
        print(f"{name:28} {within}   ({len(bits)} photos)")
    known = np.asarray(hashes, np.uint64)
    pairs = {
        (min(a, b), max(a, b)): d
        for i, j, near in near_hashes(known, known, 10)
        for a, b, d in zip(i, j, near, strict=True)
        if a != b
    }
    print("pairs of different photos:", {b: sum(int(d) <= b for d in pairs.values()) for b in (0, 2, 4, 6, 8, 10)})
    for (a, b), d in sorted(pairs.items(), key=lambda item: item[1])[:12]:
        print(f"  {d} bits: {source[int(a)].key}  {source[int(b)].key}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    if sys.argv[1:2] == ["one"]:
        print(json.dumps(one(Path(sys.argv[2]), sys.argv[3])))
        sys.exit()
    if sys.argv[1:2] == ["make"]:
        make(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
        sys.exit()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["scale", "hash"])
    parser.add_argument("--rows", type=int, nargs="+", default=[5000, 20000])
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--data", default="../shared/data/flickr8k")
    parser.add_argument("--limit", type=int, default=6000)
    given = parser.parse_args()
    scale(given.rows, given.width) if given.what == "scale" else photos(given.data, given.limit)
