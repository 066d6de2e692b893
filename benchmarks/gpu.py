"""Every figure of ours that needs a GPU, by one call of at most 8 minutes: training steps, labelling, the store, a full teacher, evaluation, memory.

    python -m benchmarks.gpu --out OUT            # on the GPU that is here
    python -m benchmarks.gpu --out OUT --smoke    # on a CPU, at toy sizes: that every part runs; its figures say nothing

Images are synthetic JPEGs (but Flickr8k, where ../shared/data has it, for the full teacher, which is trained and then labels), weights random ones of full
size, which changes no time. OUT/gpu.json has every figure as soon as it is taken, OUT/gpu.md the tables. A part that fails or that no time is left for says so in its place, and the others go on. FLOPs are counted by torch on the operations that ran;
the roofline is the bf16 matrix product measured here, in the same call. It needs torch >= 2.11, torchvision, timm, accelerate, safetensors, pyarrow, Pillow
and psutil; on a machine that has no more, carry these as wheels: open_clip_torch ftfy wcwidth pydantic pydantic_core annotated_types typing_inspection
typing_extensions.
"""

import argparse
import datetime
import importlib.util
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_arms.bench import SMOKE, Bench, Sizes, device_part
from benchmarks.gpu_arms.full_teacher import full_teacher_part
from benchmarks.gpu_arms.labelling import evaluation_part, labelling_part
from benchmarks.gpu_arms.synthetic import Synthetic, synthetic
from benchmarks.gpu_arms.training import step_part, store_part

CARRIED = ("open_clip", "ftfy", "pydantic")  # what a machine for GPU work may lack


def markdown(found: dict[str, dict[str, Any]], smoke: bool) -> str:
    """One table of all parts."""
    name = found.get("device", {}).get("name", "?")
    note = " Toy sizes on a CPU: not measured on a GPU." if smoke else ""
    lines = [f"{name}, torch {torch.__version__}, {datetime.date.today()}, `python -m benchmarks.gpu`.{note}", ""]
    lines += ["| part | figures |", "|---|---|"]
    for part, figures in found.items():
        said = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in figures.items() if key != "took_s")
        lines.append(f"| {part} | {said} |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Parse, measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--smoke", action="store_true", help="toy sizes on the CPU")
    parser.add_argument("--minutes", type=float, default=7.0, help="after which no part is begun")
    given = parser.parse_args(argv)
    if not given.smoke and not torch.cuda.is_available():
        raise SystemExit("There is no GPU here that torch sees. --smoke runs every part at toy sizes on the CPU.")
    if missing := [name for name in CARRIED if importlib.util.find_spec(name) is None]:
        raise SystemExit(
            f"{', '.join(missing)} cannot be imported here. Install or carry the wheels that {__name__} --help names."
        )
    given.out.mkdir(parents=True, exist_ok=True)
    sizes = SMOKE if given.smoke else Sizes()
    bench = Bench("cpu" if given.smoke else "cuda", sizes, given.out, time.monotonic() + 60 * given.minutes)
    bench.part("device", lambda: device_part(bench))
    for name in sizes.students:
        bench.part(f"step {name}, bf16", lambda name=name: step_part(bench, name, "bf16", False))
    source = Synthetic(synthetic(sizes.images, sizes.pixels))
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("no", "bf16", "fp16"):
            place = Path(folder) / precision
            bench.part(
                f"labelling {sizes.teacher}, {precision}",
                lambda p=precision, f=place: labelling_part(bench, source, p, f),
            )
        bench.part(
            f"from the store {sizes.students[-1]}", lambda: store_part(bench, sizes.students[-1], Path(folder) / "no")
        )
        bench.part(f"full teacher {sizes.full_teacher}", lambda: full_teacher_part(bench, source, Path(folder)))
    bench.part(f"evaluation {sizes.students[0]}", lambda: evaluation_part(bench, sizes.students[0], source))
    for name in sizes.students[::-1]:
        bench.part(f"step {name}, tf32", lambda name=name: step_part(bench, name, "tf32", False))
    for name in () if given.smoke else sizes.students[::-1]:  # last: compiling takes long
        bench.part(f"step {name}, bf16 compiled", lambda name=name: step_part(bench, name, "bf16", True))
    text = markdown(bench.found, given.smoke)
    (given.out / "gpu.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
