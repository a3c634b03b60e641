"""Attention flow is the paper's, by way of all the scores written out."""

from __future__ import annotations

import pytest
import torch

import regard
from regard.layers import BidirectionalAttentionFlow


def made() -> BidirectionalAttentionFlow:
    torch.manual_seed(0)
    return BidirectionalAttentionFlow(4).double()


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    context, query = torch.randn(2, 6, 4).double(), torch.randn(2, 3, 4).double()
    return context, torch.tensor([6, 4]), query, torch.tensor([3, 2])


def written_out(
    flow: BidirectionalAttentionFlow, context: torch.Tensor, query: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One pair of sequences without padding, as the paper has it."""
    h, u = context[:, None].expand(-1, len(query), -1), query[None].expand(len(context), -1, -1)
    scores = torch.cat([h, u, h * u], -1) @ flow.score.weight
    weights = scores.softmax(-1)
    found = weights @ query
    whole = scores.max(-1).values.softmax(0) @ context
    return torch.cat([context, found, context * found, context * whole], -1), weights


def test_it_is_the_formula_of_the_paper() -> None:
    flow = made()
    context, context_lengths, query, query_lengths = inputs()
    output, weights = flow(context, context_lengths, query, query_lengths, return_weights=True)
    for row, (t, j) in enumerate(zip(context_lengths.tolist(), query_lengths.tolist(), strict=True)):
        expected, looked = written_out(flow, context[row, :t], query[row, :j])
        torch.testing.assert_close(output[row, :t], expected)
        torch.testing.assert_close(weights[row, :t, :j], looked)
        assert not output[row, t:].any()


def test_its_gradient_is_that_of_the_formula() -> None:
    """Also through the largest score, which is found by looking hard."""
    flow = made()
    context, query = torch.randn(5, 4).double(), torch.randn(3, 4).double()
    leaves = [context.requires_grad_(), query.requires_grad_(), flow.score.weight]
    output, _ = flow(context[None], torch.tensor([5]), query[None], torch.tensor([3]))
    expected, _ = written_out(flow, context, query)
    direction = torch.randn(5, 16).double()
    for found, true in zip(
        torch.autograd.grad(output[0], leaves, direction),
        torch.autograd.grad(expected, leaves, direction),
        strict=True,
    ):
        torch.testing.assert_close(found, true)


def test_padding_changes_nothing() -> None:
    flow = made()
    context, context_lengths, query, query_lengths = inputs()
    output, _ = flow(context, context_lengths, query, query_lengths)
    context[1, 4:] += 100
    for sign in (-1, 1):
        query[1, 2:] += sign * 100 * flow.score.weight[4:8].detach()
        again, _ = flow(context, context_lengths, query, query_lengths)
        torch.testing.assert_close(again, output, rtol=0, atol=0)
        query[1, 2:] -= sign * 100 * flow.score.weight[4:8].detach()
    nothing, _ = flow(context, context_lengths, query, torch.tensor([3, 0]))
    assert torch.isfinite(nothing).all()
    assert not nothing[1, :, 4:12].any()  # an empty question finds nothing


def test_bad_arguments_are_named() -> None:
    flow = made()
    context, context_lengths, query, query_lengths = inputs()
    with pytest.raises(ValueError, match=r"query must be \(batch, query_len, 4\), it has shape \(2, 3, 2\)"):
        flow(context, context_lengths, query[..., :2], query_lengths)
    with pytest.raises(ValueError, match="query must have the batch of context, 2, it has shape"):
        flow(context, context_lengths, query[:1], query_lengths)
    with pytest.raises(
        ValueError, match=r"query_lengths must be one a sequence, \(2,\), it has shape \(1,\)"
    ):
        flow(context, context_lengths, query, query_lengths[:1])


@pytest.mark.parametrize("words", [0, 3])
def test_an_empty_question_finds_and_is_found_nowhere(words: int) -> None:
    torch.manual_seed(0)
    flow = BidirectionalAttentionFlow(4).double()
    context, query = torch.randn(2, 5, 4).double(), torch.randn(2, words, 4).double()
    output, _ = flow(context, torch.tensor([5, 4]), query, torch.tensor([words, 0]))
    torch.testing.assert_close(output[1, :4, :4], context[1, :4])
    assert not output[1, :, 4:].any()
    assert output[0, :, 4:].any() == bool(words)


@pytest.mark.parametrize(
    "spelling", ["dot/sparsemax", "additive/softmax", "cosine/top-2", "linear/entmax15", "general/sigmoid"]
)
def test_another_mechanism_takes_the_place_of_score_and_softmax(spelling: str) -> None:
    torch.manual_seed(0)
    flow = BidirectionalAttentionFlow(4, spelling).double().eval()
    context, context_lengths, query, query_lengths = inputs()
    output, weights = flow(context, context_lengths, query, query_lengths, return_weights=True)
    score, normalizer = flow.score(), flow.normalizer()
    for row, (t, j) in enumerate(zip(context_lengths.tolist(), query_lengths.tolist(), strict=True)):
        h, u = context[row : row + 1, :t], query[row : row + 1, :j]
        scores = score.compare(*score.prepare(h, u))[0]
        looked = regard.weights(h, u, score=score, normalizer=normalizer)[0]
        best = scores.max(-1).values[None, None]  # one query whose scores with the places these are
        one = torch.ones(1, 1, 1).double()
        whole = regard.attend(one, best.mT, h, score="dot", normalizer=normalizer)[0]
        found = looked @ u[0]
        expected = torch.cat([h[0], found, h[0] * found, h[0] * whole], -1)
        torch.testing.assert_close(output[row, :t], expected)
        torch.testing.assert_close(weights[row, :t, :j], looked)


@pytest.mark.parametrize(
    "spelling", ["dot/softmax/window-2", "dot+rotary/softmax", "dot/monotonic", "dot/softmax/alibi"]
)
def test_a_mechanism_with_places_is_refused(spelling: str) -> None:
    with pytest.raises(ValueError, match="must be score/normalizer without mask"):
        BidirectionalAttentionFlow(4, spelling)
