"""Attention along the edges of a graph: only those pairs are computed that the edges join.

Queries with about as many edges are computed together, padded to the next power of two: memory and time grow with the
number of edges, whatever the number of pairs. Every operation is PyTorch's own, and so are all derivatives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from regard.attention.backends.blockwise import in_compute_dtype
from regard.attention.call import AttentionCall
from regard.attention.grid import Block
from regard.attention.masks import Both, Edges, Mask
from regard.attention.picture import count
from regard.attention.scores.score import for_each_head


def unsupported(call: AttentionCall) -> list[str]:
    edges = None if call.mask is None else _edges_of(call.mask)
    if edges is None:
        return ["the mask is not one of edges"]
    reasons = []
    if not len(edges.numbers):
        reasons.append("there is no edge")
    if not call.normalizer.by_row:
        reasons.append(f"the normalizer {call.normalizer.spelling!r} needs whole blocks of the picture")
    if call.transformed:
        reasons.append(
            "how many edges a query has decides what is computed, which no transform or compiler allows"
        )
    return reasons


def cost(call: AttentionCall) -> str:
    edges = _edges(call)
    return f"keys and values of {len(edges.numbers):,} edges, at most twice"


def pairs(call: AttentionCall) -> int:
    edges = _edges(call)
    return len(edges.numbers) * count(call.query.shape[:-2])


def derivatives(call: AttentionCall) -> str:
    return "first and second: PyTorch's own, through the edges; forward-mode: through 'blockwise'"


def run(call: AttentionCall) -> tuple[Tensor, Tensor | None]:
    dtype, call = call.query.dtype, in_compute_dtype(call)
    grid, leading = call.grid, call.query.shape[:-2]
    value = for_each_head(call.value, call.query)
    places, outputs, weights = [], [], []
    for some in _looks(call):
        kept = some.weights if call.normalizer.through else some.weights.detach() + 0 * some.weights
        if call.dropout:
            uniform = torch.rand_like(kept, dtype=kept.dtype)
            kept = kept * ((uniform >= call.dropout) / (1 - call.dropout)).to(kept.dtype)
        places.append(some.rows)
        outputs.append((kept @ value[..., some.keys, :].movedim(-3, 0)).squeeze(-2))
        if call.return_weights:
            whole = kept.new_zeros(len(some.rows), *leading, grid.key_len)
            where = some.keys.reshape(len(some.rows), *(1,) * len(leading), -1).expand(*whole.shape[:-1], -1)
            weights.append(whole.scatter_add(-1, where, some.weights.squeeze(-2)))
    output = _in_place(places, outputs, value.new_zeros(grid.query_len, *leading, value.shape[-1]))
    if not call.return_weights:
        return output.to(dtype), None
    found = _in_place(places, weights, value.new_zeros(grid.query_len, *leading, grid.key_len))
    return output.to(dtype), found.to(dtype)


def weights_of_edges(call: AttentionCall) -> Tensor:
    """The exact weights along the edges, in the order in which the mask keeps them.

    *Shape:* `(..., query_heads, edges)`.
    """
    edges = _edges(call)
    dtype, call = call.query.dtype, in_compute_dtype(call)
    places, parts = [], []
    for some in _looks(call):
        places.append(some.edges[some.exists])
        parts.append(some.weights.squeeze(-2).movedim(-1, 1)[some.exists])
    whole = call.query.new_zeros(len(edges.numbers), *call.query.shape[:-2])
    if places:
        whole = whole.index_copy(0, torch.cat(places), torch.cat(parts))
    return whole.movedim(0, -1).to(dtype)


@dataclass(frozen=True, slots=True)
class _Look:
    """Some queries with about as many edges, and their weights.

    *Shape:* rows `(rows,)`; edges, keys and exists `(rows, most)`; weights `(rows, ..., heads, 1, most)`.
    """

    rows: Tensor
    edges: Tensor
    keys: Tensor
    exists: Tensor
    weights: Tensor


def _looks(call: AttentionCall) -> Iterator[_Look]:
    grid, mask, edges = call.grid, call.mask, _edges(call)
    assert mask is not None
    query, key = call.score.prepare(call.query, call.key)
    key = for_each_head(key, query)
    leading, every_key = query.shape[:-2], edges.key.to(grid.device)
    for rows, numbers, exists in _alike(edges, grid.query_len, grid.device):
        keys = every_key[numbers]
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
        weights = call.normalizer.weights(scores.masked_fill(~shown, -torch.inf), block)
        yield _Look(rows, numbers, keys, exists, weights)


def _edges(call: AttentionCall) -> Edges:
    """The edges of a call that this backend supports."""
    edges = None if call.mask is None else _edges_of(call.mask)
    assert edges is not None
    return edges


def _edges_of(mask: Mask) -> Edges | None:
    """The edges outside which `mask` shows nothing, if it is made so."""
    if isinstance(mask, Edges):
        return mask
    if not isinstance(mask, Both):
        return None
    first = _edges_of(mask.first)
    return _edges_of(mask.second) if first is None else first


def _alike(edges: Edges, query_len: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Queries with about as many edges: their places, the numbers of their edges, and which of these exist.

    *Shape:* `(rows,)`, `(rows, most)`, boolean `(rows, most)`.
    """
    degree = torch.bincount(edges.query.to(device), minlength=query_len)
    first = degree.cumsum(0) - degree
    most = 1
    while most < 2 * int(degree.amax() if len(degree) else 0):
        rows = ((degree > most // 2) & (degree <= most)).nonzero().squeeze(-1)
        if len(rows):
            nth = torch.arange(most, device=device)
            exists = nth < degree[rows, None]
            yield rows, first[rows, None] + torch.where(exists, nth, 0), exists
        most *= 2


def _in_place(places: list[Tensor], parts: list[Tensor], whole: Tensor) -> Tensor:
    """The rows of `parts` at their places in `whole`, whose first axis goes where the queries stand.

    *Shape:* parts `(rows, ..., heads, size)`, whole `(query_len, ..., heads, size)` -> `(..., heads, query_len, size)`.
    """
    if places:
        whole = whole.index_copy(0, torch.cat(places), torch.cat(parts))
    return whole.movedim(0, -2)
