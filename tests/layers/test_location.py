"""Location-sensitive attention is the papers' recurrence, whole or step by step."""

from __future__ import annotations

import pytest
import torch

from regard.layers import LocationSensitiveAttention


def made(cumulative: bool, **more) -> LocationSensitiveAttention:
    torch.manual_seed(0)
    return LocationSensitiveAttention(3, 5, 4, features=2, kernel=3, cumulative=cumulative, **more).double()


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(2, 4, 3).double(), torch.randn(2, 6, 5).double(), torch.tensor([6, 4])


@pytest.mark.parametrize("cumulative", [False, True])
def test_it_is_the_recurrence_of_the_papers(cumulative: bool) -> None:
    look = made(cumulative)
    query, memory, lengths = inputs()
    contexts, weights, _ = look(query, look.prepare(memory, lengths))
    score = look.score()
    for row, length in enumerate(lengths.tolist()):
        last, total = torch.zeros(6).double(), torch.zeros(6).double()
        for i in range(4):
            channels = torch.stack([last, total] if cumulative else [last])
            features = torch.nn.functional.conv1d(channels[None], score.filters, padding=1)[0]
            energy = [
                look.query.weight @ query[row, i]
                + look.key.weight @ memory[row, j]
                + score.projection[0] @ features[:, j]
                + score.bias[0]
                for j in range(length)
            ]
            last = torch.zeros(6).double()
            last[:length] = torch.softmax(torch.stack([score.weight[0] @ e.tanh() for e in energy]), 0)
            total = total + last
            torch.testing.assert_close(weights[row, 0, i], last)
            torch.testing.assert_close(contexts[row, i], last @ memory[row])


@pytest.mark.parametrize("cumulative", [False, True])
def test_step_by_step_equals_the_full_pass(cumulative: bool) -> None:
    look = made(cumulative)
    query, memory, lengths = inputs()
    prepared = look.prepare(memory, lengths)
    contexts, weights, end = look(query, prepared)
    state = look.start(prepared)
    for i in range(4):
        context, seen, state = look.step(query[:, i], prepared, state)
        torch.testing.assert_close(context, contexts[:, i])
        torch.testing.assert_close(seen, weights[:, 0, i])
    torch.testing.assert_close(state, end)
    # A beam takes rows of memory and state along, together.
    rows = torch.tensor([1, 1, 0])
    context, _, _ = look.step(query[rows, 0], prepared.select(rows), end[rows])
    torch.testing.assert_close(context[2], look.step(query[:, 0], prepared, end)[0][0])


def test_the_past_teaches_the_filters() -> None:
    """What the last step sees of the first is differentiable: all parts learn, and the first query matters."""
    look = made(True)
    query, memory, lengths = inputs()
    query.requires_grad_()
    look(query, look.prepare(memory, lengths))[0][:, -1].square().sum().backward()
    assert all(parameter.grad.any() for parameter in look.parameters())
    assert query.grad[:, 0].any()


def test_filters_can_make_it_read_on() -> None:
    """A filter that sees the place before moves the weight one place a step."""
    look = LocationSensitiveAttention(1, 4, 4, features=1, kernel=3, cumulative=False)
    with torch.no_grad():
        for parameter in look.parameters():
            parameter.zero_()
        look.score.filters[0, 0, 0] = 1.0  # of a place, what is before it
        look.score.projection[0, 0] = 20.0
        look.score.weight[0, 0] = 50.0
    prepared = look.prepare(torch.eye(4)[None], torch.tensor([4]))
    start = torch.tensor([[[1.0, 0, 0, 0]]])
    contexts, _, _ = look(torch.zeros(1, 3, 1), prepared, start)
    assert contexts[0].argmax(-1).tolist() == [1, 2, 3]


def test_no_query_leaves_the_state_alone() -> None:
    look = made(True)
    query, memory, lengths = inputs()
    prepared = look.prepare(memory, lengths)
    state = torch.rand(2, 2, 6).double()
    contexts, weights, after = look(query[:, :0], prepared, state)
    assert contexts.shape == (2, 0, 5)
    assert weights.shape == (2, 1, 0, 6)
    assert after is state


def test_bad_arguments_are_named() -> None:
    look = made(True)
    query, memory, lengths = inputs()
    prepared = look.prepare(memory, lengths)
    with pytest.raises(ValueError, match=r"state must be \(batch, channels, memory_len\) = \(2, 2, 6\)"):
        look.step(query[:, 0], prepared, torch.zeros(2, 1, 6).double())
    with pytest.raises(ValueError, match=r"query must be \(batch, 3\), it has shape \(2, 4, 3\)"):
        look.step(query, prepared)
    with pytest.raises(ValueError, match="kernel must be odd, it is 4"):
        LocationSensitiveAttention(3, 5, kernel=4)


def test_coupled_normalizers_and_wrong_states_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"normalizer must weigh each query by itself, .*'monotonic' does not"
    ):
        LocationSensitiveAttention(4, 6, normalizer="monotonic")
    layer = LocationSensitiveAttention(4, 6)
    memory = layer.prepare(torch.randn(2, 5, 6), torch.tensor([5, 3]))
    with pytest.raises(TypeError, match="state must be a tensor, it is list"):
        layer.step(torch.randn(2, 4), memory, [1.0])
    with pytest.raises(TypeError, match=r"call layer.prepare\(memory, lengths\) first"):
        layer.start(torch.randn(2, 5, 6))


def test_sums_do_not_stop_growing_in_half_precision() -> None:
    layer = LocationSensitiveAttention(4, 6).bfloat16()
    memory = layer.prepare(torch.zeros(1, 1, 6).bfloat16(), torch.tensor([1]))
    _, _, state = layer(torch.zeros(1, 300, 4).bfloat16(), memory)
    assert state[0, 1].item() == 300  # bfloat16 stops at 256
