"""The operators of `regard.attention.kernels.operators` on a GPU, by Triton.

Everything here is tested in Triton's interpreter; nothing of its speed has been measured.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from regard.attention.kernels.gpu import attention as kernels
from regard.attention.kernels.gpu.additive import additive_scores as _additive_scores
from regard.attention.kernels.gpu.additive import additive_scores_backward as _additive_scores_backward
from regard.attention.kernels.settings import Settings

T = TypeVar("T", Tensor, Tensor | None)

__all__ = [
    "additive_scores",
    "additive_scores_backward",
    "attention",
    "attention_backward",
    "shapes",
    "unsupported",
]


def unsupported(settings: Settings, dtype: torch.dtype, size: int, value_size: int) -> list[str]:
    """Why there is no kernel for a call; empty where there is one."""
    return kernels.unsupported(
        settings.score, settings.normalizer, settings.parameter, dtype, size, value_size
    )


def shapes(
    query: Tensor, key: Tensor, value: Tensor, settings: Settings, want_weights: bool
) -> tuple[Tensor, ...]:
    """Tensors of the shapes and types of what `attention` gives."""
    return kernels.results_of(
        query, key, value, settings.score, settings.normalizer, settings.parameter, want_weights
    )


def additive_scores(query: Tensor, key: Tensor, weight: Tensor) -> Tensor:
    """`weight . tanh(query + key)`. *Shape:* as in `operators`."""
    return _additive_scores(query, key, _each_head(weight, query))


def additive_scores_backward(
    grad: Tensor, query: Tensor, key: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of query, key and weight from those of the scores."""
    found = _additive_scores_backward(grad, query, key, _each_head(weight, query))
    return found[0], found[1], found[2].sum_to_size(weight.shape)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weight: Tensor | None,
    ranges: Tensor | None,
    mask: Tensor | None,
    bias: Tensor | None,
    settings: Settings,
    want_weights: bool,
    keep: bool,
) -> tuple[Tensor, ...]:
    """As `operators.attention` says; what is kept for the backward pass is small, whether it is wanted or not."""
    root = settings.scale**0.5
    return kernels.attention(
        _times(query, root), _times(key, root), value, _each_head(weight, query), ranges, mask, bias,
        settings.score, settings.normalizer, settings.parameter, settings.dropout, _seed(settings), want_weights,
    )  # fmt: skip


def attention_backward(
    grad_output: Tensor,
    grad_weights: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weight: Tensor | None,
    ranges: Tensor | None,
    mask: Tensor | None,
    bias: Tensor | None,
    output: Tensor,
    statistic: Tensor,
    counts: Tensor,
    index: Tensor,
    kept: Tensor,
    settings: Settings,
    want_bias: bool,
) -> tuple[Tensor, ...]:
    """The gradients of query, key, value, weight and bias; the last two are empty where there are none."""
    root = settings.scale**0.5
    grad_query, grad_key, grad_value, grad_weight, grad_bias = kernels.attention_backward(
        grad_output, grad_weights, _times(query, root), _times(key, root), value, _each_head(weight, query),
        ranges, mask, bias, output, statistic, index, kept,
        settings.score, settings.normalizer, settings.parameter, settings.dropout, _seed(settings), want_bias,
    )  # fmt: skip
    nothing = query.new_empty(0)
    return (
        _times(grad_query, root),
        _times(grad_key, root),
        grad_value,
        nothing if grad_weight is None or weight is None else grad_weight.sum_to_size(weight.shape),
        nothing if grad_bias is None else grad_bias,
    )


def _each_head(weight: T, query: Tensor) -> T:
    """*Shape:* `(heads or 1, size)` -> `(heads, size)`; None stays so."""
    return None if weight is None else weight.expand(query.shape[1], -1).contiguous()


def _times(tensor: Tensor, root: float) -> Tensor:
    """Queries and keys of a distance times the root of its scale, which the kernel does not know."""
    return tensor if root == 1.0 else tensor * root


def _seed(settings: Settings) -> int:
    """The kernel numbers the queries of a call from 0: another block of queries must draw anew."""
    return (settings.seed + settings.first * 0x9E3779B9) % 2**31
