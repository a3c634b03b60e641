"""Dropout is unbiased and independent."""

from __future__ import annotations

import pytest
import torch

from regard.layers.dropout import Dropout


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.9])
def test_keeps_the_mean_and_drops_the_share(rate):
    torch.manual_seed(0)
    count = 400_000
    dropped = Dropout(rate)(torch.ones(count))
    deviation = (rate * (1 - rate) / count) ** 0.5
    assert abs((dropped == 0).double().mean().item() - rate) < 4 * deviation
    assert abs(dropped.double().mean().item() - 1) < 4 * deviation / (1 - rate)
    assert dropped.unique().numel() == 2


def test_neighbours_are_independent():
    # Four elements share a random number: none of the four may tell about another.
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(400_000)) != 0).double().view(-1, 4)
    together = torch.corrcoef(kept.T) - torch.eye(4)
    assert together.abs().max() < 4 / 100_000**0.5


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 7), (0, 3)])
def test_any_shape(shape):
    assert Dropout(0.5)(torch.ones(shape)).shape == shape


def test_the_gradient_passes_where_the_value_did():
    torch.manual_seed(0)
    input = torch.randn(50, 3, dtype=torch.float64, requires_grad=True)
    output = Dropout(0.4)(input)
    output.sum().backward()
    torch.testing.assert_close(input.grad * input, output)


def test_add_is_residual_and_dropout():
    layer = Dropout(0.4)
    residual, input = torch.randn(50, 3), torch.randn(50, 3)
    torch.manual_seed(1)
    found = layer.add(residual, input)
    torch.manual_seed(1)
    torch.testing.assert_close(found, residual + layer(input))
    torch.testing.assert_close(layer.eval().add(residual, input), residual + input)


def test_a_seed_repeats_it():
    layer = Dropout(0.4)
    torch.manual_seed(1)
    first = layer(torch.ones(100))
    torch.manual_seed(1)
    assert torch.equal(first, layer(torch.ones(100)))


def test_evaluation_and_rate_zero_change_nothing():
    input = torch.randn(5)
    assert Dropout(0.4).eval()(input) is input
    assert Dropout(0.0)(input) is input
    with pytest.raises(ValueError, match="rate"):
        Dropout(1.0)


def test_compiled_and_mapped_it_is_pytorchs() -> None:
    layer = Dropout(0.5)
    x = torch.ones(4, 1000)
    for run in (
        torch.compile(layer, fullgraph=True, backend="eager"),
        torch.vmap(layer, randomness="different"),
        torch.vmap(lambda row: layer.add(torch.zeros_like(row), row), randomness="different"),
    ):
        found = run(x)
        assert set(found.unique().tolist()) == {0.0, 2.0}
        assert 0.4 < (found > 0).float().mean() < 0.6
