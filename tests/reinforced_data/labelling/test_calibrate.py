"""Calibrated scales against closed forms, against a brute-force grid in float64, and through a reinforced set."""

import math

import numpy as np
import pytest
import torch

from distill.core.errors import DistillError, UsageError
from reinforced_data.labelling.calibrate import calibrated
from reinforced_data.labelling.fit_scale import sigmoid_scale, softmax_scale
from reinforced_data.labelling.reinforce import reinforce
from reinforced_data.labelling.settings import ReinforceSettings
from reinforced_data.store.reader import ReinforcedData
from tests.reinforced_data.stubs import ListSource, StubTeacher

WHOLE = ReinforceSettings(views_per_image=1, view_preset="none")  # no augmentation


def swapped(size: int, wrong: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`size` orthogonal pairs (similarity 1 or 0), of which the last `wrong` have their captions passed round."""
    text = torch.eye(size)
    text[-wrong:] = text[-wrong:].roll(1, 0)
    return torch.eye(size), text, torch.arange(size)


@pytest.mark.parametrize(("size", "wrong"), [(10, 2), (64, 6), (200, 50)])
def test_softmax_scale_in_closed_form(size: int, wrong: int) -> None:
    """Every row has one similarity of 1, the true one in a share 1 - q: the loss is least where its probability is that."""
    q = wrong / size
    assert softmax_scale(*swapped(size, wrong), size) == pytest.approx(math.log((1 - q) * (size - 1) / q), abs=1e-5)


@pytest.mark.parametrize(("size", "wrong"), [(10, 2), (64, 6), (200, 50)])
def test_sigmoid_scale_and_bias_in_closed_form(size: int, wrong: int) -> None:
    """Logistic regression on a value that is 0 or 1 is saturated: it meets both shares exactly."""
    q = wrong / size
    bias = -math.log((size - 1) / q - 1)
    scale = math.log((1 - q) / q) - bias
    assert sigmoid_scale(*swapped(size, wrong), size) == pytest.approx((scale, bias), abs=1e-4)


def pairs(count: int, width: int, noise: float, seed: int, shared: int = 0) -> tuple[torch.Tensor, ...]:
    """Unit vectors with noisy partners; the first `shared` pairs have one caption."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.nn.functional.normalize(torch.randn(count, width, generator=generator), dim=1)
    text = torch.nn.functional.normalize(image + noise * torch.randn(count, width, generator=generator), dim=1)
    owner = torch.arange(count)
    if shared:
        text[:shared], owner[:shared] = text[0].clone(), 0
    return image, text, owner


def info_nce(image: np.ndarray, text: np.ndarray, owner: np.ndarray, size: int, scale: float) -> float:
    """Written out pair by pair, NumPy float64."""
    total, rows = 0.0, 0
    for start in range(0, len(image) - size + 1, size):
        part = slice(start, start + size)
        logits = scale * image[part] @ text[part].T
        same = owner[part][:, None] == owner[part][None, :]
        for table in (logits, logits.T):
            for row, positives in zip(table, same, strict=True):
                probs = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
                total -= np.log(probs[positives]).mean()
                rows += 1
    return total / rows


@pytest.mark.parametrize(("size", "shared"), [(16, 0), (40, 0), (64, 0), (20, 5)])
def test_softmax_scale_against_a_grid(size: int, shared: int) -> None:
    image, text, owner = pairs(64, 24, noise=0.9, seed=size, shared=shared)
    found = softmax_scale(image, text, owner, size)
    arrays = image.double().numpy(), text.double().numpy(), owner.numpy()
    grid = np.arange(found - 2, found + 2, 0.01)
    best = grid[np.argmin([info_nce(*arrays, size, scale) for scale in grid])]
    assert 3 < found < 60
    assert found == pytest.approx(best, abs=0.011)


def test_sigmoid_scale_against_a_grid() -> None:
    image, text, owner = pairs(48, 24, noise=0.9, seed=5, shared=3)
    scale, bias = sigmoid_scale(image, text, owner, 24)
    x, y, names = image.double().numpy(), text.double().numpy(), owner.numpy()

    def loss(s: float, b: float) -> float:
        total = 0.0
        for part in (slice(0, 24), slice(24, 48)):
            signs = np.where(names[part][:, None] == names[part][None, :], 1.0, -1.0)
            total += np.log1p(np.exp(-signs * (s * x[part] @ y[part].T + b))).mean()
        return total / 2

    steps = np.arange(-0.5, 0.501, 0.02)
    values = {(s, b): loss(scale + s, bias + b) for s in steps for b in steps}
    s, b = min(values, key=values.__getitem__)
    assert loss(scale, bias) <= min(values.values()) + 1e-9
    assert (abs(s), abs(b)) <= (0.021, 0.021)


def test_a_larger_batch_has_a_larger_scale_and_stronger_noise_a_smaller_one() -> None:
    easy, hard = pairs(256, 64, 0.8, 1), pairs(256, 64, 1.6, 1)
    assert softmax_scale(*hard, 256) < softmax_scale(*easy, 256)
    assert softmax_scale(*pairs(256, 64, 1.2, 2), 256) != softmax_scale(*pairs(256, 64, 1.2, 2), 8)


def test_pairs_told_apart_without_a_mistake_meet_the_limits() -> None:
    image, text, owner = pairs(32, 32, 0.01, 0)
    assert softmax_scale(image, text, owner, 32) == 100
    scale, bias = sigmoid_scale(image, text, owner, 32)
    assert scale == pytest.approx(200)
    assert 0 < -bias < 200


def test_a_teacher_that_does_not_know_pairs_is_refused() -> None:
    image, text, owner = pairs(32, 16, 0.5, 0)
    assert softmax_scale(image, -text, owner, 32) == 0
    assert sigmoid_scale(image, -text, owner, 32) == (0, 0)
    contrary = PairTeacher("contrary", sign=-1.0)
    with pytest.raises(DistillError, match=r"'contrary' finds held-out captions no more like"):
        calibrated([contrary], grey(40), WHOLE)


class PairTeacher(StubTeacher):
    """Knows a sample by the brightness of its image and by the number in its caption, roughly."""

    def __init__(self, name: str = "pair", sign: float = 1.0, **facts: object) -> None:
        super().__init__(name, width=40, **facts)
        self.sign = sign
        self.numbers = {f"number {n}": n for n in range(40)}
        table = torch.randn(40, 40, generator=torch.Generator().manual_seed(7))
        self.table = torch.nn.functional.normalize(table, dim=1)
        self.seen: dict[bytes, int] = {}

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        level = (pixels.mean((1, 2, 3)) * 39).round().long().clamp(0, 39)
        noise = torch.randn(len(level), 40, generator=torch.Generator().manual_seed(3)) * 0.15
        return torch.nn.functional.normalize(self.table[level] + noise, dim=1)

    def encode_text(self, captions: list[str]) -> torch.Tensor:
        return self.sign * self.table[[self.numbers.get(text, 0) for text in captions]]


def grey(count: int) -> ListSource:
    """Images of one brightness each, captioned with its number, every seventh wrongly."""
    from PIL import Image

    from reinforced_data.sample import Caption, RawSample
    from tests.reinforced_data.stubs import encoded

    made = []
    for n in range(count):
        value = round(n / 39 * 255)
        text = f"number {n if n % 7 else (n + 7) % 40}"
        made.append(RawSample(f"g{n}", encoded(Image.new("RGB", (20, 20), (value,) * 3)), (Caption(text),)))
    return ListSource(made)


def test_calibrated_teachers_reach_the_manifest(tmp_path) -> None:
    soft, hard = PairTeacher("soft", scale=77.0), PairTeacher("hard", kind="sigmoid", scale=9.0, bias=-3.0)
    published = PairTeacher("dfn")
    published.spec = published.spec.__class__(**{**published.spec.__dict__, "logit_scale": 70.0})
    published.logit_scale = 70.0
    teachers = calibrated([soft, published, hard], grey(40), WHOLE, batch_size=20)
    assert [teacher.scale.source for teacher in teachers] == ["calibrated", "published", "calibrated"]
    reinforce(grey(40), teachers, tmp_path / "set", WHOLE)
    data = ReinforcedData(tmp_path / "set")
    facts = {entry["name"]: entry for entry in data.manifest.teachers}
    assert facts["soft"]["scale"] == {"source": "calibrated", "pairs": 40, "batch_size": 20}
    assert facts["dfn"]["scale"] == {"source": "published", "pairs": 0, "batch_size": 0}
    assert data.teacher_facts["dfn"].logit_scale == 70
    assert data.teacher_facts["soft"].logit_scale == teachers[0].logit_scale != 77
    assert data.teacher_facts["soft"].logit_bias == 0
    assert 1 < data.teacher_facts["soft"].logit_scale < 100
    assert data.teacher_facts["hard"].logit_bias < 0
    again = calibrated([soft, published, hard], None, WHOLE, known=data.manifest.teachers)
    assert [teacher.describe() for teacher in again] == [teacher.describe() for teacher in teachers]
    assert calibrated([published], grey(40), WHOLE, which="all")[0].scale.source == "calibrated"
    assert calibrated([soft], None, WHOLE, which=False)[0].describe()["scale"] == {
        "source": "checkpoint",
        "pairs": 0,
        "batch_size": 0,
    }


def test_bad_images_are_passed_over_and_too_few_pairs_refused() -> None:
    from reinforced_data.sample import RawSample

    source = grey(40)
    source.samples[3] = RawSample("bad", b"no image", source.samples[3].captions)
    source.samples[5] = RawSample("mute", source.samples[5].image, ())
    assert calibrated([PairTeacher()], source, WHOLE)[0].scale.pairs == 38
    with pytest.raises(UsageError, match="at least 16 held-out images"):
        calibrated([PairTeacher()], grey(10), WHOLE)
