"""The interpreter of Core ML programs against an independent road in float64.

    python -m benchmarks.second_road [--model MobileCLIP2-S0 ...] [--precision fp32 ...] [--tower image --tower text]

The road: the deployable tower in torch, in float64, with every weight replaced by what the file's weights expand to by coremltools'
own decompression (`materialized_val_inference`), other constants rounded as the file stores them. It shares neither operations nor
expansions with `export.mil`. The interpreter runs the saved file twice: without rounding results to fp16, which must equal the road
to float32's rounding, and as it does for parity, which shows what fp16 costs. Weights are random and lively.
"""

import argparse
import copy
import datetime
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.lively_models import write
from distill.core.arrays import Array
from export.devices.host import cpu_model
from export.mil.program import MilProgram
from export.target import get_target
from export.targets.parts.kept import key_of
from export.towers.tower import deployable_towers
from students.student import load_student

# FastViT mci0 to mci4 and the convolutional-stem ViT-B of MobileCLIP, with text towers of both kinds: S0 sees all tokens, B is causal.
MODELS = ("MobileCLIP2-S0", "MobileCLIP-S1", "MobileCLIP2-S2", "MobileCLIP2-S3", "MobileCLIP2-S4", "MobileCLIP2-B")
PRECISIONS = ("fp32", "fp16", "w8", "p6", "p4")
MULTIPLYING = ("conv", "linear", "matmul", "gather")
SAMPLES = 4


def weights_of(program: MilProgram) -> dict[str, Array]:
    """Name of an operation -> its weight, compressed ones expanded by coremltools."""
    found = {}
    for op in program.operations:
        for name in ("weight", "y", "x") if op.op_type in MULTIPLYING else ():
            variable = op.inputs.get(name)
            source = getattr(variable, "op", None)
            if source is None:
                continue
            if source.op_type.startswith("constexpr"):
                found[op.name] = np.asarray(source.materialized_val_inference(), dtype=np.float64)
                break
            if source.op_type == "const" and np.asarray(variable.val).dtype.kind == "f":
                found[op.name] = np.asarray(variable.val, dtype=np.float64)
                break
    return found


def road(tower: nn.Module, plain: MilProgram, file: MilProgram, half: bool) -> tuple[nn.Module, int]:
    """The tower in float64 with the weights of `file`, and how many of those are its own.

    Args:
        plain: the same tower's program with its weights as they are, by whose numbers they are known.
        half: whether the file stores floats in fp16.
    """
    made: Any = copy.deepcopy(tower).double()
    state = {
        name: value for name, value in (*made.named_parameters(), *made.named_buffers()) if value.is_floating_point()
    }
    named = {key_of(value.numpy()): name for name, value in state.items()}
    expanded, replaced = weights_of(file), set()
    with torch.no_grad():
        for name, weight in weights_of(plain).items():
            owner = named.get(key_of(weight))
            if owner is None or name not in expanded:
                continue
            value, new = state[owner], torch.from_numpy(expanded[name])
            # As it stands or transposed, whichever the plain weight is.
            straight = weight.shape == tuple(value.shape) and np.allclose(weight, value.numpy(), rtol=2e-3, atol=1e-6)
            value.copy_((new if straight else new.T).reshape(value.shape))
            replaced.add(owner)
        for name, value in state.items():
            if name not in replaced and half:
                value.copy_(value.half())
        for op in file.operations:
            if op.op_type == "batch_norm":
                # coremltools makes one of a multiplication and an addition, with its usual epsilon beside a variance of 1: the file
                # scales by five millionths less than it was told to.
                owner = named.get(key_of(op.inputs["gamma"].val))
                if owner is not None:
                    state[owner] /= np.sqrt(
                        float(op.inputs["variance"].val.reshape(-1)[0]) + float(op.inputs["epsilon"].val)
                    )
    return made, len(replaced)


def compare(tower: nn.Module, kind: str, inputs: torch.Tensor, precision: str, folder: Path) -> dict[str, Any]:
    """One file. `kind`: "image" or "text"; `inputs`: [n, ...], pixels as multiples of 1/256, which fp16 holds."""
    program = torch.export.export(tower, (inputs[:1].clone(),))
    half = precision != "fp32"
    files = {}
    for name in dict.fromkeys((precision, "fp16" if half else "fp32")):
        target = get_target("coreml").at(name)
        files[name] = folder / f"{kind}-{name}{target.suffix}"
        if not files[name].exists():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                target.convert(program, kind, files[name])  # type: ignore[arg-type]
    file = MilProgram(files[precision])
    other, replaced = road(tower, MilProgram(files["fp16" if half else "fp32"]), file, half)
    with torch.no_grad():
        wanted = other(inputs.double() if inputs.is_floating_point() else inputs).numpy()
        eager = tower(inputs).double().numpy()
    exact, stored = (
        np.concatenate([file.run(row[None].numpy(), exact=how) for row in inputs]).astype(np.float64)
        for how in (True, False)
    )
    return {
        "weights": replaced,
        "of": len(weights_of(file)),
        "exact": float(np.abs(exact - wanted).max()),
        "rounded": _cosine(stored, wanted),
        "to eager": _cosine(stored, eager),
        "road to eager": _cosine(wanted, eager),
    }


def _cosine(a: Array, b: Array) -> float:
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


def inputs_of(student: Any) -> dict[str, torch.Tensor]:
    """Smooth pictures and captions."""
    coarse = torch.rand(SAMPLES, 3, 5, 5, generator=torch.Generator().manual_seed(3))
    size = (student.image_size, student.image_size)
    pictures = (torch.nn.functional.interpolate(coarse, size, mode="bilinear") * 256).round() / 256
    captions = ["a red circle on grass", "two blue squares", "", "many small stars over a house by the sea"]
    return {"image": pictures, "text": student.tokenize(captions).int()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append")
    parser.add_argument("--precision", action="append", choices=PRECISIONS)
    parser.add_argument("--tower", action="append", choices=("image", "text"))
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    print(f"{cpu_model()}, {datetime.date.today()}; torch {torch.__version__}\n")
    print("| model | tower | precision | weights replaced | interpreter without rounding - road, at most | smallest cosine: interpreter, road "
          "| interpreter, eager | road, eager |\n|---|---|---|---:|---:|---:|---:|---:|")  # fmt: skip
    for model in given.model or MODELS:
        with tempfile.TemporaryDirectory(prefix="distill-road-") as name:
            student = load_student(write(model, Path(name) / "model"))
            inputs = inputs_of(student)
            towers = dict(zip(("image", "text"), deployable_towers(student), strict=True))
            del student
            for kind in given.tower or ("image", "text"):
                for precision in given.precision or PRECISIONS:
                    row = compare(towers[kind], kind, inputs[kind], precision, Path(name))
                    print(f"| {model} | {kind} | {precision} | {row['weights']} of {row['of']} | {row['exact']:.1e} | {row['rounded']:.7f} "
                          f"| {row['to eager']:.6f} | {row['road to eager']:.6f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
