"""Every figure of ours that needs a GPU, by one call of at most 8 minutes: training steps, labelling, the store, a full teacher, evaluation, memory.

    python -m benchmarks.gpu --out OUT            # on the GPU that is here
    python -m benchmarks.gpu --out OUT --smoke    # on a CPU, at toy sizes: that every part runs; its figures say nothing

Images are synthetic JPEGs, weights random ones of full size, which changes no time. The full teacher is trained on Flickr8k, and then labels, where
--flickr or shared/data/flickr8k (in this folder or beside it) is a folder with its parquet files, one of training and the one for evaluation at least; else on the
synthetic images, which is said. OUT/gpu.json and OUT/gpu.md have every figure as soon as it is taken. A part that fails, takes too long or finds no time left says so in its
place, and the others go on. FLOPs are those of the matrix products and convolutions of one step or forward, counted by torch; the roofline is the bf16
matrix product measured here, in the same call.

It needs torch >= 2.11, torchvision, timm, accelerate, safetensors, regex, tqdm, huggingface_hub, pyarrow, Pillow and psutil; on a machine that has no more, carry
these as wheels: open_clip_torch ftfy wcwidth pydantic pydantic_core annotated_types typing_inspection typing_extensions, and simplejpeg for the default rule of
rendering.
"""

import argparse
import importlib
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.gpu_arms.bench import SMOKE, Bench, Sizes, device_part
from benchmarks.gpu_arms.full_teacher import full_teacher_part
from benchmarks.gpu_arms.labelling import evaluation_part, labelling_parts
from benchmarks.gpu_arms.synthetic import Synthetic, synthetic
from benchmarks.gpu_arms.training import step_part, store_part

NEEDED = (
    "torchvision", "timm", "accelerate", "safetensors", "regex", "tqdm", "huggingface_hub", "pyarrow", "PIL", "psutil",
    "ftfy", "wcwidth", "pydantic", "open_clip",
)  # fmt: skip
FLICKR = tuple(Path(__file__).resolve().parents[up] / "shared" / "data" / "flickr8k" for up in (1, 2))


def missing() -> list[str]:
    """What of the packages that this needs cannot be imported here, each with the reason."""
    from distill.core.torch_compat import ensure_torchvision

    ensure_torchvision()
    found = []
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            found.append(f"{name} ({error})")
    return found


def main(argv: list[str] | None = None) -> None:
    """Parse, measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--smoke", action="store_true", help="toy sizes on the CPU")
    parser.add_argument(
        "--minutes", type=float, default=7.75, help="after the start of the process, when everything is over"
    )
    parser.add_argument("--flickr", type=Path, help="folder of Flickr8k's parquet files")
    given = parser.parse_args(argv)
    if not given.smoke and not torch.cuda.is_available():
        raise SystemExit("There is no GPU here that torch sees. --smoke runs every part at toy sizes on the CPU.")
    if absent := missing():
        raise SystemExit(
            f"Cannot be imported here: {'; '.join(absent)}. Install or carry the wheels that {__name__} --help names."
        )
    if given.flickr and not given.flickr.is_dir():
        raise SystemExit(f"--flickr {given.flickr}: there is no such folder.")
    flickr = given.flickr or next((place for place in FLICKR if place.is_dir() and not given.smoke), None)
    given.out.mkdir(parents=True, exist_ok=True)
    sizes = SMOKE if given.smoke else Sizes()
    ends = time.monotonic() + 60 * given.minutes - (time.time() - own_start())
    bench = Bench("cpu" if given.smoke else "cuda", sizes, given.out, ends)
    measure_all(bench, flickr)
    print(bench.markdown())


def own_start() -> float:
    """When this process began, of time.time: what it imported until now took time too."""
    import psutil

    return float(psutil.Process().create_time())


def measure_all(bench: Bench, flickr: Path | None) -> None:
    """Every part, in the order in which they are missed if time runs out."""
    sizes = bench.sizes
    bench.part("device", lambda: device_part(bench))
    for name in sizes.students:
        bench.part(f"step {name}, bf16", lambda name=name: step_part(bench, name, "bf16", False))
    source = Synthetic(synthetic(sizes.images, sizes.pixels))
    with tempfile.TemporaryDirectory() as folder:
        labelling_parts(bench, source, Path(folder) / "sets")
        bench.free()  # of the teacher
        bench.part(
            f"full teacher {sizes.full_teacher}", lambda: full_teacher_part(bench, source, flickr, Path(folder)), 150
        )
        fed = sizes.students[-1]
        bench.part(f"from the store {fed}", lambda: store_part(bench, fed, Path(folder) / "sets"), 90)
    bench.part(f"evaluation {sizes.students[0]}", lambda: evaluation_part(bench, sizes.students[0], source))
    for name in sizes.students[::-1]:
        bench.part(f"step {name}, tf32", lambda name=name: step_part(bench, name, "tf32", False))
    for name in () if bench.device == "cpu" else sizes.students[::-1]:  # last: compiling takes long
        bench.part(f"step {name}, bf16 compiled", lambda name=name: step_part(bench, name, "bf16", True), 240)


if __name__ == "__main__":
    main()
