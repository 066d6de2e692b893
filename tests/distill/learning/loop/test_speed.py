"""What changes time and memory changes nothing else: gradients, statistics and names stay, or the call is refused."""

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from distill.core.errors import UsageError
from distill.learning import embeddings
from distill.learning.loop import speed
from distill.learning.loop.replicas import Replicas
from distill.learning.loop.step import take_step
from distill.learning.loss import LOSSES
from distill.learning.objective import Objective
from distill.learning.settings import OptimSettings
from distill.learning.task import DistillTask
from tests.distill.learning.test_blocks import Live
from tests.distill.learning.test_losses import TwoLinear, facts, inputs, second_texts

CPU = torch.device("cpu")


class Small(TwoLinear):
    """Two towers of the kinds that students have, small: one of timm's, with `width` features, and open_clip's text transformer."""

    def __init__(self, timm_name="mobilenetv3_small_050", width=16, **timm_words):
        from distill.core.torch_compat import ensure_torchvision

        ensure_torchvision()
        import timm
        from open_clip.transformer import TextTransformer

        super().__init__()
        self.a = self.b = None
        self.clip = nn.Module()
        self.clip.visual = nn.Module()
        self.clip.visual.trunk = timm.create_model(timm_name, num_classes=width, **timm_words)
        self.clip.text = TextTransformer(8, vocab_size=32, width=16, heads=2, layers=2, output_dim=width)

    def encode_image(self, images):
        return nn.functional.normalize(self.clip.visual.trunk(images), dim=-1)

    def encode_text(self, tokens):
        return nn.functional.normalize(self.clip.text(tokens), dim=-1)


@pytest.fixture(scope="module")
def made():
    """What builds a student laid out by settings, what takes its first gradient, and that gradient without settings."""

    def student(**settings):
        torch.manual_seed(0)
        task = DistillTask(Small(), Objective("clip", 16, {}), {}).train()
        speed.lay_out(task, OptimSettings(**settings), CPU)
        return task

    def step(task):
        torch.manual_seed(1)
        images, tokens = torch.rand(8, 3, 64, 64), torch.randint(0, 32, (8, 8))
        with Live() as live:
            task(images, tokens, {}, {})["loss"].backward()
        gradients = {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}
        return gradients, {name: value.clone() for name, value in task.named_buffers()}, live.peak

    plain = step(student())
    return student, step, plain


def test_activations_computed_again_change_neither_gradients_nor_statistics(made):
    student, step, (gradients, buffers, peak) = made
    task = student(recompute=True)
    again, statistics, less = step(task)
    assert {norm.momentum for norm in task.modules() if isinstance(norm, _BatchNorm)} == {0.1}  # as before
    assert gradients.keys() == again.keys()
    for name, value in gradients.items():
        assert torch.allclose(value, again[name], rtol=1e-4, atol=1e-6 * value.abs().max().item()), name
    assert any("running_mean" in name for name in buffers)
    for name, value in buffers.items():
        assert torch.allclose(value, statistics[name], rtol=1e-5, atol=1e-7), name
    assert less < 0.8 * peak


def test_towers_are_compiled_in_place(made, monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.append(module))
    student, _, _ = made
    names = list(student().state_dict())
    assert compiled == []
    task = student(compile=True)
    assert compiled == [task.model.clip.visual, task.model.clip.text]
    assert list(task.state_dict()) == names
    with pytest.raises(UsageError, match=r"train\.compile"):
        speed.lay_out(DistillTask(TwoLinear(), Objective("clip", 6, {}), {}), OptimSettings(compile=True), CPU)


def test_auto_compiles_where_it_is_worth_its_start(made, monkeypatch):
    """Off a GPU never; on one where the training is long and nothing is in the way, each time with its own reason."""
    student, _, _ = made
    clip = student().model
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(speed.importlib.util, "find_spec", lambda name: name)
    cuda = torch.device("cuda")

    def answer(steps=speed.LEAST_STEPS, device=cuda, model=clip, sharded=False, **settings):
        return speed.worth_compiling(OptimSettings(**settings), model, steps, device, sharded)

    assert answer() == (True, "2,000 steps on a GPU win back the minutes of its start")
    assert [answer(compile=told) for told in (True, False)] == [(True, "as told"), (False, "as told")]
    foreign = nn.Sequential(type("HFTextEncoder", (nn.Module,), {})())
    refused = [
        answer(device=CPU), answer(steps=speed.LEAST_STEPS - 1), answer(recompute=True), answer(chunk=8),
        answer(batch_norm="synced"), answer(sharded=True), answer(model=foreign),
    ]  # fmt: skip
    assert [worth for worth, _ in refused] == [False] * 7
    assert len({why for _, why in refused}) == 5  # two share one, twice
    monkeypatch.setattr(speed.importlib.util, "find_spec", lambda _: None)
    assert answer() == (False, "it needs Triton, and a GPU not older than Volta")
    monkeypatch.undo()
    student(compile="auto")  # unanswered it is off, so that nothing is compiled behind anybody's back


def test_batch_norms_are_synchronised_on_gpus_and_refused_elsewhere(made, monkeypatch):
    student, _, _ = made
    kinds = {type(m).__name__ for m in student(batch_norm="synced").modules() if isinstance(m, _BatchNorm)}
    assert "SyncBatchNorm" not in kinds  # alone there is nobody to share with
    task = student().eval()
    images = torch.rand(2, 3, 64, 64)
    before = task.model.encode_image(images)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda *_: 2)
    with pytest.raises(UsageError, match="needs GPUs"):
        speed.synchronise(task, CPU)
    names = list(task.state_dict())
    speed.synchronise(task, torch.device("cuda"))
    monkeypatch.undo()
    norms = [m for m in task.modules() if isinstance(m, _BatchNorm)]
    assert norms
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    assert list(task.state_dict()) == names
    assert torch.allclose(task.eval().model.encode_image(images), before, atol=1e-6)  # activations inside are kept


@pytest.mark.parametrize("unpaired", [0, 8])
def test_accumulated_parts_are_batches_of_their_own(unpaired):
    objective = Objective({name: 1.0 for name in LOSSES if name != "caption"}, 6, facts())
    task = DistillTask(TwoLinear(), objective, facts())
    images, texts, u, v = inputs()
    others, w = second_texts()
    streams = [(texts, v["t"]), (others, w["t"]), *([(others + 1, w["t"].flip(0))] if unpaired else [])]
    given = (
        images, torch.cat([text for text, _ in streams]), u, {"t": torch.cat([rows for _, rows in streams])},
        torch.arange(1.0, 9), torch.arange(8), unpaired,
    )  # fmt: skip
    parts = task.parts(given, 2)
    for i, part in enumerate(parts):
        rows = slice(4 * i, 4 * i + 4)
        expected = task(
            images[rows], torch.cat([text[rows] for text, _ in streams]), {"t": u["t"][rows]},
            {"t": torch.cat([teacher[rows] for _, teacher in streams])}, torch.arange(1.0, 9)[rows],
            torch.arange(8)[rows], unpaired // 2,
        )  # fmt: skip
        got = task(*part)
        assert all(torch.equal(got[name], expected[name]) for name in expected)
    with pytest.raises(UsageError, match="do not divide into 3 parts"):
        task.parts(given, 3)


def test_a_step_on_parts_has_the_mean_of_their_gradients():
    class Accelerator:
        scaler = None

        def __init__(self):
            self.quiet = 0

        def prepare(self, *given):
            return given

        def autocast(self):
            return torch.autocast("cpu", enabled=False)

        def no_sync(self, _):
            self.quiet += 1
            return torch.autocast("cpu", enabled=False)

        def backward(self, loss):
            loss.backward()

        def clip_grad_norm_(self, parameters, norm):
            return torch.nn.utils.clip_grad_norm_(parameters, norm)

    def task():
        return DistillTask(TwoLinear(), Objective("clip", 6, {}), {})

    images, texts, _, _ = inputs()
    trained, accelerator = task(), Accelerator()
    kept = torch.optim.SGD(trained.parameters(), lr=0.0)
    settings = OptimSettings(accumulate=4, clip_norm=1e9)
    losses, norm = take_step(Replicas(accelerator, trained, kept), (images, texts, {}, {}), settings)
    assert accelerator.quiet == 3  # gradients go over the network with the last part alone
    expected, values = [], []
    for i in range(4):
        alone = task()
        loss = alone(images[2 * i : 2 * i + 2], texts[2 * i : 2 * i + 2], {}, {})["loss"]
        loss.backward()
        expected.append([p.grad for p in alone.parameters()])
        values.append(loss.item())
    means = [torch.stack(each).mean(0) for each in zip(*expected, strict=True)]
    assert all(
        torch.allclose(p.grad, mean, rtol=1e-5, atol=1e-7) for p, mean in zip(trained.parameters(), means, strict=True)
    )
    assert losses["loss"].item() == pytest.approx(sum(values) / 4, rel=1e-6)
    assert norm.item() == pytest.approx(sum(mean.square().sum().item() for mean in means) ** 0.5, rel=1e-5)


def test_similarities_beside_tf32_towers_are_in_full_precision(monkeypatch):
    seen = []
    real = torch.Tensor.__matmul__

    def noting(a, b):
        seen.append(torch.backends.cuda.matmul.allow_tf32)
        return real(a, b)

    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        monkeypatch.setattr(torch.Tensor, "__matmul__", noting)
        rows, columns = (torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (4, 5))
        embeddings._FullFloat32.apply(rows, columns).sum().backward()
        assert seen == [False] * 3
        assert torch.backends.cuda.matmul.allow_tf32
        monkeypatch.undo()
        assert torch.autograd.gradcheck(embeddings._FullFloat32.apply, (rows, columns))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def test_adamw_is_fused_on_cuda_alone():
    assert speed.fused(torch.device("cuda")) == {"fused": True}
    assert speed.fused(CPU) == {}
