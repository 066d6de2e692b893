"""Retrieval of a run's evaluation data through the exported files, beside the eager student's.

    python benchmarks/exported_retrieval.py runs/flickr8k --target executorch-xnnpack [--target onnx]

Every evaluation image and caption goes through the exported towers, one call each, as an app would. Each target runs in a process of its own
(started by this script), since runtimes mixed in one process have crashed. Prints R@1 both ways, the difference in points, machine and date.
"""

import argparse
import datetime
import json
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np


def exported(run: Path, target_name: str) -> dict:
    from distill.evaluation.evalset import pixels
    from distill.evaluation.metrics import retrieval
    from distill.run_folder import RunFolder
    from distill.stages.evaluate import open_evalset
    from export.target import get_target
    from students.student import load_student

    target = get_target(target_name)
    data, student = open_evalset(RunFolder(run).read_recipe()), load_student(run / "student")
    texts = [caption.text for sample in data.samples for caption in sample.captions]
    owner = np.repeat(np.arange(len(data.samples)), [len(sample.captions) for sample in data.samples])
    folder = run / "export" / target.folder
    towers = {tower: target.load(folder / f"{tower}{target.suffix}") for tower in ("image", "text")}
    images = pixels([(sample.key, sample.image) for sample in data.samples], student.image_size)
    tokens = student.tokenize(texts).numpy().astype(np.int32)
    image = np.concatenate([np.asarray(towers["image"](row[None])) for row in images])
    text = np.concatenate([np.asarray(towers["text"](row[None])) for row in tokens])
    return retrieval(image, text, owner)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--target", action="append")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(exported(given.run, given.one)))
        return
    eager = json.loads((given.run / "eval" / "student.json").read_text())["retrieval"]
    print(f"{platform.platform()}, {datetime.date.today()}; {eager['images']} images, {eager['captions']} captions")
    print(f"eager: T2I R@1 {eager['t2i_r1']:.2f}, I2T R@1 {eager['i2t_r1']:.2f}")
    for name in given.target or ["executorch-xnnpack"]:
        call = [sys.executable, __file__, str(given.run), "--one", name]
        result = json.loads(subprocess.run(call, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        differences = [result[key] - eager[key] for key in ("t2i_r1", "i2t_r1")]
        print(
            f"{name}: T2I R@1 {result['t2i_r1']:.2f} ({differences[0]:+.2f} points), I2T R@1 {result['i2t_r1']:.2f} ({differences[1]:+.2f} points)"
        )


if __name__ == "__main__":
    main()
