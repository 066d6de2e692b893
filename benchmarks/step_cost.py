"""What a training step costs: from the store, as plain CLIP, with a live teacher; and where its time goes.

    python -m benchmarks.step_cost [--student mci0] [--teacher open_clip:ViT-L-14/openai] [--batch 4] [--rounds 40] [--live-rounds 4] [--workers 1]
        [--smoke]

Three arms take turns step by step in one process, on the same JPEGs (smooth noise, 500 x 375) with one caption an image: "plain" (InfoNCE,
no teacher, views drawn as they are read), "store" (affinity to two teachers of width 768 whose embeddings are read) and "live" (affinity to
one teacher, with random weights, that runs on every view and caption; in the first rounds alone, since it takes most of the time).
Printed: the ratios of their times, median, quartiles and range. Then the
training loop itself takes `--steps` steps from the store, and its time is split: forward, backward, clipping and AdamW, waiting for data,
and the rest, which is the host's own. `--smoke` proves the script in seconds with the smallest models; its figures mean nothing.
"""

import argparse
import datetime
import io
import json
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from distill.core.clip.channels_last import channels_last
from distill.learning.fit import fit
from distill.learning.loop.feed import pair_arguments
from distill.learning.objective import Objective
from distill.learning.settings import CheckpointSettings, OptimSettings
from distill.learning.task import DistillTask
from reinforced_data.labelling.reinforce import reinforce
from reinforced_data.labelling.settings import ReinforceSettings
from reinforced_data.sample import Caption, RawSample
from reinforced_data.training.caption_policy import CaptionPolicy
from reinforced_data.training.loader import batches
from reinforced_data.training.pairs import RawPairs, StoredPairs
from students.spec import STUDENTS
from students.student import Student, build_student
from teachers.load import load_teacher
from teachers.spec import TeacherFacts
from tests.reinforced_data.stubs import ListSource, StubTeacher

CPU = torch.device("cpu")


def photos(count: int) -> ListSource:
    """JPEGs of smooth noise, each with a caption of a dozen words."""
    rng, samples = np.random.default_rng(0), []
    for number in range(count):
        small = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        words = f"a photo with the number {number} of a field of colours that nobody has ever seen"
        samples.append(RawSample(f"p{number}", stream.getvalue(), (Caption(words),)))
    return ListSource(samples)


class Timed(DistillTask):
    """A task that notes how long its step's parts take; `fit` calls these methods in this order."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.spent: Counter[str] = Counter()
        self._at = 0.0

    def _until_now(self, part: str) -> None:
        now = time.perf_counter()
        self.spent[part] += now - self._at  # type: ignore[assignment]
        self._at = now

    def before_step(self, step: int) -> None:
        if self._at:
            self._until_now("rest")
        self._at = time.perf_counter()
        super().before_step(step)

    def forward(self, *given: Any) -> dict[str, Tensor]:
        self._until_now("rest")
        losses = super().forward(*given)
        self._until_now("forward")
        return losses

    def drop_gradients(self) -> None:
        self._until_now("backward")
        super().drop_gradients()

    def after_step(self) -> None:
        if self.__dict__.get("_at"):
            self._until_now("clipping and AdamW")
        super().after_step()


class Arm:
    """One way to train: its task, its batches, and what makes teacher embeddings of a batch where no store does."""

    def __init__(
        self, student: Student, objective: str, facts: dict[str, TeacherFacts], source: Iterator[Any], live: Any = None
    ):
        self.task = DistillTask(student, Objective(objective, int(student.spec.model_cfg["embed_dim"]), facts), facts)
        self.optimizer = torch.optim.AdamW([p for p in self.task.parameters() if p.requires_grad], lr=1e-4)
        self.source, self.live, self.facts = source, live, facts
        self.arguments = pair_arguments(student.tokenize)
        self.task.train()

    def step(self) -> float:
        """Seconds of one step, the wait for its batch included."""
        began = time.perf_counter()
        batch = next(self.source)
        images, tokens, _, _, *rest = inputs = self.arguments(batch, CPU)
        if self.live is not None:
            name = next(iter(self.facts))
            with torch.no_grad():
                seen = {name: self.live.encode_image(images)}, {name: self.live.encode_text(batch.texts)}
            inputs = (images, tokens, *seen, *rest)
        loss = self.task(*inputs)["loss"]
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return time.perf_counter() - began


def arms(given: argparse.Namespace, stored: StoredPairs, raw: RawPairs, student: Any) -> dict[str, Arm]:
    """The three arms, by name."""
    live: Any = (
        StubTeacher("live", image_size=stored.image_size)
        if given.smoke
        else load_teacher(given.teacher, random_weights=True)
    )
    facts = TeacherFacts("live", live.spec.width, 100.0, 0.0, "softmax")

    def source(pairs: Any, model: Student) -> Iterator[Any]:
        return batches(
            pairs, batch_size=given.batch, seed=0, first_step=0, last_step=10_000, workers=given.workers,
            tokenize=model.remembered_tokens(),
        )  # fmt: skip

    models = [student() for _ in range(3)]
    return {
        "plain": Arm(models[0], "clip", {}, source(raw, models[0])),
        "store": Arm(models[1], "mobileclip", stored.teacher_facts, source(stored, models[1])),
        "live": Arm(models[2], "mobileclip", {"live": facts}, source(raw, models[2]), live),
    }


def ratios(named: dict[str, Arm], rounds: int, live_rounds: int) -> dict[str, list[float]]:
    """Of each arm's time to that of the arm after the colon, a figure a round; the first steps are not counted."""
    found: dict[str, list[float]] = {"store : plain": [], "live : store": []}
    for number in range(rounds + 1):
        taking_part = [name for name in named if name != "live" or number <= live_rounds]
        order = taking_part if number % 2 else taking_part[::-1]
        seconds = {name: named[name].step() for name in order}
        for pair in found if number else ():
            one, other = pair.split(" : ")
            if one in seconds:
                found[pair].append(seconds[one] / seconds[other])
    return found


def spread(values: list[float]) -> str:
    """Median, quartiles and range in a line."""
    middle, low, high = np.percentile(values, (50, 25, 75))
    return f"{middle:.2f} (quartiles {low:.2f} to {high:.2f}, all {min(values):.2f} to {max(values):.2f}, n = {len(values)})"


def shares(given: argparse.Namespace, stored: StoredPairs, student: Student, out: Path) -> dict[str, float]:
    """Of the loop's time from the store: the share of each part, waiting for data apart from the rest."""
    facts = stored.teacher_facts
    task = Timed(student, Objective("mobileclip", int(student.spec.model_cfg["embed_dim"]), facts), facts)

    def source(first: int, last: int) -> Iterator[Any]:
        return batches(
            stored, batch_size=given.batch, seed=0, first_step=first, last_step=last, workers=given.workers,
            tokenize=student.remembered_tokens(),
        )  # fmt: skip

    out.mkdir(parents=True)
    optim = OptimSettings(steps=given.steps, device="cpu", log_every=max(2, given.steps // 2), lr=1e-4)
    checkpointing = CheckpointSettings(checkpoint_every=10**6)
    metrics, began = out / "metrics.jsonl", time.perf_counter()

    def forget_the_start(done: int, _: int, note: str) -> None:
        """The first half has the start of workers in it."""
        nonlocal began
        if done < given.steps:
            task.spent.clear()
            began = time.perf_counter()

    fit(
        task, source, pair_arguments(student.tokenize), out / "checkpoints", metrics, optim=optim,
        checkpointing=checkpointing, seed=0, progress=forget_the_start,
    )  # fmt: skip
    whole = sum(task.spent.values())
    waited = json.loads(metrics.read_text().splitlines()[-1])["data_wait_share"]
    found = {name: seconds / whole for name, seconds in task.spent.items()}
    return {**found, "rest": max(0.0, found.get("rest", 0.0) - waited), "waiting for data": waited}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="mci0")
    parser.add_argument("--teacher", default="open_clip:ViT-L-14/openai")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--live-rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--smoke", action="store_true")
    given = parser.parse_args(words)
    if given.smoke:
        given.student, given.rounds, given.steps, given.workers = "nano", 1, 4, 0
    spec = STUDENTS.get(given.student)
    print(
        f"{datetime.date.today()}, {platform.machine()}, torch {torch.__version__}, {given.student}, batch {given.batch}"
    )
    with tempfile.TemporaryDirectory() as folder:
        source = photos(8 if given.smoke else 64)
        teachers: Any = [StubTeacher(name, width=768, image_size=16, seed=seed) for seed, name in enumerate("ab")]
        settings = ReinforceSettings(view_preset="light", shard_size=64, batch_size=64)
        reinforce(source, teachers, Path(folder) / "set", settings)
        policy = CaptionPolicy("any", {}, False)
        stored = StoredPairs(Path(folder) / "set", spec.image_size, policy, "exact")
        raw = RawPairs(source, "light", spec.image_size, policy)
        taken = arms(given, stored, raw, lambda: build_student(spec, 0))
        for name, values in ratios(taken, given.rounds, given.live_rounds).items():
            print(f"{name}: {spread(values)}", flush=True)
        student = build_student(spec, 0)
        with channels_last(student.clip.visual):
            for name, share in shares(given, stored, student, Path(folder) / "run").items():
                print(f"{name}: {share:.1%}")


if __name__ == "__main__":
    main()
