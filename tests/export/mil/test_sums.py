"""Sums in pieces: in exact arithmetic the same as torch's own, in fp16 rounded as tiles of that size are."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from export.mil.sums import conv, linear, matmul, pieces

BLOCKS = [1, 2, 3, 8, 1000]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Small whole numbers: every order of summation is exact."""
    return torch.randint(-8, 9, shape, generator=torch.Generator().manual_seed(seed)).float()


def exact(x: Tensor) -> Tensor:
    return x


def half(x: Tensor) -> Tensor:
    return x.half().float()


@pytest.mark.parametrize("blocks", BLOCKS)
def test_linear_and_matmul_are_torchs(blocks: int) -> None:
    x, weight, bias = numbers(2, 5, 7), numbers(4, 7, seed=1), numbers(4, seed=2)
    assert torch.equal(linear(x, weight, bias, blocks, exact), F.linear(x, weight, bias))
    assert torch.equal(linear(x, weight, None, blocks, exact), F.linear(x, weight))
    y = numbers(2, 7, 3, seed=3)
    assert torch.equal(matmul(x, y, blocks, exact), x @ y)


CONVS: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 6, 9, 8), (4, 6, 3, 3), {"stride": [2, 1], "dilation": [1, 2], "groups": 1}),
    ((1, 6, 9, 8), (4, 3, 3, 3), {"stride": [1, 1], "dilation": [1, 1], "groups": 2}),
    ((1, 6, 9, 8), (6, 1, 7, 3), {"stride": [1, 1], "dilation": [1, 1], "groups": 6}),
    ((1, 6, 9, 8), (12, 1, 1, 1), {"stride": [1, 1], "dilation": [1, 1], "groups": 6}),
    ((1, 6, 9), (4, 6, 3), {"stride": [1], "dilation": [1], "groups": 1}),
    ((1, 2, 5, 5, 5), (4, 2, 3, 2, 1), {"stride": [1] * 3, "dilation": [1] * 3, "groups": 1}),
]


@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize(("given", "kernel", "geometry"), CONVS)
def test_convolutions_are_torchs(
    given: tuple[int, ...], kernel: tuple[int, ...], geometry: dict[str, Any], blocks: int
) -> None:
    x, weight, bias = numbers(*given), numbers(*kernel, seed=1), numbers(kernel[0], seed=2)
    function: Any = (F.conv1d, F.conv2d, F.conv3d)[len(kernel) - 3]
    assert torch.equal(conv(x, weight, bias, geometry, blocks, exact), function(x, weight, bias, **geometry))


def test_pieces_cover_every_term_once_from_the_last() -> None:
    for length in (1, 2, 7, 64):
        for blocks in BLOCKS:
            cut = pieces(length, blocks)
            assert len(cut) <= blocks
            assert sorted(i for piece in cut for i in range(length)[piece]) == list(range(length))
            assert [piece.start for piece in cut] == sorted((piece.start for piece in cut), reverse=True)


def test_partial_sums_are_rounded_as_numpy_rounds_them() -> None:
    """2048 + 1 is 2048 in fp16: a partial sum of that size loses what comes behind it, and one added first does not."""
    x = np.array([1.0, 1.0, 2048.0, 0.0], np.float16)
    told = linear(torch.from_numpy(x).float()[None], torch.ones(1, 4), None, 4, half).item()
    total = np.float16(0)
    for term in x[::-1]:
        total = np.float16(total + term)
    assert told == float(total) == 2048
    assert linear(torch.from_numpy(x).float()[None], torch.ones(1, 4), None, 1, half).item() == 2050
