"""A monotonic reader goes on, whole or step by step, softly in training and hard in evaluation."""

from __future__ import annotations

import pytest
import torch

from regard.layers import MonotonicAttention


def made() -> MonotonicAttention:
    torch.manual_seed(0)
    return MonotonicAttention(3, 5, 4, noise=0.0, offset=-0.2).double()


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return 4 * torch.randn(2, 5, 3).double(), 4 * torch.randn(2, 6, 5).double(), torch.tensor([6, 4])


@pytest.mark.parametrize("training", [True, False])
def test_step_by_step_equals_the_full_pass(training: bool) -> None:
    look = made().train(training)
    query, memory, lengths = inputs()
    prepared = look.prepare(memory, lengths)
    contexts, weights, end = look(query, prepared)
    state = None
    for i in range(5):
        context, seen, state = look(query[:, i : i + 1], prepared, state)
        torch.testing.assert_close(context, contexts[:, i : i + 1])
        torch.testing.assert_close(seen, weights[:, :, i : i + 1])
    torch.testing.assert_close(state, end)
    rows = torch.tensor([1, 1])
    picked, _, _ = look(query[rows, :1], prepared.select(rows), end[rows])
    torch.testing.assert_close(picked[0], look(query[:, :1], prepared, end)[0][1])


def test_training_is_the_expected_alignment_of_the_paper() -> None:
    look = made()
    query, memory, lengths = inputs()
    _, weights, _ = look(query, look.prepare(memory, lengths))
    score = look.score()
    for row, length in enumerate(lengths.tolist()):
        before = torch.eye(6)[0].double()
        for i in range(5):
            scores = torch.tanh(
                look.query.weight @ query[row, i] + memory[row] @ look.key.weight.T + score.bias[0]
            )
            stop = torch.sigmoid(scores @ score.weight[0] + look.offset)
            now = torch.zeros(6).double()
            for j in range(length):  # equation 8, as it stands
                reach = [before[k] * torch.prod(1 - stop[k:j]) for k in range(j + 1)]
                now[j] = stop[j] * sum(reach)
            torch.testing.assert_close(weights[row, 0, i], now)
            before = now


def test_in_evaluation_it_reads_once_and_never_goes_back() -> None:
    look = made().eval()
    query, memory, lengths = inputs()
    contexts, weights, _ = look(query, look.prepare(memory, lengths))
    assert set(weights.unique().tolist()) <= {0.0, 1.0}
    for row in weights[:, 0]:
        stops = [int(one.argmax()) for one in row if one.any()]
        assert stops == sorted(stops)
    assert weights.any()
    torch.testing.assert_close(contexts, weights[:, 0] @ memory)
    assert not weights[1, ..., 4:].any()


def test_noise_is_for_training_only() -> None:
    torch.manual_seed(0)
    look = MonotonicAttention(3, 5, noise=1.0).double()
    query, memory, lengths = inputs()
    prepared = look.prepare(memory, lengths)
    assert not torch.equal(look(query, prepared)[0], look(query, prepared)[0])
    look.eval()
    assert torch.equal(look(query, prepared)[0], look(query, prepared)[0])


def test_every_part_learns_and_bad_arguments_are_named() -> None:
    look = made()
    query, memory, lengths = inputs()
    prepared = look.prepare(memory, lengths)
    look(query, prepared)[0].square().sum().backward()
    assert all(parameter.grad.any() for parameter in look.parameters())
    with pytest.raises(ValueError, match=r"state must be \(batch, 6\), it has shape \(2, 5\)"):
        look(query, prepared, torch.zeros(2, 5))
    with pytest.raises(
        ValueError, match=r"the noise of monotonic must be a number of at least 0, it is -1.0"
    ):
        MonotonicAttention(3, 5, noise=-1.0)
