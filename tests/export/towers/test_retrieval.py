"""What a file costs in retrieval: against evaluation's own figures, a bootstrap by hand, and at the gate."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distill.evaluation.metrics import retrieval, zero_shot
from export.artifacts.record import ParityReport
from export.children.job import ExportJob
from export.target import get_target
from export.towers.parity import Reference, compare, with_retrieval
from export.towers.retrieval import RESAMPLES, SEED, retrieval_drop

DRAW = np.random.default_rng(3)


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


TEXT = _unit(DRAW.normal(size=(40, 8)))
IMAGE = _unit(TEXT + 0.3 * DRAW.normal(size=TEXT.shape))
WORSE = _unit(IMAGE + 0.5 * DRAW.normal(size=TEXT.shape))
TOKENS = np.arange(40, dtype=np.int32)[:, None] * np.ones((1, 3), np.int32)


def test_points_are_the_difference_of_both_recalls_at_1() -> None:
    fits = np.arange(40)
    drop = retrieval_drop((IMAGE, TEXT), (WORSE, TEXT), TOKENS, fits)
    assert drop is not None
    before, after = (retrieval(image, TEXT, fits) for image in (IMAGE, WORSE))
    by_hand = sum(before[key] - after[key] for key in ("t2i_r1", "i2t_r1")) / 2
    assert drop.points == pytest.approx(by_hand, abs=1e-6)
    assert drop.points > 10
    assert (drop.low < drop.points < drop.high, drop.pairs) == (True, 40)


def test_prompts_of_classes_are_judged_by_top_1() -> None:
    labels = np.arange(40) % 5
    prompts, tokens = TEXT[:5], TOKENS[:5]
    image = _unit(prompts[labels] + 0.4 * DRAW.normal(size=(40, 8)))
    worse = _unit(image + 0.6 * DRAW.normal(size=(40, 8)))
    drop = retrieval_drop((image, prompts), (worse, prompts), tokens, labels)
    assert drop is not None
    assert drop.points == pytest.approx(
        zero_shot(image, prompts, labels)["top1"] - zero_shot(worse, prompts, labels)["top1"], abs=1e-3
    )


@pytest.mark.parametrize(("images", "texts"), [(40, 25), (25, 40), (12, 30)])
def test_the_first_rows_alone_are_judged_as_if_there_were_no_others(images: int, texts: int) -> None:
    fits = np.arange(40)
    part = retrieval_drop((IMAGE, TEXT), (WORSE[:images], TEXT[:texts]), TOKENS, fits)
    known = min(images, texts)
    alone = retrieval_drop(
        (IMAGE[:images], TEXT[:texts]), (WORSE[:images], TEXT[:texts]), TOKENS[:texts], fits[:images]
    )
    assert part == alone
    assert part is not None
    assert part.pairs == known


def test_equal_captions_are_equally_right() -> None:
    """Two images of one caption: either row of it is the right one."""
    tokens = TOKENS.copy()
    tokens[1] = tokens[0]
    text = TEXT.copy()
    text[1] = text[0]
    swapped = text[[1, 0, *range(2, 40)]]
    drop = retrieval_drop((IMAGE, text), (IMAGE, swapped), tokens, np.arange(40))
    assert drop is not None
    assert (drop.points, drop.low, drop.high) == (0, 0, 0)


def test_the_interval_is_a_paired_bootstrap() -> None:
    """Counted pair by pair in plain Python, resampled one draw at a time."""
    drop = retrieval_drop((IMAGE, TEXT), (WORSE, TEXT), TOKENS, np.arange(40))
    assert drop is not None

    def hits(image: np.ndarray) -> list[float]:
        rows = (image.astype(float) @ TEXT.astype(float).T).tolist()
        found = []
        for i in range(40):
            own = rows[i][i]
            to_text = all(own > rows[i][j] for j in range(40) if j != i)
            to_image = all(own > rows[j][i] for j in range(40) if j != i)
            found.append((to_text + to_image) / 2)
        return found

    lost = [a - b for a, b in zip(hits(IMAGE), hits(WORSE), strict=True)]
    random = np.random.default_rng(SEED)
    means = sorted(100 * sum(lost[i] for i in row) / 40 for row in random.integers(0, 40, (RESAMPLES, 40)))
    assert drop.low == pytest.approx(np.quantile(means, 0.025))
    assert drop.high == pytest.approx(np.quantile(means, 0.975))
    assert drop == retrieval_drop((IMAGE, TEXT), (WORSE, TEXT), TOKENS, np.arange(40))


def test_the_interval_covers_the_truth() -> None:
    """Of files that lose each pair with a chance of 0.1, about 95 in 100 intervals hold 10 points."""
    text = np.eye(60, 120, dtype=np.float32)
    covered = 0
    for seed in range(150):
        lost = np.random.default_rng(1000 + seed).random(60) < 0.1
        image = np.where(lost[:, None], np.roll(text, 60, axis=1), text)  # a lost one is near to nothing
        drop = retrieval_drop((text, text), (image, text), np.arange(60)[:, None], np.arange(60))
        assert drop is not None
        assert drop.points == pytest.approx(lost.mean() * 100)
        covered += drop.low <= 10 <= drop.high
    assert 0.88 <= covered / 150 <= 0.995


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_what_is_no_number_finds_nothing(value: float) -> None:
    drop = retrieval_drop((IMAGE, TEXT), (np.full_like(IMAGE, value), TEXT), TOKENS, np.arange(40))
    fine = retrieval(IMAGE, TEXT, np.arange(40))
    assert drop is not None
    assert drop.points == pytest.approx((fine["t2i_r1"] + fine["i2t_r1"]) / 2, abs=1e-3)


def test_unknown_pairs_say_nothing() -> None:
    assert retrieval_drop((IMAGE, TEXT), (WORSE, TEXT), TOKENS, np.full(40, -1)) is None
    assert retrieval_drop((IMAGE, TEXT), (WORSE[:1], TEXT), TOKENS, np.arange(40)) is None
    assert retrieval_drop((IMAGE, TEXT), (WORSE, TEXT), np.zeros((40, 3), np.int32), np.arange(40)) is None
    few = retrieval_drop((IMAGE, TEXT), (WORSE[:9], TEXT), TOKENS, np.arange(40))
    assert few is not None
    assert few.pairs == 9
    reference = Reference(IMAGE, TOKENS, IMAGE, TEXT)
    assert with_retrieval(compare(WORSE, IMAGE, TEXT, ""), WORSE, "image", reference).retrieval_drop is None


def _job(drop: float) -> ExportJob:
    return ExportJob(get_target("onnx"), Path("x"), "", -1.0, None, {}, "", {}, drop_bar=drop)


def test_the_gate() -> None:
    """A loss that is larger than the bar and surely there fails; one that may be chance, or of few pairs, does not."""
    reference = Reference(IMAGE, TOKENS, IMAGE, TEXT, fits=np.arange(40))
    report = with_retrieval(compare(WORSE, IMAGE, TEXT, "x"), WORSE, "image", reference)
    assert report.retrieval_drop is not None
    assert "R@1 falls by" in _job(2.0).misses(report)
    assert "40 pairs" in _job(2.0).misses(report)
    assert not _job(report.retrieval_drop + 1).misses(report)
    assert not _job(2.0).misses(replace(report, retrieval_drop_low=-0.1))
    assert not _job(2.0).misses(replace(report, retrieval_pairs=29))
    text = with_retrieval(compare(TEXT, TEXT, IMAGE, "x"), TEXT, "text", reference)
    assert (text.retrieval_drop, text.retrieval_drop_low) == (0, 0)
    assert not _job(0.0).misses(text)
    assert not _job(0.0).misses(ParityReport("not checked", None, None, None, 0))
