"""One validated call of the operator: what every backend is asked about."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from regard.attention.biases import Bias, as_bias
from regard.attention.grid import Grid
from regard.attention.masks import Documents, Mask, as_mask
from regard.attention.mechanism import mask_named, normalizer_named, score_named
from regard.attention.normalizers import Normalizer
from regard.attention.parts import tensors_of
from regard.attention.scores import Function, Score

__all__ = ["AttentionCall", "mask_of", "transforming", "unaltered"]

DTYPES = frozenset((torch.float32, torch.float16, torch.bfloat16, torch.float64))


@dataclass(slots=True, eq=False)
class AttentionCall:
    """The validated arguments of `attend`. (Not frozen: that would cost a microsecond of every call.)

    *Shape:* query `(..., query_heads, query_len, size)`, key `(..., key_heads, key_len, size)`,
    value `(..., key_heads, key_len, value_size)`.

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
    bias: Bias | None
    dropout: float
    return_weights: bool
    autocast: bool = False

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
        if self.query.requires_grad or self.key.requires_grad or self.value.requires_grad:
            return True
        parts = (
            (self.score, self.normalizer) if self.bias is None else (self.score, self.normalizer, self.bias)
        )
        return any(tensor.requires_grad for part in parts for tensor in tensors_of(part))

    @property
    def hides(self) -> bool:
        """Whether the mask may hide anything; a compiler is not to ask, or the answer would hold for some lengths
        only."""
        return self.mask is not None and (torch.compiler.is_compiling() or self.mask.hides(self.grid))

    @property
    def transformed(self) -> bool:
        """Whether a function transform, forward-mode differentiation or a compiler is at work: they want PyTorch's own
        operations and nothing else."""
        return torch.compiler.is_compiling() or forward_ad._current_level >= 0 or transforming()

    @classmethod
    def of(
        cls,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        score: Score | Callable[[Tensor, Tensor], Tensor] | str = "scaled_dot",
        normalizer: Normalizer | str = "softmax",
        mask: Mask | Tensor | str | None = None,
        bias: Bias | Tensor | None = None,
        dropout: float = 0.0,
        return_weights: bool = False,
    ) -> AttentionCall:
        """Check every argument of `attend`; raises `TypeError` or `ValueError` that names the one at fault, what it
        is and must be.
        """
        if isinstance(score, str):
            score = _remembered(_NAMED_SCORES, score_named, score)
        elif not isinstance(score, Score):
            if not callable(score) or isinstance(score, type):
                raise TypeError(
                    f"score must be a regard score, its name or a function of query and key, it is {_kind(score)}"
                )
            score = Function(score)
        if isinstance(normalizer, str):
            normalizer = _remembered(_NAMED_NORMALIZERS, normalizer_named, normalizer)
        elif not isinstance(normalizer, Normalizer):
            raise TypeError(f"normalizer must be a regard normalizer or its name, it is {_kind(normalizer)}")
        _check_tensors(query, key, value)
        device = query.device.type
        autocast = device != "meta" and torch.is_autocast_enabled(device)
        if autocast:
            dtype = torch.get_autocast_dtype(device)
            query, key, value = (t if t.dtype == torch.float64 else t.to(dtype) for t in (query, key, value))
        if not query.dtype == key.dtype == value.dtype:
            raise TypeError(
                f"query, key and value must have one dtype: they have {query.dtype}, {key.dtype}, {value.dtype}"
            )
        score.check(query, key)
        normalizer.check(query, key)
        if mask is not None:
            mask = mask_of(mask)
            mask.check(query, key)
            if normalizer.coupled and isinstance(mask, Documents):
                raise ValueError(
                    f"the normalizer {normalizer.spelling!r} hands its weights on to the next query, also to another "
                    "document's: call it for each document, or give jagged nested tensors"
                )
        if bias is not None:
            bias = as_bias(bias)
            bias.check(query, key)
        if dropout != 0.0:
            if not isinstance(dropout, int | float):
                raise TypeError(f"dropout must be a number, it is {type(dropout).__name__}")
            if not 0.0 <= dropout < 1.0:
                raise ValueError(f"dropout must be at least 0 and below 1, it is {dropout}")
        return cls(query, key, value, score, normalizer, mask, bias, dropout, return_weights, autocast)


def _kind(value: object) -> str:
    return f"the class {value.__name__} itself" if isinstance(value, type) else type(value).__name__


def mask_of(mask: Mask | Tensor | str) -> Mask:
    """The mask itself, the one that a name spells, or the one that a boolean tensor describes."""
    return mask_named(mask) if isinstance(mask, str) else as_mask(mask)


def transforming(*tensors: Tensor) -> bool:
    """Whether a function transform (`vmap`, `torch.func.grad`, ...) is under way, or one of `tensors` is a batch of
    gradients (`is_grads_batched`)."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return True
    return bool(tensors) and any(map(torch._C._functorch.is_legacy_batchedtensor, tensors))


def unaltered(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which operations keep the dtypes they are given: autocast has had its say when a call is made."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


_NAMED_SCORES: dict[str, Score] = {}
_NAMED_NORMALIZERS: dict[str, Normalizer] = {}


Named = TypeVar("Named", Score, Normalizer)


def _remembered(known: dict[str, Named], named: Callable[[str], Named], name: str) -> Named:
    """What `name` spells, read once. (A compiler would compile again whenever `known` comes to hold another name.)"""
    if torch.compiler.is_compiling() or (name not in known and len(known) >= 256):
        return named(name)
    if name not in known:
        known[name] = named(name)
    return known[name]


def _check_tensor(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, it is {type(tensor).__name__}")
    if type(tensor) is not Tensor and tensor.is_nested:
        raise TypeError(f"{name} must not be nested: only regard.attend takes jagged tensors")
    if tensor.dtype not in DTYPES:
        raise TypeError(f"{name} must be of a floating-point type, it is {tensor.dtype}")
    if tensor.ndim < 2:
        raise ValueError(f"{name} must be (..., heads, length, size), it has shape {tuple(tensor.shape)}")


def _check_tensors(query: Tensor, key: Tensor, value: Tensor) -> None:
    dtype = query.dtype if type(query) is Tensor else None
    # One test of all that is usual; which of them is not is asked one by one.
    if not (
        dtype in DTYPES
        and type(key) is type(value) is Tensor
        and key.dtype is value.dtype is dtype
        and query.ndim > 1
        and key.ndim > 1
        and value.ndim > 1
    ):
        for name, tensor in (("query", query), ("key", key), ("value", value)):
            _check_tensor(name, tensor)
    if not query.device == key.device == value.device:
        raise ValueError(
            f"query, key and value must be on one device: they are on {query.device}, {key.device}, {value.device}"
        )
    shape = key.shape
    if value.shape[:-1] != shape[:-1]:
        raise ValueError(
            f"value must have the axes of key {tuple(key.shape)} but for the last, it has {tuple(value.shape)}"
        )
    if query.shape[:-2] == shape[:-2]:
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
