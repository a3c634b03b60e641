"""One validated call of the operator: what every backend is asked about."""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from regard.attention.masks import Grid, Mask, as_mask
from regard.attention.mechanism import normalizer_named, score_named
from regard.attention.normalizers import Normalizer
from regard.attention.scores import Score

__all__ = ["AttentionCall", "tensors_of", "transforming", "unaltered", "with_tensors"]

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

Part = TypeVar("Part", Score, Normalizer)


@dataclass(frozen=True, slots=True, eq=False)
class AttentionCall:
    """The validated arguments of `attend`.

    *Shape:* query `(..., query_heads, query_len, size)`, key `(..., key_heads, key_len, size)`,
    value `(..., key_heads, key_len, value_size)`, bias broadcastable to `(..., query_heads, query_len, key_len)`.

    Example:
        >>> call = AttentionCall.of(torch.ones(4, 3, 8), torch.ones(2, 5, 8), torch.ones(2, 5, 8), score="cosine")
        >>> call.score.name, call.normalizer.name, call.groups
        ('cosine', 'softmax', 2)
    """

    query: Tensor
    key: Tensor
    value: Tensor
    score: Score
    normalizer: Normalizer
    mask: Mask | None
    bias: Tensor | None
    dropout: float
    return_weights: bool

    @property
    def grid(self) -> Grid:
        """The size of the picture that the mask is asked about."""
        return Grid(self.query.shape[-2], self.key.shape[-2], self.query.ndim, self.query.device)

    @property
    def groups(self) -> int:
        """How many query heads share a key head."""
        return self.query.shape[-3] // max(self.key.shape[-3], 1) if self.query.ndim > 2 else 1

    @property
    def needs_gradient(self) -> bool:
        """Whether any tensor of the call takes part in differentiation."""
        if not torch.is_grad_enabled():
            return False
        given = (self.query, self.key, self.value, *tensors_of(self.score), *tensors_of(self.normalizer))
        return any(t.requires_grad for t in given) or (self.bias is not None and self.bias.requires_grad)

    @property
    def transformed(self) -> bool:
        """Whether a function transform or forward-mode differentiation is under way."""
        return forward_ad._current_level >= 0 or transforming()

    @classmethod
    def of(
        cls,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        score: Score | str = "scaled_dot",
        normalizer: Normalizer | str = "softmax",
        mask: Mask | Tensor | None = None,
        bias: Tensor | None = None,
        dropout: float = 0.0,
        return_weights: bool = False,
    ) -> AttentionCall:
        """Check every argument of `attend`; raises `TypeError` or `ValueError` that names the one at fault, what it
        is and must be.
        """
        if isinstance(score, str):
            score = _score(score)
        elif not isinstance(score, Score):
            raise TypeError(f"score must be a regard score or its name, it is {type(score).__name__}")
        if isinstance(normalizer, str):
            normalizer = _normalizer(normalizer)
        elif not isinstance(normalizer, Normalizer):
            raise TypeError(
                f"normalizer must be a regard normalizer or its name, it is {type(normalizer).__name__}"
            )
        _check_tensors(query, key, value)
        if torch.is_autocast_enabled(query.device.type):
            dtype = torch.get_autocast_dtype(query.device.type)
            query, key, value = (t if t.dtype == torch.float64 else t.to(dtype) for t in (query, key, value))
        _check_dtypes(query, key, value)
        score.check(query.shape[-1], key.shape[-1], query.shape[-3] if query.ndim > 2 else None)
        if mask is not None:
            mask = as_mask(mask)
            mask.check(query, key)
        if bias is not None:
            _check_bias(bias, query, key)
        if not isinstance(dropout, int | float):
            raise TypeError(f"dropout must be a number, it is {type(dropout).__name__}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be at least 0 and below 1, it is {dropout}")
        return cls(query, key, value, score, normalizer, mask, bias, float(dropout), return_weights)


def transforming(*tensors: Tensor) -> bool:
    """Whether a function transform (`vmap`, `torch.func.grad`, ...) is under way, or one of `tensors` is a batch of
    gradients (`is_grads_batched`)."""
    batched = torch._C._functorch.is_legacy_batchedtensor
    return torch._C._functorch.peek_interpreter_stack() is not None or any(map(batched, tensors))


def unaltered(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which operations keep the dtypes they are given: autocast has had its say when a call is made."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


_score = lru_cache(maxsize=64)(score_named)
_normalizer = lru_cache(maxsize=64)(normalizer_named)


def tensors_of(part: Score | Normalizer) -> list[Tensor]:
    """The tensors among the fields of a score function or normaliser."""
    return [value for value in vars(part).values() if isinstance(value, Tensor)]


def with_tensors(part: Part, tensors: list[Tensor]) -> Part:
    """The same part with other tensors in its tensor fields, in the order of `tensors_of`."""
    names = [name for name, value in vars(part).items() if isinstance(value, Tensor)]
    changes: dict[str, Any] = dict(zip(names, tensors, strict=True))
    return dataclasses.replace(part, **changes) if changes else part


def _check_tensors(query: Tensor, key: Tensor, value: Tensor) -> None:
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, it is {type(tensor).__name__}")
        if tensor.dtype not in DTYPES:
            raise TypeError(f"{name} must be of a floating-point type, it is {tensor.dtype}")
        if tensor.ndim < 2:
            raise ValueError(f"{name} must be (..., heads, length, size), it has shape {tuple(tensor.shape)}")
    if not query.device == key.device == value.device:
        raise ValueError(
            f"query, key and value must be on one device: they are on {query.device}, {key.device}, {value.device}"
        )
    if value.shape[:-1] != key.shape[:-1]:
        raise ValueError(
            f"value must have the axes of key {tuple(key.shape)} but for the last, it has {tuple(value.shape)}"
        )
    if query.shape[:-2] == key.shape[:-2]:
        return
    if query.ndim != key.ndim or query.shape[:-3] != key.shape[:-3]:
        raise ValueError(
            f"key must have the leading axes of query {tuple(query.shape)} "
            f"(only the number of heads may differ), it has shape {tuple(key.shape)}"
        )
    if key.shape[-3] == 0 or query.shape[-3] % key.shape[-3]:
        raise ValueError(
            f"query must have a multiple of key's heads: query has {query.shape[-3]}, key has {key.shape[-3]}"
        )


def _check_dtypes(query: Tensor, key: Tensor, value: Tensor) -> None:
    if not query.dtype == key.dtype == value.dtype:
        raise TypeError(
            f"query, key and value must have one dtype: they have {query.dtype}, {key.dtype}, {value.dtype}"
        )


def _check_bias(bias: Tensor, query: Tensor, key: Tensor) -> None:
    if not isinstance(bias, Tensor):
        raise TypeError(f"bias must be a tensor, it is {type(bias).__name__}")
    if bias.device != query.device:
        raise ValueError(f"bias must be on the device of query, {query.device}, it is on {bias.device}")
    if not bias.is_floating_point():
        raise TypeError(f"bias must be of a floating-point type, it is {bias.dtype} (who may look is `mask`)")
    full = torch.Size((*query.shape[:-1], key.shape[-2]))
    try:
        fits = torch.broadcast_shapes(bias.shape, full) == full
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"bias must be broadcastable to (..., heads, query_len, key_len) = {tuple(full)}, "
            f"it has shape {tuple(bias.shape)}"
        )
