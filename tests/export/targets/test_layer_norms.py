"""LayerNorm written out: equal to torch's, in numbers and with what the delegate then takes."""

import pytest
import torch

from export.targets.parts.layer_norms import spread_layer_norms

NORM, LINEAR = torch.ops.aten.layer_norm.default, torch.ops.aten.linear.default


class Block(torch.nn.Module):
    """Two norms of one width, one of another without weights, around a linear layer; its input is far from zero mean."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.second = torch.nn.LayerNorm(24, eps=1e-3), torch.nn.LayerNorm(24)
        self.bare = torch.nn.LayerNorm(8, elementwise_affine=False)
        self.linear = torch.nn.Linear(24, 8)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bare(self.linear(self.second(self.first(x) * 3 + 40)))


@pytest.fixture(scope="module")
def program() -> torch.export.ExportedProgram:
    return torch.export.export(Block().eval(), (torch.rand(1, 5, 24) * 2 + 7,))


def test_it_is_the_same_function(program: torch.export.ExportedProgram) -> None:
    spread = spread_layer_norms(program)
    assert not [node for node in spread.graph.nodes if node.target == NORM]
    assert sum(node.target == LINEAR for node in spread.graph.nodes) == 1 + 2 * 3
    (x,) = program.example_inputs[0]
    block = program.module(check_guards=False)
    for value in (x, torch.randn(1, 5, 24), torch.zeros(1, 5, 24)):
        torch.testing.assert_close(spread.module(check_guards=False)(value), block(value), rtol=1e-5, atol=1e-5)
    means = {name: value for name, value in spread.state_dict.items() if "mean_of" in name}
    assert {tuple(value.shape) for value in means.values()} == {(1, 24), (1, 8)}  # one column per width
    assert all(value.sum() == pytest.approx(1) for value in means.values())


def test_a_program_without_one_is_left_alone() -> None:
    plain = torch.export.export(torch.nn.Linear(4, 4), (torch.rand(1, 4),))
    assert spread_layer_norms(plain) is plain


@pytest.mark.process
def test_xnnpack_takes_all_of_it(program: torch.export.ExportedProgram, tmp_path) -> None:
    from export.targets.executorch_xnnpack import ExecutorchXnnpack

    target = ExecutorchXnnpack()
    made = target.convert(program, "image", tmp_path / "block.pte")
    assert made.subgraphs == 1
    assert not [name for name in made.counts if "norm" in name]
    (x,) = program.example_inputs[0]
    got = torch.from_numpy(target.load(tmp_path / "block.pte")(x.numpy()))
    torch.testing.assert_close(got, program.module(check_guards=False)(x), rtol=1e-5, atol=1e-5)
