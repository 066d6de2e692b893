"""A batch fits the device: what a step keeps of a pair is counted, and agrees with what was measured by a real step."""

import math
import time

import pytest
import torch

from distill.recipe import load_recipe
from distill.stages import budget
from distill.stages.training.memory import kept_mb, pairs_that_fit
from students.spec import STUDENTS
from students.student import build_student


def test_the_count_is_what_a_real_step_keeps():
    """The same hooks on a CPU, where every tensor has its numbers and an address of its own."""
    spec = STUDENTS.get("nano")
    student = build_student(spec, 0).train()
    own = {parameter.data_ptr() for parameter in student.parameters()}

    def kept(pairs):
        memories = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: memories.setdefault(t.untyped_storage().data_ptr(), t) is None or t, lambda t: t
        ):
            outputs = [student.clip.encode_image(torch.rand(pairs, 3, student.image_size, student.image_size))]
            outputs.append(student.clip.encode_text(student.tokenize(["a photo"] * pairs)))
        return sum(t.untyped_storage().nbytes() for place, t in memories.items() if place not in own)

    measured = (kept(8) - kept(4)) / 4 / 1e6
    assert kept_mb(spec) == pytest.approx(measured, rel=1e-3)


def test_the_count_is_near_what_was_measured_under_bf16():
    spec = STUDENTS.get("vit-b-16")
    began = time.process_time()
    assert kept_mb(spec) == pytest.approx(2 * spec.activation_mb, rel=0.15)
    assert time.process_time() - began < 20  # a step of this size in numbers takes gigabytes


@pytest.mark.parametrize(
    ("memory", "bf16", "sets", "pairs"),
    [
        (math.inf, False, [], 256),
        (1.0, False, [], 256),  # 1.6 MB a pair
        (0.5, False, [], 128),
        (0.5, True, [], 256),
        (0.1, False, [], 32),
        (0.1, False, ["train.accumulate=4"], 128),
        (0.1, False, ["train.chunk=8"], 256),
        (0.1, False, ["train.recompute=true"], 256),
        (0.0, False, [], 2),
    ],
)
def test_a_batch_is_halved_until_it_fits(memory, bf16, sets, pairs):
    found, why = pairs_that_fit(load_recipe(None, ["student.name=nano", *sets]), 256, memory, bf16=bf16)
    assert found == pairs
    assert why == (
        "" if pairs == 256 else f"halved to {pairs}: {memory:.0f} GB of memory hold no more at 0.00 GB a pair, counted"
    )


def test_a_student_without_a_published_training_gets_a_batch_that_fits():
    recipe = load_recipe(None, ["student.name=nano"])
    told, reasons = budget.fitted(recipe, 100_000, 2, 0.1)
    assert told.train.batch_size == 64
    assert "halved to 32: 0 GB of memory hold no more at 0.00 GB a pair, counted" in reasons["train.batch_size"]
    said, reasons = budget.fitted(load_recipe(None, ["student.name=nano", "train.batch_size=512"]), 100_000, 2, 0.1)
    assert said.train.batch_size == 512
    assert "train.batch_size" not in reasons
