"""The comparison against hand-made vectors, and planted faults that it must find."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from export.artifacts.precision import PRECISIONS
from export.settings import ExportSettings
from export.target import NotCheckedError, get_target
from export.towers.parity import Reference, check_file, compare, required_cosine, run_all
from export.towers.text import EndPool, TextTower
from export.towers.tower import ImageTower, deployable_towers
from students.student import Student


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_equal_embeddings() -> None:
    eager, other = (
        _unit(np.random.default_rng(0).normal(size=(5, 8))),
        _unit(np.random.default_rng(1).normal(size=(4, 8))),
    )
    report = compare(eager, eager, other, "by hand")
    assert report.cosine_min == pytest.approx(1)
    assert (report.top1_agreement, report.samples, report.checked_by) == (1.0, 5, "by hand")


def test_figures_by_hand() -> None:
    eager = np.eye(4, dtype=np.float32)[:3]
    turned = eager.copy()
    turned[1] = [0, 0.8, 0, 0.6]  # cosine 0.8, and its nearest of the other tower changes
    other = np.array([[1, 0, 0, 0], [0, 0.8, 0, -0.6], [0, 0.5, 0, 0.8]], dtype=np.float32)
    report = compare(turned, eager, other, "")
    assert report.cosine_min == pytest.approx(0.8)
    assert report.cosine_mean == pytest.approx((1 + 0.8 + 1) / 3)
    assert report.top1_agreement == pytest.approx(2 / 3)


def test_a_shared_direction_hides_nothing_from_the_centred_cosine() -> None:
    """Embeddings that all point one way: what tells them apart is a hundredth of them, and half of it is lost."""
    random = np.random.default_rng(0)
    apart = random.normal(size=(50, 8)) * 0.1
    apart[:, 0] = 0
    eager = _unit(np.eye(8)[0] + apart)
    lost = _unit(np.eye(8)[0] + apart * [0, 1, 1, 1, 0, 0, 0, 0])
    report = compare(lost, eager, eager, "")
    mean = eager.astype(np.float64).mean(0)
    rows = [(a - mean, b - mean) for a, b in zip(eager.astype(np.float64), lost.astype(np.float64), strict=True)]
    by_hand = [float(a @ b / np.sqrt((a @ a) * (b @ b))) for a, b in rows]
    assert report.cosine_min is not None
    assert report.cosine_min > 0.9
    assert report.centred_cosine_mean == pytest.approx(np.mean(by_hand))
    assert report.centred_cosine_min == pytest.approx(min(by_hand))
    assert 0.5 < np.mean(by_hand) < 0.8
    noise = sum(float((a - b) @ (a - b)) for a, b in rows)
    assert report.snr_db == pytest.approx(10 * np.log10(sum(float(a @ a) for a, _ in rows) / noise))
    assert report.cosine_p1 == pytest.approx(np.percentile((eager.astype(float) * lost).sum(1), 1), abs=1e-6)


def test_what_was_never_apart_has_no_centred_cosine() -> None:
    same = _unit(np.eye(8)[0] + 1e-4 * np.random.default_rng(0).normal(size=(5, 8)))
    report = compare(same, same, same, "")
    assert (report.centred_cosine_mean, report.snr_db) == (None, None)
    assert compare(same[:1], same[:1], same, "").centred_cosine_min is None


@pytest.mark.parametrize(("each", "run"), [(1.0, 4), (3.0, 2), (100.0, 1), (0.1, 6)])
def test_a_slow_runtime_is_shown_as_many_samples_as_its_time_allows(
    each: float, run: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is the test's: every call takes `each` seconds, and none is begun after three."""
    now = 50.0

    def slow(value: np.ndarray) -> np.ndarray:
        nonlocal now
        now += each
        return value

    monkeypatch.setattr("export.towers.parity.time.monotonic", lambda: now)
    eager = _unit(np.random.default_rng(0).normal(size=(6, 8)))
    assert np.array_equal(run_all(slow, eager, 3.0), eager[:run])
    assert np.array_equal(run_all(slow, eager), eager)
    target = get_target("onnx")
    monkeypatch.setattr(type(target), "check_seconds", 3.0)
    monkeypatch.setattr(type(target), "load", lambda *_: slow)
    report = check_file(target, Path("none"), "image", Reference(eager, eager, eager, eager))
    assert (report.samples, report.cosine_min) == (run, pytest.approx(1))


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_broken_embeddings_agree_with_nothing(value: float) -> None:
    eager = np.eye(4, dtype=np.float32)
    broken = eager.copy()
    broken[2] = value
    report = compare(broken, eager, eager, "")
    assert report.cosine_min is not None
    assert report.cosine_min <= 0.5


def test_a_lost_l2_norm_shows_although_the_angle_is_right() -> None:
    eager = np.eye(4, dtype=np.float32)
    report = compare(eager * 3, eager, eager, "")
    assert report.cosine_min is not None
    assert report.cosine_min < 0.9


def test_fp32_is_held_to_more() -> None:
    settings = ExportSettings(min_cosine=0.99, min_cosine_quantized=0.9)
    assert required_cosine(PRECISIONS["fp16"], settings) == 0.99
    assert required_cosine(PRECISIONS["fp32"], settings) == pytest.approx(0.9999)
    assert required_cosine(PRECISIONS["w8a8-dynamic"], settings) == 0.9


def test_what_cannot_run_is_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    target = get_target("onnx")

    def refuse(path: Path, threads: int = 1) -> None:
        raise NotCheckedError("not checked: op atan")

    monkeypatch.setattr(target, "load", refuse)
    report = check_file(target, Path("x"), "image", Reference(*[np.zeros((1, 1))] * 4))
    assert report.checked_by == "not checked: op atan"
    assert (report.cosine_min, report.cosine_mean, report.top1_agreement, report.samples) == (None, None, None, 0)


@pytest.fixture(scope="module")
def reference(student: Student, pixels: np.ndarray, tokens: np.ndarray) -> Reference:
    with torch.no_grad():
        image = student.encode_image(torch.from_numpy(pixels)).numpy()
        text = student.encode_text(torch.from_numpy(tokens).long()).numpy()
    return Reference(pixels, tokens, image, text)


def _image_fault(change: Callable[[ImageTower], None]) -> Callable[[Student], ImageTower | TextTower]:
    def build(student: Student) -> ImageTower:
        image, _ = deployable_towers(student)
        change(image)
        return image

    return build


def _swap_channels(tower: ImageTower) -> None:
    conv = tower.visual.conv1
    conv.weight.copy_(conv.weight.flip(1))  # type: ignore[operator, union-attr]


def _pool_last(student: Student) -> TextTower:
    _, text = deployable_towers(student)
    assert isinstance(text.pool, EndPool)
    text.pool.eot = 0  # the padding
    return text


def _no_mask(student: Student) -> TextTower:
    _, text = deployable_towers(student)
    text.mask = None
    return text


FAULTS = {
    "swapped channels": _image_fault(_swap_channels),
    "no normalisation": _image_fault(lambda tower: setattr(tower, "normalises", False)),
    "wrong pooling": _pool_last,
    "causal mask lost": _no_mask,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_fail_even_the_lenient_bar(fault: str, student: Student, reference: Reference) -> None:
    """In eager torch: what the comparison must notice does not depend on the file format."""
    tower = FAULTS[fault](student)
    is_image = isinstance(tower, ImageTower)
    inputs, eager, other = (
        (reference.pixels, reference.image, reference.text)
        if is_image
        else (reference.tokens, reference.text, reference.image)
    )
    with torch.no_grad():
        made = run_all(lambda value: tower(torch.from_numpy(value)).numpy(), inputs)
    report = compare(made, eager, other, "")
    assert report.cosine_min is not None
    assert report.cosine_min < 0.95
    sound = deployable_towers(student)[0 if is_image else 1]
    with torch.no_grad():
        report = compare(run_all(lambda value: sound(torch.from_numpy(value)).numpy(), inputs), eager, other, "")
    assert report.cosine_min is not None
    assert report.cosine_min > 0.99999


def test_reference_round_trip(reference: Reference, tmp_path: Path) -> None:
    reference.save(tmp_path / "r.npz")
    again = Reference.load(tmp_path / "r.npz")
    assert np.array_equal(again.image, reference.image)
    assert again.tokens.dtype == np.int32
