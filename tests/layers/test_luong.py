"""Luong's attention is the paper's: global or local, whole or step by step."""

from __future__ import annotations

import math

import pytest
import torch

from regard.layers import LuongAttention

SCORES = ["dot", "general", "concat", "location-8"]
KINDS = ["global", "local-m", "local-p"]


def made(score: str, kind: str, query_size: int = 4, memory_size: int = 4) -> LuongAttention:
    torch.manual_seed(0)
    return LuongAttention(query_size, memory_size, score, kind=kind, width=2).double()


def inputs(query_size: int = 4, memory_size: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return (
        torch.randn(2, 5, query_size).double(),
        torch.randn(2, 7, memory_size).double(),
        torch.tensor([7, 4]),
    )


def score_of(
    look: LuongAttention, name: str, query: torch.Tensor, key: torch.Tensor, place: int
) -> torch.Tensor:
    score = look.score()
    if name == "dot":
        return query @ key
    if name == "general":
        return query @ score.weight[0] @ key
    if name == "concat":
        return score.vector[0] @ torch.tanh(score.weight[0] @ torch.cat([query, key]) + score.bias[0])
    return score.weight[0, place] @ query


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCORES)
def test_it_is_the_formula_of_the_paper(name: str, kind: str) -> None:
    look = made(name, kind)
    query, memory, lengths = inputs()
    output, weights = look(query, look.prepare(memory, lengths), return_weights=True)
    for row, length in enumerate(lengths.tolist()):
        for t in range(5):
            state = query[row, t]
            center = float(t)
            if kind == "local-p":
                inner = look.place.vector.weight[0] @ torch.tanh(look.place.hidden.weight @ state)
                center = length / (1 + math.exp(-inner.item()))
            near = [s for s in range(length) if kind == "global" or abs(s - center) <= 2]
            expected = torch.zeros(7).double()
            if near:
                scores = torch.stack([score_of(look, name, state, memory[row, s], s) for s in near])
                expected[near] = torch.softmax(scores, 0)
            if kind == "local-p":
                places = torch.arange(7).double()
                expected = expected * torch.exp(-((places - center) ** 2) / (2 * (2 / 2) ** 2))
            torch.testing.assert_close(weights[row, 0, t], expected)
            context = expected @ memory[row]
            attentional = torch.tanh(look.output.weight @ torch.cat([context, state]))
            torch.testing.assert_close(output[row, t], attentional)


@pytest.mark.parametrize("kind", KINDS)
def test_step_by_step_equals_the_full_pass(kind: str) -> None:
    look = made("general", kind, 4, 6)
    query, memory, lengths = inputs(4, 6)
    prepared = look.prepare(memory, lengths)
    whole, weights = look(query, prepared, return_weights=True)
    for t in range(5):
        step, seen = look(query[:, t : t + 1], prepared, return_weights=True, position=t)
        torch.testing.assert_close(step, whole[:, t : t + 1])
        torch.testing.assert_close(seen, weights[:, :, t : t + 1])
    picked, _ = look(query[[1, 1]], prepared.select(torch.tensor([1, 1])))
    torch.testing.assert_close(picked, whole[[1, 1]])


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_learns(kind: str) -> None:
    for score, memory_size in (("general", 6), ("concat", 6), ("concat", 4), ("location-8", 6)):
        look = made(score, kind, 4, memory_size)
        query, memory, lengths = inputs(4, memory_size)
        look(query, look.prepare(memory, lengths))[0].square().sum().backward()
        for name, parameter in look.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.any(), (score, name)


def test_padding_is_not_looked_at() -> None:
    look = made("general", "local-p")
    query, memory, lengths = inputs()
    output, _ = look(query, look.prepare(memory, lengths))
    memory[1, 4:] += 100
    torch.testing.assert_close(look(query, look.prepare(memory, lengths))[0], output, rtol=0, atol=0)
    alone, _ = look(query[1:], look.prepare(memory[1:, :4], lengths[1:]))
    torch.testing.assert_close(alone, output[1:])


def test_what_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="kind must be one of global, local-m, local-p, it is 'local'"):
        LuongAttention(4, 4, kind="local")
    with pytest.raises(ValueError, match="query and key must have the same size for the score 'dot'"):
        LuongAttention(4, 6, "dot")
    with pytest.raises(ValueError, match="width must be a number above 0, it is 0"):
        LuongAttention(4, 4, kind="local-m", width=0)
    with pytest.raises(ValueError, match="did you mean 'general'"):
        LuongAttention(4, 4, "generl")


@pytest.mark.parametrize("kind", ["local-m", "local-p"])
def test_half_precision_counts_the_places_of_a_long_memory(kind: str) -> None:
    torch.manual_seed(0)
    layer = LuongAttention(8, 8, "dot", kind=kind, width=2).bfloat16()
    memory = layer.prepare(torch.zeros(1, 1500, 8).bfloat16(), torch.tensor([1500]))
    query = torch.randn(1, 1, 8).bfloat16()
    _, weights = layer(query, memory, return_weights=True, position=1001)
    precise = LuongAttention(8, 8, "dot", kind=kind, width=2)
    precise.load_state_dict(layer.state_dict())
    memory = precise.prepare(torch.zeros(1, 1500, 8), torch.tensor([1500]))
    _, expected = precise(query.float(), memory, return_weights=True, position=1001)
    places = torch.arange(1500.0)
    found, right = ((one.float() * places).sum() / one.float().sum() for one in (weights, expected))
    # The window is 2 places to either side; the hidden units of local-p are of half precision.
    assert abs(found - right) < (0.1 if kind == "local-m" else 2.0)
