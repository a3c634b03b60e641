"""Bahdanau's attention is the paper's formula, with all of its parts."""

from __future__ import annotations

import pytest
import torch

import regard
from regard.layers import BahdanauAttention


def test_it_is_the_formula_of_the_paper() -> None:
    torch.manual_seed(0)
    look = BahdanauAttention(query_size=3, memory_size=5, attention_size=4).double()
    score = look.look.score()
    with torch.no_grad():
        score.bias.normal_()
    memory, query = torch.randn(2, 6, 5).double(), torch.randn(2, 3, 3).double()
    context, weights = look(query, look.prepare(memory, torch.tensor([6, 4])), return_weights=True)
    for row, length in enumerate((6, 4)):
        for i in range(3):
            scores = [
                score.weight[0]
                @ torch.tanh(
                    look.query.weight @ query[row, i] + look.key.weight @ memory[row, j] + score.bias[0]
                )
                for j in range(length)
            ]
            expected = torch.softmax(torch.stack(scores), 0)
            torch.testing.assert_close(weights[row, 0, i, :length], expected)
            torch.testing.assert_close(context[row, i], expected @ memory[row, :length])


def test_it_learns_both_projections_and_the_vector() -> None:
    look = BahdanauAttention(3, 5, 4)
    names = {name for name, _ in look.named_parameters()}
    assert names == {"query.weight", "key.weight", "look.score.weight", "look.score.bias"}
    output, _ = look(torch.randn(2, 3, 3), look.prepare(torch.randn(2, 6, 5), torch.tensor([6, 4])))
    output.square().sum().backward()
    assert all(parameter.grad.any() for parameter in look.parameters())


def test_another_normaliser_may_leave_places_out() -> None:
    torch.manual_seed(0)
    look = BahdanauAttention(3, 5, normalizer="top-2")
    _, weights = look(
        torch.randn(2, 1, 3), look.prepare(torch.randn(2, 6, 5), torch.tensor([6, 4])), return_weights=True
    )
    assert (weights > 0).sum(-1).tolist() == [[[2]], [[2]]]


def test_the_normalizer_may_be_an_object() -> None:
    torch.manual_seed(0)
    named = BahdanauAttention(4, 6, normalizer="softmax-0.5")
    given = BahdanauAttention(4, 6, normalizer=regard.normalizers.Softmax(0.5))
    given.load_state_dict(named.state_dict())
    memory, query = torch.randn(2, 5, 6), torch.randn(2, 3, 4)
    lengths = torch.tensor([5, 3])
    found, expected = (look(query, look.prepare(memory, lengths))[0] for look in (given, named))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    with pytest.raises(TypeError, match=r"normalizer of a mechanism must be an object of regard.normalizers"):
        BahdanauAttention(4, 6, normalizer=3)
