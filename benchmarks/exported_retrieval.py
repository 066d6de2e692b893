"""What `distill eval` says of a run's exported files, beside what it says of the run: R@1 both ways and zero-shot top-1.

    python benchmarks/exported_retrieval.py runs/default [--target litert-fp16] [--precision auto] [--data FOLDER] [--all-int8]

Judges what lies exported in the run; with --target those targets, which are exported first where they are not there. Every image and
caption goes through the exported towers in their own runtime, one call each, as an app would. The difference to eager is in points, with
a paired 95 % bootstrap interval over images. --all-int8 adds a row of what we do NOT export: the student as ExecuTorch's XNNPACK
quantizer makes it when left to itself, sums, products and norms in int8 too, which wrecks a ViT.
"""

import argparse
import datetime
import platform
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from distill.evaluation import evalset, metrics
from distill.reporting.terminal import cell
from export.artifacts.folder import read_artifacts
from export.devices.host import cpu_model
from export.towers.parity import compare

FIGURES = ("t2i_r1", "i2t_r1", "top1")
CALIBRATION = 64


class Hits(dict[str, tuple[Any, Any]]):
    """Figure -> (hits of 0 or 1, what each belongs to), noted while `distill.evaluation` works out its figures."""

    def retrieval(self, image: Any, text: Any, owner: Any, caption: Any = None) -> dict[str, Any]:
        by_text, by_image = metrics.retrieval_ranks(image, text, owner, caption)
        self["t2i_r1"], self["i2t_r1"] = (by_text < 1, owner), (by_image < 1, np.arange(len(image)))
        return metrics.retrieval(image, text, owner, caption)

    def zero_shot(self, image: Any, class_text: Any, labels: Any) -> dict[str, Any]:
        self["top1"] = metrics.zero_shot_ranks(image, class_text, labels) < 1, np.arange(len(image))
        return metrics.zero_shot(image, class_text, labels)

    def noted(self) -> Any:
        return mock.patch.multiple(evalset, retrieval=self.retrieval, zero_shot=self.zero_shot)


def judged(model: Path, data: str | None) -> tuple[dict[str, float], Hits]:
    """The figures that the verb gives, and the hits behind them."""
    import distill

    hits = Hits()
    with hits.noted():
        result = distill.eval(model, data=data)
    tables = (result.retrieval or {}) | (result.zero_shot or {})
    return {name: tables[name] for name in FIGURES if name in tables}, hits


def row(
    name: str, mb: float | None, figures: dict[str, float], hits: Hits, eager: tuple[dict[str, float], Hits]
) -> str:
    cells = []
    for key in FIGURES:
        if key not in figures:
            cells.append(cell(None))
            continue
        told = f"{figures[key]:.2f}"
        if hits is not eager[1]:
            low, high = metrics.interval(hits[key][0].astype(float) - eager[1][key][0], hits[key][1])
            told += f" ({figures[key] - eager[0][key]:+.2f}; {low:+.2f} to {high:+.2f})"
        cells.append(told)
    return f"| {name} | {cell(None) if mb is None else f'{mb:.2f}'} | " + " | ".join(cells) + " |"


def all_int8(run: Path, data: str | None) -> tuple[dict[str, float], Hits, str]:
    """The student as the quantizer makes it when it is left to itself, in torch; and what the parity gate would say of it."""
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    from distill.console import Console
    from distill.run_folder import RunFolder
    from distill.stages.evaluate import open_evalset
    from distill.stages.exporting.samples import calibration_samples
    from distill.verbs.flags import recipe_of
    from export.targets.parts.pt2e import quantized
    from export.towers.tower import deployable_towers
    from students.student import load_student

    folder = RunFolder(run)
    recipe, student = folder.read_recipe(), load_student(folder.student)
    samples = calibration_samples(recipe, CALIBRATION, Console())
    pixels = evalset.pixels(samples.images, student.image_size, student.spec.resize_mode, student.spec.interpolation)
    tokens = student.tokenize(samples.captions).numpy().astype(np.int32)
    towers: dict[str, Any] = {}
    for tower, module, inputs in zip(("image", "text"), deployable_towers(student), (pixels, tokens), strict=True):
        quantizer = XNNPACKQuantizer()
        quantizer.set_global(get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False))
        program = torch.export.export(module, (torch.from_numpy(inputs[:1]),))
        towers[tower] = quantized(program, quantizer, inputs).module()

    def run_tower(tower: str, inputs: Any) -> Any:
        with torch.inference_mode():
            return np.concatenate([towers[tower](torch.from_numpy(item[None])).numpy() for item in inputs])

    eager = evalset.student_embedder(student, "eager")
    model = evalset.Embedder(
        "all-int8",
        student.image_size,
        lambda batch: run_tower("image", batch),
        lambda captions: run_tower("text", student.tokenize(captions).numpy().astype(np.int32)),
        resize_mode=student.spec.resize_mode,
        interpolation=student.spec.interpolation,
    )
    hits = Hits()
    with hits.noted():
        job = recipe_of(recipe, (), data=recipe.data if data else None, eval_data=data)
        result = evalset.evaluate_model(model, open_evalset(job), job.eval.batch_size)
    tables = (result["retrieval"] or {}) | (result["zero_shot"] or {})
    shown, bars = [], recipe.export
    images, texts = eager.images(pixels), eager.texts(samples.captions)
    for tower, mine, own, other in (("image", pixels, images, texts), ("text", tokens, texts, images)):
        parity = compare(run_tower(tower, mine), own, other, "torch")
        assert parity.cosine_min is not None
        assert parity.centred_cosine_mean is not None
        passes = parity.cosine_min >= bars.min_cosine_quantized
        passes &= parity.centred_cosine_mean >= bars.min_centred_cosine_quantized
        verdict = "passes the parity gate" if passes else "refused by the parity gate"
        shown.append(
            f"{tower}: cosine min {parity.cosine_min:.4f}, mean-centred {parity.centred_cosine_mean:.3f}, {verdict}"
        )
    return {name: tables[name] for name in FIGURES if name in tables}, hits, "; ".join(shown)


def asked_as(folder: Path) -> set[str]:
    """The names that lead to an exported folder: its own, and "<target>-auto" where that chose it."""
    first = read_artifacts(folder)[0]
    by_auto = first.provenance.get("precision", {}).get("by") == "auto"
    return {folder.name, f"{first.target}-auto"} if by_auto else {folder.name}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--target", action="append", default=[])
    parser.add_argument(
        "--precision", action="append", default=[], help='of targets that name none; "auto" is chosen by measuring'
    )
    parser.add_argument("--data", help="other data than the run's own evaluation part")
    parser.add_argument("--all-int8", action="store_true")
    given = parser.parse_args()
    import distill
    from distill.run_folder import RunFolder
    from export.target import chosen_targets

    run = RunFolder(given.run)
    if given.target:
        distill.export(given.run, target=given.target, precision=given.precision)
    wanted = {target.folder for target in chosen_targets(given.target, given.precision)}
    folders = [folder for folder in run.exported() if not wanted or asked_as(folder) & wanted]
    eager = judged(given.run, given.data)
    rows = [row("eager", None, *eager, eager)]
    for folder in folders:
        artifacts = read_artifacts(folder)
        chosen = " (auto)" if len(asked_as(folder)) > 1 else ""
        mb = sum(artifact.size_bytes for artifact in artifacts) / 1e6
        rows.append(row(folder.name + chosen, mb, *judged(folder, given.data), eager))
    note = ""
    if given.all_int8:
        figures, hits, note = all_int8(given.run, given.data)
        rows.append(row("NOT exported: all-int8, quantizer left to itself", None, figures, hits, eager))
    print(
        f"\n{cpu_model()}, {platform.platform()}, {datetime.date.today()}; difference to eager in points with its paired 95 % interval\n"
    )
    print("| model | MB | T2I R@1 | I2T R@1 | zero-shot top-1 |\n|---|---:|---:|---:|---:|")
    print("\n".join(rows))
    if note:
        print(f"\nAll-int8 on {CALIBRATION} training samples, those it learned from: {note}.")


if __name__ == "__main__":
    main()
