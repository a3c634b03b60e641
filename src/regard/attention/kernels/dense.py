"""The backward pass of queries whose supports have no room: with so many keys, products of whole blocks are faster."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from regard.attention.kernels import plain

__all__ = ["add_gradients"]

BLOCK_BYTES = 2**24
"""How much the scores of a block may take."""


def add_gradients(
    gradients: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    grad_output: Tensor,
    grad_weights: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weight: Tensor | None,
    ranges: Tensor | None,
    mask: Tensor | None,
    bias: Tensor | None,
    statistic: Tensor,
    counts: Tensor,
    score: str,
    normalizer: str,
    parameter: float,
    dropout: float,
    seed: int,
    first: int,
    whole: int,
) -> None:
    """Add what the queries with a negative count give to the gradients of query, key, value, weight and bias."""
    grad_query, grad_key, grad_value, grad_weight, grad_bias = gradients
    group = query.shape[1] // key.shape[1]
    numbers = plain.numbers(query, first, whole)
    width = key.shape[-2] * query.element_size() * (query.shape[-1] if score == "distance" else 1)
    for n, h, rows in _dense(counts, max(BLOCK_BYTES // max(width, 1), 1)):
        own = query[n, h, rows][None, None]
        keys, values = key[n, h // group][None, None], value[n, h // group]
        net = None if weight is None else weight[h if len(weight) > 1 else 0][None]

        def part(tensor: Tensor | None, n: int = n, h: int = h, rows: slice = rows) -> Tensor | None:
            if tensor is None:
                return None
            places = [slice(i, i + 1) if size > 1 else slice(0, 1) for i, size in zip((n, h), tensor.shape, strict=False)]
            return tensor[(*places, rows if tensor.shape[2] > 1 else slice(None))]

        if score == "additive":
            assert net is not None
            scores = torch.ops.regard.additive_scores(own, keys, net)
        else:
            scores = plain.scores_of(own, keys, net, score)
        scores = plain.hide(scores, part(ranges), part(mask), part(bias))[0, 0]
        weights = _weights(scores, statistic[n, h, rows], normalizer, parameter)
        share = None
        if dropout:
            share = plain.shares(seed, numbers[n, h, rows], key.shape[-2], dropout).to(weights.dtype)
        above = grad_output[n, h, rows]
        grad = above @ values.mT
        if share is not None:
            grad = grad * share
        if grad_weights is not None:
            grad = grad + grad_weights[n, h, rows]
        slope = _through_normalizer(weights, grad, normalizer, parameter)
        grad_value[n, h // group] += (weights if share is None else weights * share).mT @ above
        if grad_bias.numel():
            grad_bias[n, h, rows] = slope
        if score == "additive":
            found = torch.ops.regard.additive_scores_backward(slope[None, None], own, keys, net)
            grad_query[n, h, rows] = found[0][0, 0]
            grad_key[n, h // group] += found[1][0, 0]
            grad_weight[h if len(grad_weight) > 1 else 0] += found[2][0]
        elif score == "distance":
            grad_query[n, h, rows] = 2 * (slope @ keys[0, 0] - own[0, 0] * slope.sum(-1, keepdim=True))
            grad_key[n, h // group] += 2 * (slope.mT @ own[0, 0] - keys[0, 0] * slope.sum(0)[:, None])
        else:
            grad_query[n, h, rows] = slope @ keys[0, 0]
            grad_key[n, h // group] += slope.mT @ own[0, 0]


def _dense(counts: Tensor, most: int) -> Iterator[tuple[int, int, slice]]:
    """Runs of such queries: batch, head and at most so many rows."""
    for n, h in (counts < 0).any(-1).nonzero().tolist():
        marked = torch.nn.functional.pad((counts[n, h] < 0).int(), (1, 1)).diff()
        starts, stops = ((marked == sign).nonzero().flatten().tolist() for sign in (1, -1))
        for start, stop in zip(starts, stops, strict=True):
            for begin in range(start, stop, most):
                yield n, h, slice(begin, min(begin + most, stop))


def _weights(scores: Tensor, statistic: Tensor, normalizer: str, parameter: float) -> Tensor:
    """The weights from a row's best score and threshold. *Shape:* `(rows, key_len)`, `(rows, 2)`."""
    blind = (scores == -torch.inf).all(-1, keepdim=True)
    if normalizer != "entmax":
        made = plain.normalizer_of(normalizer, parameter)
        return made.weigh(scores.masked_fill(blind, 0.0)).masked_fill(blind, 0.0)
    best, threshold = statistic[:, :1], statistic[:, 1:]
    above = ((scores - best) * (parameter - 1) - threshold).masked_fill(blind, 0.0).clamp(min=0.0)
    return above if parameter == 2 else above.square() if parameter == 1.5 else above ** (1 / (parameter - 1))


def _through_normalizer(weights: Tensor, grad: Tensor, normalizer: str, parameter: float) -> Tensor:
    """The gradient of scores from that of their weights."""
    if normalizer == "hardmax":
        return torch.where(weights.isnan(), weights, 0.0)
    steep = weights
    if normalizer == "entmax":
        # No number stays none, also where its power is 1.
        steep = torch.where(weights > 0, weights ** (2 - parameter), weights)
    total = steep.sum(-1, keepdim=True)
    mean = (steep * grad).sum(-1, keepdim=True) / total.masked_fill(total == 0, 1.0)
    return steep * (grad - mean)
