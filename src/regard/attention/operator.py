"""The operator: score every key against the query, normalise the scores into weights, sum the values by weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from regard.attention import nested
from regard.attention.backends import BACKENDS, blockwise, choose, edges, refused
from regard.attention.biases import Bias
from regard.attention.call import AttentionCall, unaltered
from regard.attention.masks import Mask
from regard.attention.normalizers import Normalizer
from regard.attention.parts import tensors_of
from regard.attention.scores import Score

__all__ = ["Explanation", "attend", "explain", "weights"]


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    score: Score | Callable[[Tensor, Tensor], Tensor] | str = "scaled_dot",
    normalizer: Normalizer | str = "softmax",
    mask: Mask | Tensor | str | None = None,
    bias: Bias | Tensor | None = None,
    dropout: float = 0.0,
    return_weights: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Attention: for every query, the sum of the values weighted by how well their keys match.

    $$o_i = \sum_j w_{ij} v_j \qquad w_i = \mathrm{normalizer}(s_i) \qquad s_{ij} = \mathrm{score}(q_i, k_j) + b_{ij}$$

    *Shape:*

    - query `(..., query_heads, query_len, size)`, or without a heads axis `(..., query_len, size)`
    - key `(..., key_heads, key_len, size)`, where query_heads is a multiple of key_heads (grouped queries)
    - value `(..., key_heads, key_len, value_size)`
    - mask: boolean, True where the query may look, broadcastable to `(..., query_heads, query_len, key_len)`,
      one of `regard.masks`, or the name of one, `"causal"`
    - bias: added to the scores, broadcastable likewise
    - output `(..., query_heads, query_len, value_size)`; with `return_weights` also the weights
      `(..., query_heads, query_len, key_len)`, exact and before dropout

    Sequences of different lengths may come without padding: as jagged nested tensors `(batch, heads, ragged, size)`,
    each of which is a call of its own, or packed one after the other with the mask `regard.masks.documents`. `score`
    may be any function of query and key (`regard.scores.Function`).

    A query that may look at nothing gets output, weights and gradients of zero. Memory grows linearly with the
    length. float16 and bfloat16 accumulate in float32. `dropout` is the share of weights set to zero.
    `backend` names the way to compute it; by default the first that supports the call (`regard.explain` tells).

    Raises `TypeError` or `ValueError` naming the argument at fault.

    Example:
        >>> import torch, regard
        >>> query, key, value = (torch.randn(2, 4, 10, 16) for _ in range(3))
        >>> regard.attend(query, key, value, normalizer="sparsemax", mask=regard.masks.causal()).shape
        torch.Size([2, 4, 10, 16])

    Vaswani et al. 2017, section 3.2, for scaled dot and softmax; unlike `torch`'s `scaled_dot_product_attention`
    a causal mask is aligned at the end of the keys, any score and normaliser can be named, and asking for weights
    does not change the output.
    """
    if type(query) is not Tensor and getattr(query, "is_nested", False):
        if return_weights:
            raise ValueError(
                "return_weights needs padded or packed tensors: nested ones have no picture to return"
            )

        def one(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            output = attend(
                query,
                key,
                value,
                score=score,
                normalizer=normalizer,
                mask=mask,
                bias=bias,
                dropout=dropout,
                backend=backend,
            )
            assert isinstance(output, Tensor)
            return output

        return nested.attend_each(query, key, value, one)
    call = AttentionCall.of(query, key, value, score, normalizer, mask, bias, dropout, return_weights)
    run = BACKENDS[choose(call, backend)].run
    if call.autocast:
        with unaltered(query.device):
            output, weight = run(call)
    else:
        output, weight = run(call)
    return (output, weight) if weight is not None else output


def weights(
    query: Tensor,
    key: Tensor,
    *,
    score: Score | Callable[[Tensor, Tensor], Tensor] | str = "scaled_dot",
    normalizer: Normalizer | str = "softmax",
    mask: Mask | Tensor | str | None = None,
    bias: Bias | Tensor | None = None,
    rows: Sequence[int] | Tensor | slice | None = None,
    reduce: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """The exact weights of `attend`, all of them, of some query rows, or reduced, in memory linear in length.

    *Shape:* query `(..., query_heads, query_len, size)`, key `(..., key_heads, key_len, size)`.

    `rows` chooses queries by position. `reduce` is

    - None: `(..., query_heads, rows, key_len)`
    - `"heads"`: the mean over heads, `(..., rows, key_len)`
    - `"received"`: how much weight each key gets from the average query, `(..., query_heads, key_len)`
    - `"edges"`, for a mask of edges: the weight of each, in the mask's order, `(..., query_heads, edges)`
    - `"top-8"` (any number): the largest weights of each row and their keys, a pair `(..., query_heads, rows, 8)`

    Raises `TypeError` or `ValueError` naming the argument at fault.

    Example:
        >>> import torch, regard
        >>> query, key = torch.randn(4, 1000, 16), torch.randn(4, 1000, 16)
        >>> regard.weights(query, key, reduce="received").shape
        torch.Size([4, 1000])

    PyTorch has no counterpart: `scaled_dot_product_attention` returns no weights, `nn.MultiheadAttention` only all of
    them at once.
    """
    call = AttentionCall.of(query, key, key, score, normalizer, mask, bias, 0.0, True)
    chosen = slice(None) if rows is None else _positions(rows, query)
    with unaltered(query.device):
        parts = _reduced(call, chosen, reduce)
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])


def _reduced(call: AttentionCall, rows: Tensor | slice, reduce: str | None) -> list[Tensor]:
    """The blocks of weights, each reduced as soon as it is computed."""
    blocks = blockwise.weights_of(call, rows)
    count = (
        call.query.shape[-2]
        if isinstance(rows, slice) and rows == slice(None)
        else 0
        if isinstance(rows, slice)
        else len(rows)
    )
    if reduce is None:
        return blockwise.joined(call, count, ((block,) for block in blocks))
    if reduce == "heads":
        if call.query.ndim < 3:
            raise ValueError("reduce='heads' needs a heads axis: query must have at least three axes")
        return blockwise.joined(call, count, ((block.mean(-3),) for block in blocks))
    if reduce == "received":
        total = torch.zeros(())
        for block in blocks:
            total = total.to(block) + block.sum(-2)
        return [total / max(count, 1)]
    if reduce == "edges":
        if not (isinstance(rows, slice) and rows == slice(None)):
            raise ValueError("reduce='edges' gives the weights of all edges: rows must be None")
        if reasons := edges.unsupported(call):
            raise ValueError(f"reduce='edges' cannot weigh this call: {'; '.join(reasons)}")
        return [edges.weights_of_edges(call)]
    head, _, number = reduce.partition("-") if isinstance(reduce, str) else ("", "", "")
    if head == "top" and number.isdecimal() and int(number) >= 1:
        most = min(int(number), call.key.shape[-2])
        return blockwise.joined(call, count, (block.topk(most, dim=-1) for block in blocks))
    raise ValueError(f"reduce must be None, 'heads', 'received', 'top-K' or 'edges', it is {reduce!r}")


def _positions(rows: Sequence[int] | Tensor | slice, query: Tensor) -> Tensor | slice:
    if isinstance(rows, slice):
        rows = range(*rows.indices(query.shape[-2]))
    if isinstance(rows, str):
        raise ValueError(f"rows must be a list of query positions, it is {rows!r}")
    chosen = torch.as_tensor(rows, device=query.device)
    if chosen.numel() == 0:
        return slice(0, 0)
    if chosen.ndim != 1 or chosen.is_floating_point() or chosen.dtype == torch.bool:
        raise ValueError(f"rows must be a list of query positions, it is {rows!r}")
    if not -query.shape[-2] <= int(chosen.min()) <= int(chosen.max()) < query.shape[-2]:
        raise ValueError(f"rows must be positions among {query.shape[-2]} queries, it is {rows!r}")
    return chosen


@dataclass(frozen=True)
class Explanation:
    """What `attend` does with a call: the backend, those refused and why, and what it costs."""

    backend: str
    """The name of the backend that would run the call."""
    refused: dict[str, list[str]] = field(repr=False)
    """The backends preferred to it, and why each cannot run the call."""
    flops: int = field(repr=False)
    """Floating-point operations of the scores and weighted sums, of all pairs that the backend computes."""
    bytes_moved: int = field(repr=False)
    """The bytes of query, key, value, bias and output together."""
    memory: str = field(repr=False)
    """What is held beyond inputs and output, in words."""
    derivatives: str = field(repr=False)
    """Which derivatives are fused and which take the slower exact path, in words."""

    def __str__(self) -> str:
        lines = [f"backend      {self.backend}"]
        for name, reasons in self.refused.items():
            lines += [f"refused      {name}: {'; '.join(reasons)}"]
        lines += [
            f"work         {self.flops:,} floating-point operations forward",
            f"traffic      {self.bytes_moved:,} bytes of inputs and output",
            f"memory       {self.memory}",
            f"derivatives  {self.derivatives}",
        ]
        return "\n".join(lines)


def explain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    score: Score | Callable[[Tensor, Tensor], Tensor] | str = "scaled_dot",
    normalizer: Normalizer | str = "softmax",
    mask: Mask | Tensor | str | None = None,
    bias: Bias | Tensor | None = None,
    dropout: float = 0.0,
    return_weights: bool = False,
    backend: str | None = None,
) -> Explanation:
    """Print, and return, what `attend` would do with the same arguments, without doing it.

    *Shape:* every tensor as in `attend`. Raises what `attend` would: `TypeError` or `ValueError` naming the argument at
    fault.

    Example:
        >>> import torch, regard
        >>> one = torch.randn(1, 4, 8)
        >>> regard.explain(one, one, one, score="distance").backend  # doctest: +ELLIPSIS
        backend      dense
        refused      packed: the mask is not one of documents
        refused      edges: the mask is not one of edges
        ...
        refused      sdpa: the score 'distance' is not a product of query and key
        ...
        'dense'
    """
    call = AttentionCall.of(query, key, value, score, normalizer, mask, bias, dropout, return_weights)
    chosen = choose(call, backend)
    before = list(BACKENDS)[: list(BACKENDS).index(chosen)]
    tensors = [query, key, value, *([] if call.bias is None else tensors_of(call.bias))]
    output_bytes = math.prod(query.shape[:-1]) * value.shape[-1] * query.element_size()
    found = Explanation(
        backend=chosen,
        refused={name: refused(call, name) or ["another was asked for"] for name in before},
        flops=BACKENDS[chosen].pairs(call) * (call.score.operations(key.shape[-1]) + 2 * value.shape[-1]),
        bytes_moved=sum(t.numel() * t.element_size() for t in tensors) + output_bytes,
        memory=BACKENDS[chosen].cost(call),
        derivatives=BACKENDS[chosen].derivatives(call),
    )
    print(found)
    return found
