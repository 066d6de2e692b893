"""The average of the weights: its recursion written out, exact over a resume, a student of its own beside the raw one."""

import pytest
import torch
from torch import nn

from distill.learning import checkpoint
from distill.learning.loop.average import WeightAverage
from tests.distill.learning.test_fit import Stop, Toy, stops_at, train


def test_the_recursion():
    model = nn.BatchNorm1d(1)
    model.weight.data.fill_(0.0)
    average, expected = WeightAverage(model, 0.3), 0.0
    for taken in range(1, 6):
        model.weight.data.fill_(float(taken**2))
        model.num_batches_tracked.fill_(taken)
        average.update(taken)
        kept = min(0.3, (1 + taken) / (10 + taken))  # the first three steps forget faster
        expected = kept * expected + (1 - kept) * taken**2
    assert average.state["weight"].item() == pytest.approx(expected, rel=1e-6)
    assert average.state["num_batches_tracked"].item() == 5


def averaged(folder):
    return checkpoint.read_average(checkpoint.latest(folder / "checkpoints"))


def test_it_goes_on_after_a_resume_and_changes_nothing_of_the_training(tmp_path):
    plain = train(tmp_path / "plain", 12)
    assert averaged(tmp_path / "plain") is None
    whole = train(tmp_path / "a", 12, ema=0.8)
    with pytest.raises(Stop):
        train(tmp_path / "b", 12, source=stops_at(6), ema=0.8)
    train(tmp_path / "b", 12, ema=0.8)
    one, other = averaged(tmp_path / "a"), averaged(tmp_path / "b")
    assert all(torch.equal(plain[name], whole[name]) for name in plain)
    assert one.keys() == whole.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one["body.0.weight"], whole["body.0.weight"])


def test_the_average_is_that_of_the_steps(tmp_path):
    seen = []

    class Seen(Toy):
        def after_step(self):
            seen.append(self.body[0].weight.detach().clone())

    task = Seen()
    expected = task.body[0].weight.detach().clone()
    train(tmp_path / "a", 12, task=task, ema=0.4)
    for taken, weight in enumerate(seen, start=1):
        kept = min(0.4, (1 + taken) / (10 + taken))
        expected = kept * expected + (1 - kept) * weight
    assert torch.allclose(averaged(tmp_path / "a")["body.0.weight"], expected, rtol=1e-5, atol=1e-7)
