"""Each loss against a double loop in float64, zero at identity, and the traps that released code fell into."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from distill.core.errors import UsageError
from distill.learning.embeddings import Embeddings, embeddings
from distill.learning.loss import LOSSES
from distill.learning.objective import PRESETS, Objective, fixed_scale, objective_weights
from distill.learning.task import DistillTask
from teachers.spec import TeacherFacts

B, D = 5, 6


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def made(seed, scale=7.0, bias=0.0, kind="softmax", width=D) -> Embeddings:
    scale, bias = torch.tensor(scale, dtype=torch.float64), torch.tensor(bias, dtype=torch.float64)
    return embeddings(unit(B, width, seed=seed), unit(B, width, seed=seed + 100), scale, bias, kind)


def spoken(e: Embeddings, image) -> Embeddings:
    """With next-token logits [b, 2, 3] and labels that depend on the image alone; some of the labels are padding."""
    logits = torch.stack([image[:, :3], image[:, 3:6] * 2], dim=1)
    first, second = (image[:, :2].detach() * 1000).long().abs().T
    labels = torch.stack([first % 3, torch.where(second % 3 == 1, -100, second % 3)], dim=1)
    return replace(e, caption_logits=logits, caption_labels=labels)


def facts(name="t", width=D, kind="softmax", scale=7.0, bias=0.0):
    return {name: TeacherFacts(name, width, scale, bias, kind)}


def probabilities(e: Embeddings, way: str) -> list[list[float]]:
    rows, columns = (e.image, e.text) if way == "i2t" else (e.text, e.image)
    result = []
    for i in range(B):
        logits = [
            float(e.logit_scale) * sum(float(a) * float(b) for a, b in zip(rows[i], columns[j], strict=True))
            for j in range(B)
        ]
        total = sum(math.exp(x) for x in logits)
        result.append([math.exp(x) / total for x in logits])
    return result


def test_contrastive_is_the_double_loop():
    s = made(1)
    expected = sum(-math.log(probabilities(s, way)[i][i]) / B / 2 for way in ("i2t", "t2i") for i in range(B))
    assert LOSSES.get("contrastive")(D, {})(s, {}).item() == pytest.approx(expected, rel=1e-10)


def test_contrastive_is_open_clips():
    from distill.core.torch_compat import ensure_torchvision

    ensure_torchvision()
    from open_clip.loss import ClipLoss

    s = made(1)
    assert torch.allclose(LOSSES.get("contrastive")(D, {})(s, {}), ClipLoss()(s.image, s.text, s.logit_scale))


def test_affinity_is_the_double_loop_with_a_softmax_of_its_own_each_way():
    s, t = made(1), made(2, scale=11.0)
    expected = 0.0
    for way in ("i2t", "t2i"):
        p, q = probabilities(t, way), probabilities(s, way)
        expected += sum(p[i][j] * math.log(p[i][j] / q[i][j]) for i in range(B) for j in range(B)) / B / 2
    assert LOSSES.get("affinity")(D, facts())(s, {"t": t}).item() == pytest.approx(expected, rel=1e-9)
    transposed = torch.tensor(probabilities(t, "i2t")).T
    assert not torch.allclose(transposed.sum(1), torch.ones(B), atol=1e-2)  # the trap would show


def test_affinity_of_several_teachers_has_the_gradient_of_the_averaged_probabilities():
    image, text = unit(B, D, seed=1).requires_grad_(), unit(B, D, seed=2)
    banks = {"a": made(3, scale=9.0), "b": made(4, scale=20.0)}
    loss = LOSSES.get("affinity")(D, {**facts("a"), **facts("b")})
    s = embeddings(image, text, torch.tensor(5.0, dtype=torch.float64))
    (ours,) = torch.autograd.grad(loss(s, banks), image)
    total = 0.0
    for way in ("image_logits", "text_logits"):
        p = sum(getattr(t, way)().softmax(-1) for t in banks.values()) / 2
        total = total - (p * getattr(s, way)().log_softmax(-1)).sum(-1).mean() / 2
    (ensemble,) = torch.autograd.grad(total, image)
    assert torch.allclose(ours, ensemble, atol=1e-12)


def test_affinity_is_open_clips_distillation_up_to_the_teachers_entropy():
    from open_clip.loss import DistillClipLoss

    s, t = made(1), made(2, scale=11.0)
    theirs = DistillClipLoss()(s.image, s.text, s.logit_scale, t.image, t.text, t.logit_scale, output_dict=True)[
        "distill_loss"
    ]
    entropy = (
        sum(-(p * p.log()).sum(-1).mean() for p in (t.image_logits().softmax(-1), t.text_logits().softmax(-1))) / 2
    )
    assert LOSSES.get("affinity")(D, facts())(s, {"t": t}).item() == pytest.approx((theirs - entropy).item(), rel=1e-6)


def test_sigmoid_affinity_is_the_soft_binary_cross_entropy_minus_entropy():
    s, t = made(1), made(2, scale=8.0, bias=-3.0, kind="sigmoid")
    loss = LOSSES.get("affinity")(D, facts(kind="sigmoid", scale=8.0, bias=-3.0)).double()
    expected = 0.0
    for way in ("image", "text"):
        x = getattr(s, way) @ getattr(s, "all_text" if way == "image" else "all_image").T
        y = getattr(t, way) @ getattr(t, "all_text" if way == "image" else "all_image").T
        for i in range(B):
            for j in range(B):
                p = 1 / (1 + math.exp(-(8.0 * y[i, j].item() - 3.0)))
                q = 1 / (1 + math.exp(-(8.0 * x[i, j].item() - 3.0)))
                expected += (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))) / B / 2
    assert loss(s, {"t": t}).item() == pytest.approx(expected, rel=1e-6)
    # The optimum is finite: at p = 0.5 the logit's gradient vanishes at 0, where -log sigmoid((2p-1)x) has none at all.
    from distill.learning.losses.affinity import sigmoid_kl

    x = torch.tensor([[2.0]], requires_grad=True)
    sigmoid_kl(torch.zeros(1, 1), x).backward()
    assert x.grad.item() > 0


def test_feature_is_one_minus_cosine_and_ignores_padding():
    s, t = made(1), made(2)
    expected = sum((1 - (getattr(s, w) * getattr(t, w)).sum(-1)).mean() for w in ("image", "text"))
    assert LOSSES.get("feature")(D, facts())(s, {"t": t}).item() == pytest.approx(expected.item(), rel=1e-10)
    pad = lambda e: embeddings(F.pad(e.image, (0, 9)), F.pad(e.text, (0, 9)), e.logit_scale)  # noqa: E731
    wide = LOSSES.get("feature")(D + 9, facts(width=D + 9))(pad(s), {"t": pad(t)})
    assert wide.item() == pytest.approx(expected.item(), rel=1e-10)


def test_interactive_is_the_double_loop_with_an_exponentiated_scale():
    s, t = made(1), made(2)
    loss = LOSSES.get("interactive")(D, facts()).double()
    scale = 1 / 0.07
    expected = 0.0
    for a, b in ((s.image, t.text), (s.text, t.image)):
        for i in range(B):
            logits = [scale * float(a[i] @ b[j]) for j in range(B)]
            expected += (math.log(sum(map(math.exp, logits))) - logits[i]) / B / 2
    assert loss(s, {"t": t}).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["affinity", "feature"])
def test_a_perfect_copy_has_no_loss_and_no_gradient(name):
    t = made(2)
    image, text = t.image.clone().requires_grad_(), t.text.clone().requires_grad_()
    loss = LOSSES.get(name)(D, facts())(embeddings(image, text, t.logit_scale), {"t": t})
    loss.backward()
    assert abs(loss.item()) < 1e-12
    # For `feature` the gradient along the vector itself is what normalisation removes.
    for leaf in (image, text):
        tangential = leaf.grad - (leaf.grad * leaf).sum(-1, keepdim=True) * leaf
        assert tangential.abs().max() < 1e-9


@pytest.mark.parametrize("name", list(LOSSES))
def test_every_loss_trains_with_teachers_of_another_width_and_gives_them_no_gradient(name):
    teachers = {**facts("wide.v1/x", width=9), **facts("sig", width=4, kind="sigmoid", bias=-2.0)}
    loss = LOSSES.get(name)(D, teachers).double()
    image = unit(B, D, seed=1).requires_grad_()
    banks = {"wide.v1/x": made(3, width=9), "sig": made(4, width=4, kind="sigmoid", bias=-2.0)}
    student = embeddings(image, unit(B, D, seed=2), torch.tensor(5.0, dtype=torch.float64))
    value = loss(spoken(student, image), banks)
    value.backward()
    assert value.ndim == 0
    assert torch.isfinite(value)
    assert image.grad.abs().sum() > 0


@settings(max_examples=20)
@given(st.permutations(range(B)))
def test_losses_do_not_depend_on_the_order_of_the_batch(order):
    s, t = made(1), made(2)
    s = spoken(s, s.image)

    def shuffle(e):
        shuffled = embeddings(e.image[order], e.text[order], e.logit_scale, e.logit_bias, e.kind)
        if e.caption_logits is None:
            return shuffled
        return replace(shuffled, caption_logits=e.caption_logits[order], caption_labels=e.caption_labels[order])

    for name in LOSSES:
        loss = LOSSES.get(name)(D, facts()).double()
        assert loss(shuffle(s), {"t": shuffle(t)}).item() == pytest.approx(loss(s, {"t": t}).item(), rel=1e-9)


class TwoLinear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = torch.nn.Linear(3, D), torch.nn.Linear(4, D)
        self.log_logit_scale = torch.nn.Parameter(torch.tensor(2.0))

    @property
    def logit_scale(self):
        return self.log_logit_scale.exp()

    def encode_image(self, x):
        return F.normalize(self.a(x), dim=-1)

    def encode_text(self, x):
        return F.normalize(self.b(x), dim=-1)

    def encode_pair(self, images, texts):
        image = self.encode_image(images)
        said = spoken(embeddings(image, image, self.logit_scale), self.a(images))
        return image, self.encode_text(texts), said.caption_logits, said.caption_labels


def second_texts(b=8):
    """Another stream of captions and what the teacher says of them."""
    g = torch.Generator().manual_seed(4)
    return torch.randn(b, 4, generator=g), {"t": F.normalize(torch.randn(b, D, generator=g), dim=-1)}


def inputs(b=8):
    g = torch.Generator().manual_seed(3)
    teacher = [F.normalize(torch.randn(b, D, generator=g), dim=-1) for _ in range(2)]
    return torch.randn(b, 3, generator=g), torch.randn(b, 4, generator=g), {"t": teacher[0]}, {"t": teacher[1]}


@pytest.mark.parametrize("name", list(LOSSES))
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_weights_make_a_weighted_mean_of_the_pairs_own_losses(name, kind):
    """The truth: the loss with all weight on pair i, for each i, averaged by the weights; equal weights change nothing."""
    s, t = made(1), made(2, kind=kind, bias=-2.0 if kind == "sigmoid" else 0.0)
    s = spoken(s, s.image)
    loss = LOSSES.get(name)(D, facts(kind=kind)).double()
    alone = [loss(s, {"t": t}, torch.eye(B, dtype=torch.float64)[i] * B).item() for i in range(B)]
    plain = loss(s, {"t": t}).item()
    assert sum(alone) / B == pytest.approx(plain, rel=1e-12)
    assert max(alone) > 1.01 * min(alone)
    assert loss(s, {"t": t}, torch.ones(B, dtype=torch.float64)).item() == plain
    weights = torch.tensor([0.5, 0.0, 2.0, 1.0, 1.5], dtype=torch.float64)
    expected = sum(float(w) * a for w, a in zip(weights, alone, strict=True)) / B
    assert loss(s, {"t": t}, weights).item() == pytest.approx(expected, rel=1e-12)


def test_weighted_contrastive_is_the_double_loop():
    s, weights = made(1), [0.5, 0.0, 2.0, 1.0, 1.5]
    expected = (
        sum(-math.log(probabilities(s, way)[i][i]) * weights[i] for way in ("i2t", "t2i") for i in range(B)) / B / 2
    )
    found = LOSSES.get("contrastive")(D, {})(s, {}, torch.tensor(weights, dtype=torch.float64))
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_objective_is_the_weighted_sum_of_its_named_losses():
    task = DistillTask(TwoLinear(), Objective({"affinity": 2.0, "feature": 0.5}, D, facts()), facts())
    named = task(*inputs())
    sides = {f"{loss}/t/{side}" for loss in ("affinity", "feature") for side in ("image", "text")}
    assert set(named) == {"loss", "affinity", "feature"} | sides
    assert named["loss"].item() == pytest.approx(2 * named["affinity"].item() + 0.5 * named["feature"].item(), rel=1e-6)


def test_tinyclip_fixes_both_scales_at_fifty():
    task = DistillTask(TwoLinear(), Objective("tinyclip", D, facts()), facts(), fixed_scale("tinyclip"))
    images, texts, u, v = inputs()
    m = task.model
    x, y = m.encode_image(images), m.encode_text(texts)
    p, q = 50 * u["t"] @ v["t"].T, 50 * x @ y.T
    image = F.kl_div(q.log_softmax(-1), p.softmax(-1), reduction="batchmean").item()
    text = F.kl_div(q.T.log_softmax(-1), p.T.softmax(-1), reduction="batchmean").item()
    named = task(images, texts, u, v)
    assert named["loss"].item() == pytest.approx((image + text) / 2, rel=1e-5)
    assert named["affinity/t/image"].item() == pytest.approx(image, rel=1e-5)  # the KL of either direction, by itself
    assert named["affinity/t/text"].item() == pytest.approx(text, rel=1e-5)


@pytest.mark.parametrize("preset", list(PRESETS))
def test_every_preset_lowers_its_own_loss(preset):
    task = DistillTask(TwoLinear(), Objective(preset, D, facts()), facts(), fixed_scale(preset))
    optimizer = torch.optim.Adam(task.parameters(), lr=0.05)
    first = None
    for _ in range(30):
        loss = task(*inputs())["loss"]
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.8 * first


def test_objectives_that_cannot_be_are_refused():
    with pytest.raises(UsageError, match="'small-batch'"):
        objective_weights("smallbatch")
    with pytest.raises(UsageError, match="'affinity'"):
        objective_weights({"afinity": 1.0})
    with pytest.raises(UsageError, match="positive weight"):
        objective_weights({"affinity": 0.0})
    with pytest.raises(UsageError, match="carries no"):
        Objective("small-batch", D, {})
    assert not Objective("clip", D, {}).needs_teachers


def test_two_streams_of_the_same_captions_are_exactly_twice_the_loss():
    for consistency in (None, 0.5):
        task = DistillTask(TwoLinear(), Objective(dict.fromkeys(LOSSES, 1.0), D, facts()), facts(), None, consistency)
        images, texts, u, v = inputs()
        single = DistillTask(task.model, task.objective, facts())(images, texts, u, v)
        both = task(images, torch.cat([texts, texts]), u, {"t": torch.cat([v["t"], v["t"]])})
        # With S_tc = 1 for every pair the language gate is 1 and so is every weight.
        for name, value in both.items():
            twice = 2 * single[name].item()
            assert value.item() == (twice if consistency is None else pytest.approx(twice, rel=1e-5)), name


def test_two_streams_are_the_sum_of_the_two_losses():
    task = DistillTask(TwoLinear(), Objective("clipkd", D, facts()), facts())
    images, texts, u, v = inputs()
    others, w = second_texts()
    both = task(images, torch.cat([texts, others]), u, {"t": torch.cat([v["t"], w["t"]])})
    apart = [task(images, texts, u, v), task(images, others, u, w)]
    for name, value in both.items():
        assert value.item() == pytest.approx(sum(part[name].item() for part in apart), rel=1e-6)


def test_given_weights_count_by_their_ratio_alone():
    task = DistillTask(TwoLinear(), Objective("clipkd", D, facts()), facts())
    plain = task(*inputs())["loss"].item()
    assert task(*inputs(), torch.full((8,), 3.0))["loss"].item() == plain
    assert task(*inputs(), torch.zeros(8))["loss"].item() == plain  # nothing to go by
    some = torch.arange(8.0)
    assert task(*inputs(), some)["loss"].item() == pytest.approx(task(*inputs(), 7 * some)["loss"].item(), rel=1e-6)
    assert task(*inputs(), some)["loss"].item() != pytest.approx(plain, rel=1e-3)
