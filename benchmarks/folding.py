"""What folding leaves of the published image towers, how exact it is, and what it buys over timm's own reparameterization.

    python -m benchmarks.folding [--tower fastvit_mci0 ...] [--no-latency]

Weights are random, BatchNorm statistics and layer scales are as of trained networks. Both folded towers are written by the same
targets (attention rewritten in both, timm's with the BatchNorms that it leaves) and timed in one process, one thread, batch 1, round
by round in alternating order. A ratio below 1: ours is faster. It says nothing about a phone.
"""

import argparse
import copy
import datetime
import logging
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from distill.core.clip.model import import_open_clip
from export.devices.host import cpu_model
from export.target import get_target
from export.towers.rewrite import rewrite_for_export
from students.reparameterize import reparameterize

TOWERS = ("fastvit_mci0", "fastvit_mci1", "fastvit_mci2", "fastvit_mci3", "fastvit_mci4", "vit_base_mci_224")
TIMED = ("onnx", "executorch-xnnpack")
ROUNDS, CALLS = 8, 5


def lively(name: str) -> nn.Module:
    """The tower with seed 0, and statistics by which a wrong fold shows."""
    import timm

    torch.manual_seed(0)
    model: Any = timm.create_model(name, num_classes=0).eval()
    for key, parameter in model.named_parameters():
        if "gamma" in key:
            parameter.data.fill_(0.1)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.2)  # type: ignore[union-attr]
            part.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            part.weight.data.uniform_(0.5, 1.5)
            part.bias.data.normal_(0, 0.2)
    return model  # type: ignore[no-any-return]


def norms(model: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in model.modules())


def timms_own(model: nn.Module) -> nn.Module:
    """timm's reparameterized copy, its BatchNorms where timm leaves them."""
    from timm.utils import reparameterize_model

    folded: nn.Module = reparameterize_model(model).eval()
    for part in folded.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = False  # type: ignore[assignment]
    return folded


def ratios(ours: nn.Module, timms: nn.Module, pixels: Tensor, target_name: str, scratch: Path) -> list[float]:
    """Our time over timm's, per round."""
    target, runners = get_target(target_name), []
    for label, model in (("ours", ours), ("timms", timms)):
        path = scratch / f"{label}{target.suffix}"
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.convert(torch.export.export(model, (pixels,)), "image", path)
        runners.append(target.load(path))
    array, found = pixels.numpy(), []
    for index in range(ROUNDS + 1):
        times: list[list[float]] = [[], []]
        for at in (0, 1) if index % 2 == 0 else (1, 0):
            for _ in range(CALLS):
                start = time.perf_counter()
                runners[at](array)
                times[at].append(time.perf_counter() - start)
        if index:  # the first warms up
            found.append(median(times[0]) / median(times[1]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tower", action="append", choices=TOWERS)
    parser.add_argument("--no-latency", action="store_true")
    given = parser.parse_args()
    import_open_clip()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    print(f"{cpu_model()}, {datetime.date.today()}; torch {torch.__version__}\n")
    print("| tower | BatchNorm2d: trained, timm's, ours | in float64, at most | cosine in float32, at least | "
          + " | ".join(f"{name}, ours / timm's" for name in TIMED) + " |\n|---|---|---:|---:|" + "---:|" * len(TIMED))  # fmt: skip
    for name in given.tower or TOWERS:
        model = lively(name)
        size = 224 if "vit" in name and "fast" not in name else 256
        pixels = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
        folded, folding = reparameterize(model, lambda tower, x=pixels: tower(x.double()))  # type: ignore[misc]
        timms = timms_own(model)
        with torch.no_grad():
            cosine = float(torch.cosine_similarity(folded(pixels).double(), model(pixels).double()).min())
        cells = [f"{norms(model)}, {norms(timms)}, {norms(folded)}", f"{folding.difference:.1g}", f"{cosine:.7f}"]
        ours = copy.deepcopy(folded)
        rewrite_for_export(ours)
        for target in () if given.no_latency else TIMED:
            with tempfile.TemporaryDirectory() as scratch:
                found = ratios(ours, timms, pixels[:1].clone(), target, Path(scratch))
            cells.append(f"{median(found):.2f} ({min(found):.2f} to {max(found):.2f})")
        print(
            f"| {name} | " + " | ".join(cells) + " |" + "".join(f" left: {k} ({v})" for k, v in folding.left.items()),
            flush=True,
        )


if __name__ == "__main__":
    main()
