"""Losses by blocks of rows and towers by chunks: the value and the gradient of the whole, the memory of a part."""

import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from distill.core.errors import UsageError
from distill.learning import blocks
from distill.learning.blocks import in_chunks
from distill.learning.embeddings import Matches, embeddings
from distill.learning.loss import LOSSES
from distill.learning.objective import Objective
from distill.learning.task import DistillTask
from teachers.spec import TeacherFacts
from tests.distill.learning.test_losses import TwoLinear, facts, inputs, second_texts, unit

KNOWN = {
    "a": TeacherFacts("a", 6, 9.0, 0.0, "softmax"),
    "b.c": TeacherFacts("b.c", 5, 7.0, -3.0, "sigmoid"),
}


class Live(TorchDispatchMode):
    """The bytes of the tensors that operations have made and that are still there: now, and at most so far."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        held = {t.untyped_storage()._cdata for t in args if isinstance(t, torch.Tensor)}
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in held:
                size = tensor.untyped_storage().nbytes()
                self.now += size
                weakref.finalize(tensor, self._gone, size)
        self.peak = max(self.peak, self.now)
        return result

    def _gone(self, size):
        self.now -= size


def losses_of(b, seed=0, width=6):
    """Every loss against two teachers on b pairs, some of which belong together: names -> values, and all gradients."""
    torch.manual_seed(1)
    names = {name: 1.0 + i for i, name in enumerate(sorted(set(LOSSES) - {"caption"}))}
    objective = Objective(names, width, KNOWN).double()
    image, text = unit(b, width, seed=seed).requires_grad_(), unit(b, width, seed=seed + 1).requires_grad_()
    scale = torch.tensor(8.0, dtype=torch.float64, requires_grad=True)
    ids = torch.arange(b) // 2 * 2
    student = replace(embeddings(image, text, scale), positives=Matches((ids, ids // 3), (ids, ids // 3)))
    teachers = {
        name: embeddings(
            unit(b, f.width, seed=seed + 2), unit(b, f.width, seed=seed + 3), torch.tensor(f.logit_scale),
            torch.tensor(f.logit_bias), f.kind,
        )
        for name, f in KNOWN.items()
    }  # fmt: skip
    named = objective(student, teachers, torch.linspace(0.5, 1.5, b))
    named["loss"].backward()
    return named, [image.grad, text.grad, scale.grad, *(p.grad for p in objective.parameters())]


@pytest.mark.parametrize("block", [1, 30, 64])
def test_losses_by_blocks_are_those_of_the_whole(monkeypatch, block):
    """10 pairs, of 100 logits: blocks of one row, of three (the last one is short), of six."""
    whole, gradients = losses_of(10)
    monkeypatch.setattr(blocks, "BLOCK", block)
    parts, by_blocks = losses_of(10)
    assert whole.keys() == parts.keys()
    for name in whole:
        assert parts[name].item() == pytest.approx(whole[name].item(), rel=1e-12), name
    for one, other in zip(gradients, by_blocks, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-14)


def test_the_memory_of_losses_grows_with_the_batch_not_with_its_square(monkeypatch):
    peaks = {}
    for block in (2**11, 2**40):
        monkeypatch.setattr(blocks, "BLOCK", block)
        for b in (64, 256):
            with Live() as live:
                losses_of(b)
            peaks[block, b] = live.peak
    assert peaks[2**40, 256] > 10 * peaks[2**40, 64]
    assert peaks[2**11, 256] < 4.5 * peaks[2**11, 64]
    assert peaks[2**11, 256] < peaks[2**40, 256] / 5


def test_a_chunk_draws_the_same_dropout_again():
    torch.manual_seed(0)
    tower = nn.Sequential(nn.Linear(4, 32), nn.Dropout(0.5), nn.Linear(32, 3))
    x = torch.randn(7, 4)

    def gradient(run):
        torch.manual_seed(5)
        tower.zero_grad()
        run().square().sum().backward()
        return [p.grad.clone() for p in tower.parameters()]

    plain = gradient(lambda: torch.cat([tower(part) for part in x.split(3)]))
    cached = gradient(lambda: in_chunks(tower, x, 3))
    assert all(torch.equal(a, b) for a, b in zip(plain, cached, strict=True))
    other = gradient(lambda: torch.cat([tower(part) for part in x.split(2)]))
    assert not torch.equal(other[0], plain[0])  # other chunks draw otherwise, so that it was the same draw above


def test_one_chunk_is_in_memory_at_a_time():
    tower = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(8)))
    x = torch.randn(1024, 64)
    peaks = {}
    for chunk in (None, 64):
        tower.zero_grad()
        with Live() as live:
            in_chunks(tower, x, chunk).sum().backward()
        peaks[chunk] = live.peak
    assert peaks[64] < peaks[None] / 3


@pytest.mark.parametrize("chunk", [1, 3, 5])
def test_a_task_in_chunks_has_the_gradient_of_the_whole_batch(chunk):
    found = []
    for size in (None, chunk):
        objective = Objective({name: 1.0 for name in LOSSES if name != "caption"}, 6, facts())
        task = DistillTask(TwoLinear(), objective, facts(), None, 0.5, chunk=size).double()
        images, texts, u, v = inputs()
        others, w = second_texts()
        streams = {"t": torch.cat([v["t"], w["t"]]).double()}
        losses = task(images.double(), torch.cat([texts, others]).double(), {"t": u["t"].double()}, streams)
        losses["loss"].backward()
        found.append({name: p.grad for name, p in task.named_parameters()} | {"loss": losses["loss"].detach()})
    assert found[0].keys() == found[1].keys()
    assert "model.log_logit_scale" in found[0]
    for name, value in found[0].items():
        assert torch.allclose(value, found[1][name], rtol=1e-10, atol=1e-14), name


class Normed(TwoLinear):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def encode_image(self, images):
        return super().encode_image(self.norm(images))


def test_statistics_of_the_batch_are_refused_in_chunks_and_fixed_ones_are_not():
    with pytest.raises(UsageError, match=r"train\.chunk .*'norm'.*train\.batch_norm=fixed"):
        DistillTask(Normed(), Objective("clip", 6, {}), {}, chunk=2)
    gradients = []
    for chunk in (None, 2):
        task = DistillTask(Normed(), Objective("clip", 6, {}), {}, fixed_norms=True, chunk=chunk).train()
        images, texts, _, _ = inputs()
        task(images, texts, {}, {})["loss"].backward()
        gradients.append(task.model.norm.weight.grad)
        assert task.model.norm.num_batches_tracked == 0
    assert torch.allclose(*gradients, rtol=1e-5)


def test_a_captioner_is_refused_in_chunks():
    with pytest.raises(UsageError, match=r"train\.chunk .*captioner"):
        DistillTask(TwoLinear(), Objective("coca", 6, {}), {}, chunk=2)
