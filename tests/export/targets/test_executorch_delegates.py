"""Delegates that this machine cannot run: what they take of the graph, and the program that is inside the file."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from export.target import NotCheckedError, get_target
from export.targets.executorch_coreml import unpack
from export.towers.parity import run_all
from export.towers.rewrite import unit_length
from export.towers.tower import deployable_towers
from students.student import Student

pytestmark = pytest.mark.process


@pytest.fixture
def text_tower(student: Student) -> tuple[Any, Any]:
    _, text = deployable_towers(student)
    example = torch.zeros(1, student.context_length, dtype=torch.int32)
    return text, torch.export.export(text, (example,))


def test_core_ml_inside_executorch(text_tower: tuple[Any, Any], tokens: np.ndarray, tmp_path: Path) -> None:
    """The program is read back from the .pte itself, and says what the tower says."""
    logging.disable(logging.WARNING)  # coremltools' own, on its root logger
    tower, program = text_tower
    target, file = get_target("executorch-coreml"), tmp_path / "text.pte"
    made = target.convert(program, "text", file)
    assert (made.subgraphs, made.left) == (1, {})
    assert made.counts["layer_norm"] == 3
    found = run_all(target.load(file), tokens)
    cosine = (found * tower(torch.from_numpy(tokens)).numpy()).sum(1) / np.linalg.norm(found, axis=1)
    assert 0.9999 < cosine.min() < 1 - 1e-9  # fp16
    package = unpack(file, tmp_path)
    weights = next(package.rglob("weight.bin"))
    assert weights.stat().st_size < sum(p.numel() for p in tower.parameters()) * 2.2
    logging.disable(logging.NOTSET)


def test_vulkan_takes_the_whole_graph_and_is_not_run_here(tmp_path: Path) -> None:
    """On a block of the operations of a tower: the lowering of a whole one takes ten seconds, and says the same."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return unit_length(x + self.down(nn.functional.gelu(self.up(self.norm(x)))))

    logging.disable(logging.INFO)
    target, file = get_target("executorch-vulkan"), tmp_path / "text.pte"
    made = target.convert(torch.export.export(Block().eval(), (torch.rand(1, 8),)), "text", file)
    assert (made.subgraphs, made.left) == (1, {})
    assert made.counts["native_layer_norm"] == 1
    assert b"VulkanBackend" in file.read_bytes()
    with pytest.raises(NotCheckedError, match="no Vulkan inside"):
        target.load(file)
    logging.disable(logging.NOTSET)


def test_what_xnnpack_leaves_is_counted_with_the_reason(exported: tuple[Path, Any]) -> None:
    for artifact in exported[1]:
        made = artifact.operations
        assert sum(made.counts.values()) > 20
        if artifact.target != "executorch-xnnpack":
            assert made.delegated is None
            continue
        assert made.delegated + sum(made.left.values()) == sum(made.counts.values())
        assert made.delegated > 0.6 * sum(made.counts.values())
        assert "native_layer_norm" not in made.counts  # written out, see targets/parts/layer_norms.py
        assert made.left["amax"] == 1
        assert made.why["amax"] == "of the L2 norm: XNNPACK has no maximum over an axis"
