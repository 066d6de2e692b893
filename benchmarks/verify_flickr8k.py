"""Cosine of stored against live embeddings on Flickr8k photos, worst case over all views and captions, per stored type.

    python benchmarks/verify_flickr8k.py --photos 100 --views 4 --dtypes fp32 bf16 fp16 int8 --out OUT

Teachers: two open_clip models at their real size with random weights (no published weights are on this machine), of
different input size, normalisation and kind, and the trained embedded teacher `rendered`. The set is labelled once per
type by the same forwards: a memo keeps what a teacher said of a batch, since the types differ only in how it is stored.
The live pass is another one, with batches cut elsewhere, so that fp32 is not compared with itself; it is shared between
types in the same way. Not measured here: published weights, other devices, half-precision forwards.
"""

import argparse
import datetime
import hashlib
import json
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill.core.atomic import write_json
from distill.core.existing import Existing
from reinforced_data.labelling.reinforce import reinforce
from reinforced_data.labelling.settings import ReinforceSettings
from reinforced_data.labelling.verify import verify
from reinforced_data.source import open_source
from teachers.load import load_teacher

TEACHERS = ("open_clip:ViT-B-16/openai", "open_clip:ViT-B-16-SigLIP-256/webli", "rendered")
PHOTOS = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "flickr8k"


class Memo:
    """A teacher that is asked once per distinct batch; `forwards` counts the real ones."""

    def __init__(self, teacher: Any) -> None:
        self.teacher, self.spec = teacher, teacher.spec
        self.logit_scale, self.logit_bias = teacher.logit_scale, teacher.logit_bias
        self.weights_sha256, self.describe, self.device = teacher.weights_sha256, teacher.describe, teacher.device
        self.kept: dict[str, Any] = {}
        self.forwards = 0

    def _once(self, key: str, ask: Any) -> Any:
        if key not in self.kept:
            self.kept[key] = ask()
            self.forwards += 1
        return self.kept[key]

    def encode_image(self, pixels: Any) -> Any:
        """As `Teacher.encode_image`."""
        key = hashlib.sha256(pixels.numpy().tobytes()).hexdigest() + str(tuple(pixels.shape))
        return self._once(key, lambda: self.teacher.encode_image(pixels))

    def encode_text(self, captions: list[str]) -> Any:
        """As `Teacher.encode_text`."""
        return self._once(json.dumps(captions), lambda: self.teacher.encode_text(captions))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=100)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16", "fp16", "int8"])
    parser.add_argument("--teachers", nargs="+", default=list(TEACHERS))
    parser.add_argument("--data", default=str(PHOTOS))
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    teachers = [load_teacher(name, random_weights=name != "rendered") for name in given.teachers]
    source = open_source(given.data, "train", given.photos)
    writing, live = [Memo(teacher) for teacher in teachers], [Memo(teacher) for teacher in teachers]
    rows = []
    for dtype in given.dtypes:
        started = time.perf_counter()
        folder = given.out / dtype
        # 25 photos a shard and 16 views a forward: the live pass, which knows no shards, cuts its batches elsewhere.
        settings = ReinforceSettings(
            views_per_image=given.views, view_preset="mobileclip", embed_dtype=dtype, shard_size=25, batch_size=16
        )
        existing = Existing.OVERWRITE if folder.exists() else Existing.REFUSE
        reinforce(source, writing, folder, settings, existing=existing)
        report = verify(folder, live, "all")
        for name, figures in report["teachers"].items():
            numbers = {key: value for key, value in figures.items() if key != "same_weights"}
            rows.append(
                {"dtype": dtype, "teacher": name, "gate": report["gate"], "passed": report["passed"], **numbers}
            )
            print(
                f"{dtype} {name}: views min {figures['image_min']:.8f} mean {figures['image_mean']:.8f}, captions min "
                f"{figures['text_min']:.8f} mean {figures['text_mean']:.8f} (gate {report['gate']}, "
                f"{report['views']} views, {report['captions']} captions, {time.perf_counter() - started:.0f} s)",
                flush=True,
            )
    facts = [replace(teacher.spec).__dict__ for teacher in teachers]
    write_json(
        given.out / "verify.json",
        {
            "date": str(datetime.date.today()), "machine": platform.platform(), "photos": given.photos,
            "views_per_image": given.views, "teachers": facts, "forwards": {m.spec.name: m.forwards for m in live},
            "rows": rows,
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
