"""The definition of attention, in NumPy float64: short enough to read, the oracle of every test.

One query at a time; a hidden key is not scored low but left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["NORMALIZERS", "SCORES", "attend"]

Array = NDArray[np.float64]


def dot(query: Array, keys: Array) -> Array:
    return keys @ query


def scaled_dot(query: Array, keys: Array, scale: float | None = None) -> Array:
    return keys @ query * (1 / math.sqrt(len(query)) if scale is None else scale)


def cosine(query: Array, keys: Array, scale: float = 1.0) -> Array:
    lengths = np.linalg.norm(keys, axis=1) * np.linalg.norm(query)
    return scale * np.divide(keys @ query, lengths, out=np.zeros(len(keys)), where=lengths > 0)


def general(query: Array, keys: Array, weight: Array | None = None) -> Array:
    return keys @ query if weight is None else keys @ (weight.T @ query)


def additive(query: Array, keys: Array, weight: Array | float = 1.0, bias: Array | float = 0.0) -> Array:
    return (np.tanh(query + keys + bias) * weight).sum(axis=1)


def distance(query: Array, keys: Array, scale: float | None = None) -> Array:
    return -((keys - query) ** 2).sum(axis=1) * (1 / (2 * math.sqrt(len(query))) if scale is None else scale)


def softmax(scores: Array, temperature: float = 1.0) -> Array:
    powers = np.exp((scores - scores.max()) / temperature)
    return powers / powers.sum()


def sparsemax(scores: Array) -> Array:
    ordered = np.sort(scores)[::-1]
    thresholds = (np.cumsum(ordered) - 1) / np.arange(1, len(scores) + 1)
    return np.maximum(scores - thresholds[ordered > thresholds][-1], 0)


def entmax15(scores: Array) -> Array:
    low, high = scores.max() / 2 - 1, scores.max() / 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (np.maximum(scores / 2 - middle, 0) ** 2).sum() >= 1 else (low, middle)
    return np.maximum(scores / 2 - low, 0) ** 2


def sigmoid(scores: Array, bias: float = 0.0) -> Array:
    return np.exp(-np.logaddexp(0, -(scores + bias)))


def hardmax(scores: Array) -> Array:
    return (np.arange(len(scores)) == np.argmax(scores)).astype(np.float64)


def top(scores: Array, k: int = 4) -> Array:
    kept = np.argsort(-scores, kind="stable")[:k]
    weights = np.zeros(len(scores))
    weights[kept] = softmax(scores[kept])
    return weights


SCORES: dict[str, Callable[..., Array]] = {
    f.__name__: f for f in (dot, scaled_dot, cosine, general, additive, distance)
}
"""Every score by its name. *Shape:* query `(size,)`, keys `(key_len, size)` -> `(key_len,)`."""
NORMALIZERS: dict[str, Callable[..., Array]] = {
    f.__name__: f for f in (softmax, sparsemax, entmax15, sigmoid, hardmax, top)
}
"""Every normaliser by its name. *Shape:* scores `(key_len,)` of visible keys -> the same."""


def attend(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    score: str = "scaled_dot",
    normalizer: str = "softmax",
    mask: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    score_parameters: dict[str, Any] | None = None,
    normalizer_parameters: dict[str, Any] | None = None,
) -> tuple[Array, Array]:
    """Output and weights of attention, by the definition.

    *Shape:* query `(..., query_heads, query_len, size)`, key `(..., key_heads, key_len, size)`, value
    `(..., key_heads, key_len, value_size)`, mask and bias broadcastable to `(..., query_heads, query_len, key_len)`
    -> `(..., query_heads, query_len, value_size)` and `(..., query_heads, query_len, key_len)`. A score
    parameter that is an array with one entry a head, `{"weight": (heads, size)}`, is listed as a tuple of arrays.

    Raises `KeyError` for an unknown score or normaliser; shapes are left to NumPy to check. For reading and testing:
    `regard.attend` is the one to use.

    Example:
        >>> output, weights = attend([[1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]], [[1.0], [3.0]], normalizer="hardmax")
        >>> output.tolist(), weights.tolist()
        ([[1.0]], [[1.0, 0.0]])
    """
    query, key, value = (np.asarray(array, dtype=np.float64) for array in (query, key, value))
    if query.ndim > 2 and key.shape[-3] != query.shape[-3]:
        groups = query.shape[-3] // key.shape[-3]
        key, value = np.repeat(key, groups, axis=-3), np.repeat(value, groups, axis=-3)
    full = (*query.shape[:-1], key.shape[-2])
    visible = np.broadcast_to(True if mask is None else np.asarray(mask, dtype=bool), full)
    added = np.broadcast_to(0.0 if bias is None else np.asarray(bias, dtype=np.float64), full)
    output, weights = np.zeros((*query.shape[:-1], value.shape[-1])), np.zeros(full)
    for place in np.ndindex(*query.shape[:-1]):
        head = place[-2] if len(place) > 1 else 0
        keys = key[place[:-1]]
        parameters = {n: p[head] if isinstance(p, tuple) else p for n, p in (score_parameters or {}).items()}
        scores = SCORES[score](query[place], keys, **parameters) + added[place]
        seen = visible[place] & (scores != -np.inf)
        if seen.any():
            weights[place][seen] = NORMALIZERS[normalizer](scores[seen], **(normalizer_parameters or {}))
            output[place] = weights[place][seen] @ value[place[:-1]][seen]
    return output, weights
