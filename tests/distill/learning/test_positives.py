"""Pairs with the same caption or the same image are positives of each other, not false negatives."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from distill.learning.embeddings import embeddings, row_ids
from distill.learning.loss import LOSSES
from distill.learning.objective import Objective
from distill.learning.task import DistillTask
from teachers.spec import TeacherFacts
from tests.distill.learning.test_losses import TwoLinear, facts, unit

D = 6


def brute_force(rows, columns, scale, positives):
    """Mean over rows of KL(uniform over the row's positives || softmax), in Python floats."""
    total = 0.0
    for i, row in enumerate(rows.tolist()):
        logits = [scale * sum(a * b for a, b in zip(row, column, strict=True)) for column in columns.tolist()]
        norm = math.log(sum(math.exp(x) for x in logits))
        right = [j for j in range(len(logits)) if positives[i][j]]
        total += sum((1 / len(right)) * (math.log(1 / len(right)) - (logits[j] - norm)) for j in right)
    return total / len(rows)


@pytest.mark.parametrize("name", ["contrastive", "interactive"])
def test_several_positives_are_the_double_loop(name):
    captions, images = [0, 1, 0, 2, 3, 1], [0, 1, 2, 3, 3, 5]
    positives = [[captions[i] == captions[j] or images[i] == images[j] for j in range(6)] for i in range(6)]
    image, text, u, v = (unit(6, D, seed=seed) for seed in range(4))
    scale = torch.tensor(5.0, dtype=torch.float64)
    student = replace(embeddings(image, text, scale), positives=torch.tensor(positives))
    teacher = embeddings(u, v, torch.tensor(9.0, dtype=torch.float64))
    loss = LOSSES.get(name)(D, facts()).double()
    if name == "contrastive":
        expected = (brute_force(image, text, 5.0, positives) + brute_force(text, image, 5.0, positives)) / 2
    else:
        kept = loss.scale()
        expected = (brute_force(image, v, kept, positives) + brute_force(text, u, kept, positives)) / 2
    assert loss(student, {"t": teacher}).item() == pytest.approx(expected, rel=1e-6)


def test_a_perfect_copy_on_class_folders_scores_nothing():
    """256 images of 10 classes, captioned by class, the student equal to a teacher that separates them perfectly.

    Taking each repeated caption for a wrong answer gave log(256 / 10) = 3.24 here.
    """
    torch.manual_seed(0)
    classes, width = 10, 64
    label = torch.randint(0, classes, (256,))
    e = F.normalize(torch.randn(classes, width), dim=-1)[label]
    same = label[:, None] == label[None]
    scale = torch.tensor(100.0)
    teacher = embeddings(e, e, scale)
    student = replace(embeddings(e.clone().requires_grad_(), e, scale), positives=same)
    known = {"t": TeacherFacts("t", width, 100.0, 0.0, "softmax")}
    interactive = LOSSES.get("interactive")(width, known)
    with torch.no_grad():
        interactive.log_scale.fill_(math.log(100))
    assert interactive(student, {"t": teacher}).item() == pytest.approx(0, abs=1e-3)
    assert LOSSES.get("contrastive")(width, {})(student, {}).item() == pytest.approx(0, abs=1e-3)
    wrong = LOSSES.get("contrastive")(width, {})(replace(student, positives=None), {}).item()
    assert wrong == pytest.approx(math.log(256 / 10), abs=0.15)


def test_the_task_finds_repeats_by_caption_and_by_image():
    seen = {}

    class Spy(Objective):
        def forward(self, student, teacher_embeds, weights=None):
            seen["positives"] = student.positives
            return super().forward(student, teacher_embeds, weights)

    task = DistillTask(TwoLinear(), Spy("clip", D, {}), {})
    texts = torch.randn(4, 4)
    texts[2] = texts[0]
    task(torch.randn(4, 3), texts, {}, {}, None, torch.tensor([7, 8, 9, 8]))
    expected = torch.eye(4, dtype=torch.bool)
    for i, j in ((0, 2), (1, 3)):
        expected[i, j] = expected[j, i] = True
    assert torch.equal(seen["positives"][:], expected)


def test_row_ids_are_equal_for_equal_rows_alone():
    tokens = torch.randint(0, 49408, (400, 77), generator=torch.Generator().manual_seed(1))
    again = torch.cat([tokens, tokens[:50]])
    ids = row_ids(again)
    assert torch.equal(ids[:50], ids[400:])
    assert len(set(ids.tolist())) == 400
    near = tokens[:1].repeat(77, 1) + torch.eye(77, dtype=torch.long)  # differ in one token each
    assert len(set(row_ids(near).tolist())) == 77
    features = torch.randn(9, 5)
    assert len(set(row_ids(torch.cat([features, features])).tolist())) == 9
