"""Attention along the edges of a graph: only those pairs are computed that the edges join.

On the CPU a fused kernel does it, which keeps the weights along the edges and nothing else. For what it cannot do,
queries with about as many edges are computed together by PyTorch's operations, padded to the next power of two. Either
way memory and time grow with the number of edges, whatever the number of pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from regard.attention.backends.blockwise import in_compute_dtype
from regard.attention.backends.sparse import four_axes, heads_apart
from regard.attention.biases import Bias
from regard.attention.call import AttentionCall
from regard.attention.grid import Block
from regard.attention.kernels import missing
from regard.attention.kernels.edges import operators
from regard.attention.kernels.edges.plain import Alike, EdgeSettings, alike, in_place
from regard.attention.masks import Both, Edges, Mask
from regard.attention.picture import count
from regard.attention.scores.score import for_each_head

SCORES = frozenset(("product", "distance", "additive", "additive_relu", "additive_leaky_relu"))
SCORES |= {f"leaky_{score}" for score in SCORES}
"""The kernels that there are, by the names of scores and of normalisers."""
NORMALIZERS = frozenset(("softmax", "sigmoid", "entmax", "top", "hardmax"))


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


def unfused(call: AttentionCall) -> list[str]:
    """Why no kernel can run a call that this backend supports; empty where one can."""
    reasons = []
    if call.score.kernel not in SCORES:
        reasons.append(f"there is no kernel for the score {call.score.spelling!r}")
    kernel = call.normalizer.kernel
    if kernel is None or kernel[0] not in NORMALIZERS:
        reasons.append(f"there is no kernel for the normalizer {call.normalizer.spelling!r}")
    elif kernel[0] == "entmax" and not 1.15 <= kernel[1] <= 2.0:
        reasons.append("the kernel of entmax wants an alpha from 1.15 to 2")
    if not (call.query.numel() and call.key.numel() and call.value.numel()):
        reasons.append("query, key or value is empty")
    if call.query.device.type != "cpu":
        reasons.append(f"there is no kernel for the device {call.query.device.type!r}")
    elif reason := missing("cpu", load=not reasons):
        reasons.append(reason)
    return reasons


def cost(call: AttentionCall) -> str:
    edges = len(_edges(call).numbers)
    if reasons := unfused(call):
        return f"keys and values of {edges:,} edges, at most twice ({'; '.join(reasons)})"
    return f"the weights of {edges:,} edges, and the edges listed by query and by key"


def pairs(call: AttentionCall) -> int:
    edges = _edges(call)
    return len(edges.numbers) * count(call.query.shape[:-2])


def derivatives(call: AttentionCall) -> str:
    if unfused(call):
        return "first and second: PyTorch's own, through the edges; forward-mode: through 'blockwise'"
    return "first: fused; second: exact, through the edges; forward-mode: through 'blockwise'"


def run(call: AttentionCall) -> tuple[Tensor, Tensor | None]:
    dtype = call.query.dtype
    output, weights = _fused(call) if not unfused(call) else _composed(call)
    output = output.reshape(*call.query.shape[:-1], call.value.shape[-1]).to(dtype)
    if not call.return_weights:
        return output, None
    edges, grid = _edges(call), call.grid
    places = edges.query.to(grid.device) * grid.key_len + edges.key.to(grid.device)
    whole = weights.new_zeros(*weights.shape[:-1], grid.query_len * grid.key_len).index_copy(
        -1, places, weights
    )
    return output, whole.reshape(*call.query.shape[:-1], grid.key_len).to(dtype)


def weights_of_edges(call: AttentionCall) -> Tensor:
    """The exact weights along the edges, in the order in which the mask keeps them.

    *Shape:* `(..., query_heads, edges)`.
    """
    _, weights = _fused(call) if not unfused(call) else _composed(call)
    return weights.reshape(*call.query.shape[:-2], weights.shape[-1]).to(call.query.dtype)


def _fused(call: AttentionCall) -> tuple[Tensor, Tensor]:
    """Output and weights along the edges by the kernel. *Shape:* as in `kernels.edges.operators`."""
    call = in_compute_dtype(call)
    edges, grid = _edges(call), call.grid
    query, key = call.score.prepare(call.query, call.key)
    value = for_each_head(call.value, key) if key.shape[:-2] != call.value.shape[:-2] else call.value
    net, factor = call.score.net(key.shape[-1], query), call.score.factor(key.shape[-1])
    shown = None if call.mask is edges else _along(call, call.mask)
    bias = None if call.bias is None else _along(call, call.bias)
    score, kernel = call.score.kernel, call.normalizer.kernel
    assert score is not None
    assert kernel is not None
    settings = EdgeSettings(score.removeprefix("leaky_"), factor, call.score.leak, *kernel)
    if call.dropout:
        settings = settings._replace(dropout=call.dropout, seed=int(torch.randint(2**62, ())))
    lists = edges.lists(grid, also_by_key=call.needs_gradient)
    if bias is not None:
        bias = bias.to(query.dtype)
    query, key, value = (heads_apart(t) for t in (query, key, value))
    return operators.attention(query, key, value, net, lists, shown, bias, settings)


def _along(call: AttentionCall, part: Mask | Bias | None) -> Tensor:
    """What a mask or a bias says of each edge. *Shape:* `(batch or 1, heads or 1, edges)`."""
    assert part is not None
    edges, grid = _edges(call), call.grid
    along = part.at(edges.query.to(grid.device)[:, None], edges.key.to(grid.device)[:, None], grid)
    return four_axes(along.expand(*along.shape[:-2], len(edges.numbers), 1), call.query).squeeze(-1)


def _composed(call: AttentionCall) -> tuple[Tensor, Tensor]:
    """Output and weights along the edges by PyTorch's operations. *Shape:* `(..., heads, query_len, value_size)`,
    `(..., heads, edges)`."""
    call = in_compute_dtype(call)
    grid, leading = call.grid, call.query.shape[:-2]
    value = for_each_head(call.value, call.query)
    rows, outputs, numbers, weights = [], [], [], []
    for some in _looks(call):
        kept = some.weights if call.normalizer.through else some.weights.detach() + 0 * some.weights
        if call.dropout:
            uniform = torch.rand_like(kept, dtype=kept.dtype)
            kept = kept * ((uniform >= call.dropout) / (1 - call.dropout)).to(kept.dtype)
        rows.append(some.alike.rows)
        outputs.append((kept @ value[..., some.keys, :].movedim(-3, 0)).squeeze(-2))
        exists = some.alike.exists
        numbers.append(some.alike.edges[exists])
        weights.append(some.weights.squeeze(-2).movedim(-1, 1)[exists].unsqueeze(-1))
    output = in_place(rows, outputs, value.new_zeros(grid.query_len, *leading, value.shape[-1]))
    whole = in_place(numbers, weights, value.new_zeros(len(_edges(call).numbers), *leading, 1))
    return output, whole.squeeze(-1)


@dataclass(frozen=True, slots=True)
class _Look:
    """The weights of some queries. *Shape:* keys `(rows, most)`, weights `(rows, ..., heads, 1, most)`."""

    alike: Alike
    keys: Tensor
    weights: Tensor


def _looks(call: AttentionCall) -> Iterator[_Look]:
    grid, mask, edges = call.grid, call.mask, _edges(call)
    assert mask is not None
    query, key = call.score.prepare(call.query, call.key)
    key = for_each_head(key, query)
    leading, lists = query.shape[:-2], edges.lists(grid, also_by_key=False)
    for some in alike(lists.starts):
        rows, keys = some.rows, lists.keys[some.edges].long()
        # Each query becomes a call of its own, with one query and its own keys: the first axis counts them.
        scores = call.score.compare(
            query[..., rows, :].movedim(-2, 0).unsqueeze(-2), key[..., keys, :].movedim(-3, 0)
        )
        if call.bias is not None:
            bias = call.bias.at(rows[:, None], keys, grid).to(scores.dtype)
            scores = scores + bias.expand(*leading, *keys.shape).movedim(-2, 0).unsqueeze(-2)
        shown = some.exists if mask is edges else some.exists & mask.at(rows[:, None], keys, grid)
        shown = shown.expand(*leading, *keys.shape).movedim(-2, 0).unsqueeze(-2)
        block = Block.of(rows, slice(0, keys.shape[-1]), grid)
        yield _Look(some, keys, call.normalizer.weights(scores.masked_fill(~shown, -torch.inf), block))


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
