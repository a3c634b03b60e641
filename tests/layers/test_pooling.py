"""A pooled sequence is a weighted mean of it, whatever its order and padding."""

from __future__ import annotations

import pytest
import torch

from regard.layers import AttentionPooling


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(2, 6, 4).double(), torch.tensor([6, 3])


def test_it_is_the_formula_of_hierarchical_attention() -> None:
    """Yang et al. 2016: a hidden layer on every word, and a vector that asks which is informative."""
    torch.manual_seed(0)
    pool = AttentionPooling(4).double()
    sequence, lengths = inputs()
    output, weights = pool(sequence, lengths, return_weights=True)
    look = pool.attention
    bias = look.query.weight @ pool.seeds[0] + look.look.score.bias[0]
    for row, length in enumerate(lengths.tolist()):
        hidden = torch.tanh(sequence[row, :length] @ look.key.weight.T + bias)
        expected = torch.softmax(hidden @ look.look.score.weight[0], 0)
        torch.testing.assert_close(weights[row, 0, 0, :length], expected)
        torch.testing.assert_close(output[row, 0], expected @ sequence[row, :length])


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("mechanism", ["additive/softmax", "scaled_dot/softmax", "cosine/sparsemax"])
def test_order_and_padding_change_nothing(mechanism: str, heads: int) -> None:
    torch.manual_seed(0)
    pool = AttentionPooling(4, heads, mechanism, seeds=3).double()
    sequence, lengths = inputs()
    output, weights = pool(sequence, lengths, return_weights=True)
    assert output.shape == (2, 3, 4)
    assert weights.shape == (2, heads, 3, 6)
    mixed = sequence.clone()
    mixed[1, :3] = sequence[1, [2, 0, 1]]
    mixed[1, 3:] += 100
    torch.testing.assert_close(pool(mixed, lengths)[0], output)


def test_it_learns_to_find_the_one_that_matters() -> None:
    """A bag is positive if one of its instances is marked, as in multiple-instance learning."""
    torch.manual_seed(0)
    pool, head = AttentionPooling(4), torch.nn.Linear(4, 1)
    optimizer = torch.optim.Adam([*pool.parameters(), *head.parameters()], lr=0.03)
    marks = torch.randint(8, (64,))
    bags = torch.randn(64, 8, 4) * 0.3
    label = torch.arange(64) % 2
    bags[torch.arange(64), marks, 0] += 3.0 * label
    lengths = torch.full((64,), 8)
    for _ in range(60):
        output, weights = pool(bags, lengths, return_weights=True)
        scores = head(output[:, 0])[:, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(scores, label.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    positive = label == 1
    assert ((scores > 0) == positive).all()
    assert (weights[positive, 0, 0].argmax(-1) == marks[positive]).all()


def test_every_part_learns() -> None:
    pool = AttentionPooling(4, 2, "additive/softmax", seeds=2).double()
    pool(*inputs())[0].square().sum().backward()
    assert all(parameter.grad.any() for parameter in pool.parameters())
    with pytest.raises(ValueError, match="seeds must be a whole number of at least 1, it is 0"):
        AttentionPooling(4, seeds=0)
    with pytest.raises(ValueError, match=r"sequence must be \(batch, length, 4\), it has shape \(6, 4\)"):
        pool(torch.randn(6, 4), torch.tensor([6]))


@pytest.mark.parametrize("heads", [1, 2])
def test_nothing_sums_up_to_zero(heads: int) -> None:
    pool = AttentionPooling(4, heads)
    output, _ = pool(torch.randn(2, 3, 4), torch.tensor([0, 3]))
    assert not output[0].any()
    assert output[1].any()
