"""Attention along edges in PyTorch's own operations: queries with about as many edges are computed together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

from regard.attention.kernels import plain
from regard.attention.scores.score import for_each_head

__all__ = ["Alike", "EdgeSettings", "alike", "attention", "in_place"]


class EdgeSettings(NamedTuple):
    """What a fused call along edges is, but for its tensors.

    `score` and `normalizer` are names that the kernels know, as in `settings.Settings`. Scores are multiplied with
    `factor`, and those that are then below zero with `leak`. Dropout is drawn by the number of the query among those of
    all heads, and its key.
    """

    score: str
    factor: float
    leak: float
    normalizer: str
    parameter: float
    dropout: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Alike:
    """Some queries with about as many edges: their places, the numbers of their edges, and which of these exist.

    *Shape:* rows `(rows,)`, edges and exists `(rows, most)`.
    """

    rows: Tensor
    edges: Tensor
    exists: Tensor


def alike(starts: Tensor) -> Iterator[Alike]:
    """All queries that have edges, by the power of two that these fit into: at most twice as many are computed.

    *Shape:* starts, where the list of each query begins and that of the last ends, `(query_len + 1,)`.
    """
    degree = starts.diff()
    most = 1
    while most < 2 * int(degree.amax() if len(degree) else 0):
        rows = ((degree > most // 2) & (degree <= most)).nonzero().squeeze(-1)
        if len(rows):
            nth = torch.arange(most, device=starts.device)
            exists = nth < degree[rows, None]
            yield Alike(rows, starts[rows, None] + torch.where(exists, nth, 0), exists)
        most *= 2


def in_place(places: list[Tensor], parts: list[Tensor], whole: Tensor) -> Tensor:
    """The `parts` at their places in the first axis of `whole`, which is the last but one of what is returned.

    *Shape:* parts `(some, ..., size)`, whole `(all, ..., size)` -> `(..., all, size)`.
    """
    if places:
        whole = whole.index_copy(0, torch.cat(places), torch.cat(parts))
    return whole.movedim(0, -2)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weight: Tensor | None,
    starts: Tensor,
    keys: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    settings: EdgeSettings,
) -> tuple[Tensor, Tensor]:
    """Output and weights by the definition. *Shape:* as in `operators`."""
    normalizer = plain.normalizer_of(settings.normalizer, settings.parameter)
    value, (batch, heads, query_len, _) = for_each_head(value, query), query.shape
    head = torch.arange(batch * heads, device=query.device).view(batch, heads, 1)
    rows, outputs, numbers, weights = [], [], [], []
    for some in alike(starts):
        theirs = keys[some.edges].long()
        # Each query becomes a call of its own, with one query and its own keys: the first axis counts them.
        scores = plain.scores_of(
            query[..., some.rows, :].movedim(-2, 0).unsqueeze(-2), key[..., theirs, :].movedim(-3, 0),
            weight, settings.score,
        )  # fmt: skip
        scores = scores if settings.factor == 1 else scores * settings.factor
        scores = scores if settings.leak == 1 else leaky_relu(scores, settings.leak)
        shown = some.exists if mask is None else some.exists & mask[..., some.edges]
        shown = shown.expand(batch, heads, *theirs.shape).movedim(2, 0).unsqueeze(-2)
        if bias is not None:
            scores = scores + bias[..., some.edges].movedim(2, 0).unsqueeze(-2).to(scores.dtype)
        scores = scores.masked_fill(~shown, -torch.inf)
        blind = (scores.detach() == -torch.inf).all(-1, keepdim=True)
        found = normalizer.weigh(scores.masked_fill(blind, 0.0)).masked_fill(blind, 0.0)
        kept = found
        if settings.dropout:
            whose = (head * query_len + some.rows).movedim(-1, 0)[..., None, None]
            shares = plain.drawn(settings.seed, settings.dropout, whose, theirs[:, None, None, None])
            kept = found * shares.to(found.dtype)
        # A hidden key's value may be no number, and where no edge is there is a first one instead.
        seen = value[..., theirs, :].movedim(-3, 0).masked_fill(~shown.mT, 0.0)
        rows.append(some.rows)
        outputs.append((kept @ seen).squeeze(-2))
        numbers.append(some.edges[some.exists])
        weights.append(found.squeeze(-2).movedim(-1, 1)[some.exists].unsqueeze(-1))
    output = in_place(rows, outputs, value.new_zeros(query_len, batch, heads, value.shape[-1]))
    whole = in_place(numbers, weights, value.new_zeros(len(keys), batch, heads, 1))
    return output, whole.squeeze(-1)
