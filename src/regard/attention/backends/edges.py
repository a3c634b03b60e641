"""Attention along the edges of a graph: only those pairs are computed that the edges join.

Queries with about as many edges are computed together, padded to the next power of two: memory and time grow with the
number of edges, whatever the number of pairs. Every operation is PyTorch's own, and so are all derivatives.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from regard.attention.backends.blockwise import compute_dtype
from regard.attention.call import AttentionCall
from regard.attention.grid import Block
from regard.attention.masks import Both, Edges, Mask
from regard.attention.normalizers import Normalizer
from regard.attention.scores.score import for_each_head


def unsupported(call: AttentionCall) -> list[str]:
    edges = None if call.mask is None else _edges_of(call.mask)
    if edges is None:
        return ["the mask is not one of edges"]
    reasons = []
    if not len(edges.numbers):
        reasons.append("there is no edge")
    if call.normalizer.coupled or type(call.normalizer).weigh_block is not Normalizer.weigh_block:
        reasons.append(f"the normalizer {call.normalizer.spelling!r} needs whole blocks of the picture")
    if call.transformed:
        reasons.append(
            "how many edges a query has decides what is computed, which no transform or compiler allows"
        )
    return reasons


def cost(call: AttentionCall) -> str:
    assert call.mask is not None
    edges = _edges_of(call.mask)
    assert edges is not None
    return f"keys and values of {len(edges.numbers):,} edges, at most twice"


def derivatives(call: AttentionCall) -> str:
    return "first and second: PyTorch's own, through the edges; forward-mode: through 'blockwise'"


def run(call: AttentionCall) -> tuple[Tensor, Tensor | None]:
    assert call.mask is not None
    grid, mask, edges = call.grid, call.mask, _edges_of(call.mask)
    assert edges is not None
    query, key, value = compute_dtype(call.query), compute_dtype(call.key), compute_dtype(call.value)
    query, key = call.score.prepare(query, key)
    key, value = for_each_head(key, query), for_each_head(value, query)
    leading = query.shape[:-2]
    places, outputs, weights = [], [], []
    for rows, keys, exists in _alike(edges, grid.query_len, grid.device):
        # Each query becomes a call of its own, with one query and its own keys: the first axis counts them.
        scores = call.score.compare(
            query[..., rows, :].movedim(-2, 0).unsqueeze(-2), key[..., keys, :].movedim(-3, 0)
        )
        if call.bias is not None:
            bias = call.bias.at(rows[:, None], keys, grid).to(scores.dtype)
            scores = scores + bias.expand(*leading, *keys.shape).movedim(-2, 0).unsqueeze(-2)
        shown = exists if mask is edges else exists & mask.at(rows[:, None], keys, grid)
        shown = shown.expand(*leading, *keys.shape).movedim(-2, 0).unsqueeze(-2)
        block = Block.of(rows, slice(0, keys.shape[-1]), grid)
        weight = call.normalizer.weights(scores.masked_fill(~shown, -torch.inf), block)
        kept = weight if call.normalizer.through else weight.detach() + 0 * weight
        if call.dropout:
            kept = kept * ((block.uniform(kept) >= call.dropout) / (1 - call.dropout)).to(kept.dtype)
        places.append(rows)
        outputs.append((kept @ value[..., keys, :].movedim(-3, 0)).squeeze(-2))
        if call.return_weights:
            whole = weight.new_zeros(len(rows), *leading, grid.key_len)
            where = keys.reshape(len(rows), *(1,) * len(leading), -1).expand(*whole.shape[:-1], -1)
            weights.append(whole.scatter_add(-1, where, weight.squeeze(-2)))
    output = _in_place(places, outputs, value.new_zeros(grid.query_len, *leading, value.shape[-1]))
    if not call.return_weights:
        return output.to(call.query.dtype), None
    found = _in_place(places, weights, value.new_zeros(grid.query_len, *leading, grid.key_len))
    return output.to(call.query.dtype), found.to(call.query.dtype)


def _edges_of(mask: Mask) -> Edges | None:
    """The edges outside which `mask` shows nothing, if it is made so."""
    if isinstance(mask, Edges):
        return mask
    return (_edges_of(mask.first) or _edges_of(mask.second)) if isinstance(mask, Both) else None


def _alike(edges: Edges, query_len: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Queries with about as many edges: their places, those of their keys, and which of these exist.

    *Shape:* `(rows,)`, `(rows, most)`, boolean `(rows, most)`.
    """
    query, key = edges.query.to(device), edges.key.to(device)
    count = torch.bincount(query, minlength=query_len)
    first = count.cumsum(0) - count
    most = 1
    while most < 2 * int(count.amax() if len(count) else 0):
        rows = ((count > most // 2) & (count <= most)).nonzero().squeeze(-1)
        if len(rows):
            nth = torch.arange(most, device=device)
            exists = nth < count[rows, None]
            yield rows, key[torch.where(exists, first[rows, None] + nth, 0)], exists
        most *= 2


def _in_place(places: list[Tensor], parts: list[Tensor], whole: Tensor) -> Tensor:
    """The rows of `parts` at their places in `whole`, whose first axis goes where the queries stand.

    *Shape:* parts `(rows, ..., heads, size)`, whole `(query_len, ..., heads, size)` -> `(..., heads, query_len, size)`.
    """
    if places:
        whole = whole.index_copy(0, torch.cat(places), torch.cat(parts))
    return whole.movedim(0, -2)
