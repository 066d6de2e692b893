"""Every target and precision on models of published shapes: exports or the exact reason, size, delegated share, parity, seconds.

    python benchmarks/export_table.py --out tables --model mci0 --model tinyclip-vit8m16 --target coreml-fp16 --target onnx-w8
    python benchmarks/export_table.py --out tables --run runs/default

Cells that are in the out folder's table already are not made again, so that the table can grow over several evenings. Models have
random but lively weights (benchmarks/lively_models.py); --run adds the trained student of a run. Parity is measured on a few real images
and captions of the embedded set. Prints the table in markdown, with machine and date.
"""

import argparse
import datetime
import json
import platform
import time
from pathlib import Path
from typing import Any

from benchmarks.lively_models import write
from distill.core.errors import DistillError, UsageError
from distill.reporting.terminal import cell
from export.artifacts.folder import FAILED_PARITY, read_artifacts
from export.target import TARGETS, get_target

MODELS = ("mci0", "mci2", "tinyclip-vit8m16", "ViT-B-16", "ViT-B-16-SigLIP", "bert")
SAMPLES = 8


def cell_of(model: Path, name: str, target: str, out: Path) -> list[dict[str, Any]]:
    """A row per tower of one target on one model; one row with the reason where it fails."""
    import distill

    folder, started = out / "exports" / name, time.monotonic()
    told = ""
    try:
        settings = [f"export.parity_samples={SAMPLES}", f"export.calibration_samples={2 * SAMPLES}"]
        distill.export(
            model, target=target, out=None if (model / "resolved.json").exists() else folder, settings=settings
        )
    except DistillError as error:
        told = " ".join(str(error).split())
    export = (model if (model / "resolved.json").exists() else folder) / "export"
    place = export / get_target(target).folder
    if told and not (place := place.with_name(place.name + FAILED_PARITY)).is_dir():
        return [
            {
                "model": name,
                "target": target,
                "tower": "both",
                "result": told[:300],
                "total_s": time.monotonic() - started,
            }
        ]
    rows = []
    for artifact in read_artifacts(place):
        parity, made = artifact.parity, artifact.operations
        rows.append(
            {
                "model": name, "target": target, "tower": artifact.tower, "result": "below the bar" if told else "exported",
                "MB": artifact.size_bytes / 1e6,
                "delegated": None if made.delegated is None else made.delegated / max(1, sum(made.counts.values())),
                "pieces": made.subgraphs, "left": made.left, "cosine_min": parity.cosine_min,
                "centred_mean": parity.centred_cosine_mean, "snr_db": parity.snr_db, "checked_by": parity.checked_by,
                "samples": parity.samples, "convert_s": artifact.seconds, "total_s": time.monotonic() - started,
            }
        )  # fmt: skip
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """The table in markdown."""
    print(f"\n{platform.platform()}, {datetime.date.today()}, {SAMPLES} images and captions\n")
    columns = {"MB": 1, "delegated": 2, "pieces": 0, "cosine_min": 6, "centred_mean": 4, "snr_db": 1, "convert_s": 0}
    print("| model | target | tower | result | " + " | ".join(columns) + " |\n|" + "---|" * (4 + len(columns)))
    for row in sorted(rows, key=lambda row: (row["model"], row["target"], row["tower"])):
        figures = [cell(None) if row.get(key) is None else f"{row[key]:.{digits}f}" for key, digits in columns.items()]
        print("| " + " | ".join([row["model"], row["target"], row["tower"], row["result"], *figures]) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", action="append", help=f"of {', '.join(MODELS)}, or any architecture of open_clip")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--target", action="append", help="none = every precision of every target")
    given = parser.parse_args()
    table = given.out / "table.jsonl"
    given.out.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in table.read_text().splitlines()] if table.exists() else []
    every = [f"{name}-{precision}" for name, target in TARGETS.items() for precision in target.precisions]
    targets = [get_target(name).folder for name in given.target or every]
    models = {name: given.out / "models" / name for name in given.model or (() if given.run else MODELS)}
    for name, folder in models.items():
        if not folder.is_dir():
            write(name, folder)
    if given.run:
        models["trained"] = given.run
    for target in targets:
        for name, folder in models.items():
            if any((row["model"], row["target"]) == (name, target) for row in rows):
                continue
            try:
                made = cell_of(folder, name, target, given.out)
            except UsageError as error:
                raise SystemExit(str(error)) from None
            rows += made
            with open(table, "a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in made)
    show(rows)


if __name__ == "__main__":
    main()
