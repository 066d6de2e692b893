"""Losses on texts of no image, against a computation by hand in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill.learning.objective import Objective
from distill.learning.task import DistillTask
from teachers.spec import TeacherFacts

B, D = 5, 8
FACTS = {"t": TeacherFacts("t", D, 20.0, 0.0, "softmax")}


def unit(seed: int, rows: int = B) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(rows, D, generator=rng, dtype=torch.float64), dim=1).float()


class Given(nn.Module):
    """Both towers hand through what they get."""

    def __init__(self) -> None:
        super().__init__()
        self.log_logit_scale = nn.Parameter(torch.tensor(20.0).log())
        self.read = 0

    @property
    def logit_scale(self) -> Tensor:
        return self.log_logit_scale.exp()

    def encode_image(self, images: Tensor) -> Tensor:
        return images

    def encode_text(self, texts: Tensor) -> Tensor:
        self.read = len(texts)
        return texts


def task(objective: Any, weight: float = 1.0) -> DistillTask:
    facts = {} if objective == "clip" else FACTS
    return DistillTask(Given(), Objective(objective, D, facts), facts, texts_weight=weight)


def losses(which: DistillTask, free: Tensor | None, said: Tensor | None) -> dict[str, Tensor]:
    image, text, image_t, text_t = (unit(seed) for seed in range(4))
    if free is None or said is None:
        return which(image, text, {"t": image_t}, {"t": text_t})
    return which(image, torch.cat([text, free]), {"t": image_t}, {"t": torch.cat([text_t, said])}, unpaired=B)


def by_hand(image: Tensor, text: Tensor, image_t: Tensor, text_t: Tensor, scale: float) -> Tensor:
    """KL of image to text and of text to image, halved, plus four times (1 - cos) of images and texts."""
    own, theirs = (scale * (a.double() @ b.double().T) for a, b in ((image, text), (image_t, text_t)))
    kl = 0.0
    for mine, wanted in ((own, theirs), (own.T, theirs.T)):
        p, q = wanted.softmax(1), mine.softmax(1)
        kl = kl + (p * (p / q).log()).sum(1).mean() / 2
    apart = (1 - (image * image_t).double().sum(1)).mean() + (1 - (text * text_t).double().sum(1)).mean()
    return kl + 4 * apart


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_the_losses_that_need_no_pairs_read_them(weight: float) -> None:
    free, said = unit(10), unit(11)
    found = losses(task({"affinity": 1.0, "feature": 4.0}, weight), free, said)
    expected = by_hand(unit(0), free, unit(2), said, 20.0)
    assert found["texts"].item() == pytest.approx(expected.item(), rel=1e-5)
    without = losses(task({"affinity": 1.0, "feature": 4.0}), None, None)
    assert found["loss"].item() == pytest.approx((without["loss"] + weight * expected).item(), rel=1e-5)
    assert found["affinity"].item() == without["affinity"].item()


def test_the_order_of_the_texts_is_nothing_to_them() -> None:
    free, said, order = unit(10), unit(11), torch.tensor([3, 1, 4, 0, 2])
    one, two = (losses(task("small-batch"), free[by], said[by]) for by in (torch.arange(B), order))
    assert one["texts"].item() == pytest.approx(
        two["texts"].item(), rel=1e-5
    )  # interactive, which pairs them, is left out
    assert one["loss"].item() == pytest.approx(two["loss"].item(), rel=1e-5)


@pytest.mark.parametrize(("objective", "weight"), [("clip", 1.0), ({"interactive": 1.0}, 1.0), ("small-batch", 0.0)])
def test_where_none_reads_them_the_text_tower_does_not_either(objective: Any, weight: float) -> None:
    which = task(objective, weight)
    found = losses(which, unit(10), unit(11))
    assert "texts" not in found
    assert which.model.read == B
    assert found["loss"].item() == losses(task(objective), None, None)["loss"].item()


def test_images_learn_from_them() -> None:
    which, images = task({"affinity": 1.0}), unit(0).requires_grad_(True)
    which(images, torch.cat([unit(1), unit(10)]), {"t": unit(2)}, {"t": torch.cat([unit(3), unit(11)])}, unpaired=B)[
        "texts"
    ].backward()
    assert float(images.grad.norm()) > 1e-3
