"""Coverage is the sum of what was looked at, and its loss keeps a decoder from looking there again."""

from __future__ import annotations

import pytest
import torch

from regard.layers import BahdanauAttention, CoverageAttention, coverage_loss


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(2, 4, 3).double(), torch.randn(2, 6, 5).double(), torch.tensor([6, 4])


def made() -> CoverageAttention:
    torch.manual_seed(0)
    look = CoverageAttention(3, 5, 4).double()
    with torch.no_grad():
        look.score.projection.normal_()
        look.score.bias.normal_()
    return look


def test_it_is_the_recurrence_of_the_paper() -> None:
    look = made()
    query, memory, lengths = inputs()
    contexts, weights, coverage = look(query, look.prepare(memory, lengths))
    score = look.score()
    for row, length in enumerate(lengths.tolist()):
        covered = torch.zeros(6).double()
        for i in range(4):
            energy = [
                look.query.weight @ query[row, i]
                + look.key.weight @ memory[row, j]
                + score.projection[0, :, 0] * covered[j]
                + score.bias[0]
                for j in range(length)
            ]
            expected = torch.zeros(6).double()
            expected[:length] = torch.softmax(torch.stack([score.weight[0] @ e.tanh() for e in energy]), 0)
            covered = covered + expected
            torch.testing.assert_close(weights[row, 0, i], expected)
            torch.testing.assert_close(contexts[row, i], expected @ memory[row])
        torch.testing.assert_close(coverage[row, 0], covered)


def test_step_by_step_equals_the_full_pass() -> None:
    look = made()
    query, memory, lengths = inputs()
    prepared = look.prepare(memory, lengths)
    contexts, _, coverage = look(query, prepared)
    state = None
    for i in range(4):
        context, _, state = look.step(query[:, i], prepared, state)
        torch.testing.assert_close(context, contexts[:, i])
    torch.testing.assert_close(state, coverage)


def test_it_starts_as_bahdanau_and_learns_one_vector_more() -> None:
    torch.manual_seed(0)
    look, plain = CoverageAttention(3, 5, 4).double(), BahdanauAttention(3, 5, 4).double()
    query, memory, lengths = inputs()
    with torch.no_grad():
        for name in ("query", "key"):
            getattr(plain, name).weight.copy_(getattr(look, name).weight)
        plain.look.score.weight.copy_(look.score.weight)
    found, _, _ = look(query, look.prepare(memory, lengths))
    torch.testing.assert_close(found, plain(query, plain.prepare(memory, lengths))[0])
    extra = {name for name, _ in look.named_parameters()} - {"query.weight", "key.weight"}
    assert extra == {"score.weight", "score.bias", "score.projection"}
    found.square().sum().backward()
    assert look.score.projection.grad.any()


def test_the_loss_is_what_is_looked_at_again() -> None:
    torch.manual_seed(0)
    weights = torch.softmax(torch.randn(2, 3, 5, 7), -1)
    expected = torch.zeros(2, 3, 5)
    for i in range(5):
        before = weights[:, :, :i].sum(2)
        expected[:, :, i] = torch.minimum(weights[:, :, i], before).sum(-1)
    torch.testing.assert_close(coverage_loss(weights), expected)
    first, rest = weights[:, :, :2], weights[:, :, 2:]
    torch.testing.assert_close(coverage_loss(rest, first.sum(2)), expected[:, :, 2:])
    assert not coverage_loss(torch.eye(4)).any()  # nothing is looked at twice
    with pytest.raises(ValueError, match=r"coverage must be \(..., key_len\) = \(2, 3, 7\), as weights are"):
        coverage_loss(weights, torch.zeros(7))


def test_training_with_the_loss_keeps_it_from_looking_twice() -> None:
    torch.manual_seed(0)
    look = CoverageAttention(3, 4, 4)
    query, memory = torch.randn(1, 4, 3), torch.randn(1, 4, 4)
    optimizer = torch.optim.Adam(look.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        _, weights, _ = look(query, look.prepare(memory, torch.tensor([4])))
        loss = coverage_loss(weights).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_the_loss_of_half_precision_is_that_of_single() -> None:
    weights = torch.full((600, 2), 0.5).bfloat16()
    assert torch.equal(coverage_loss(weights), coverage_loss(weights.float()))
    coverage = torch.full((2,), 300.0)
    late = coverage_loss(torch.tensor([[2.0, 0.0]]).bfloat16(), coverage)
    assert late.tolist() == [2.0]
