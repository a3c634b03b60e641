"""The definition of attention, in NumPy float64: short enough to read, the oracle of every test.

One query at a time; a hidden key is not scored low but left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["MODIFIERS", "NORMALIZERS", "SCORES", "attend"]

Array = NDArray[np.float64]
Score = Callable[..., Array]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": np.tanh,
    "leaky_relu": lambda x: np.where(x > 0, x, 0.2 * x),
    "relu": lambda x: np.maximum(x, 0),
}


def dot(query: Array, keys: Array) -> Array:
    return keys @ query


def scaled_dot(query: Array, keys: Array, scale: float | None = None) -> Array:
    return keys @ query * (1 / math.sqrt(len(query)) if scale is None else scale)


def cosine(query: Array, keys: Array, scale: float = 1.0) -> Array:
    lengths = np.linalg.norm(keys, axis=1) * np.linalg.norm(query)
    return scale * np.divide(keys @ query, lengths, out=np.zeros(len(keys)), where=lengths > 0)


def general(query: Array, keys: Array, weight: Array | None = None) -> Array:
    return keys @ query if weight is None else keys @ (weight.T @ query)


def linear(query: Array, keys: Array, weight: Array, bias: float = 0.0) -> Array:
    product = len(weight) == 3 * len(query) == 3 * keys.shape[1]
    sides = [np.concatenate([query, key, query * key] if product else [query, key]) for key in keys]
    return np.array([side @ weight + bias for side in sides])


def location(query: Array, keys: Array, weight: Array) -> Array:
    return (weight @ query)[: len(keys)]


def additive(
    query: Array,
    keys: Array,
    weight: Array | float = 1.0,
    bias: Array | float = 0.0,
    activation: str = "tanh",
) -> Array:
    return (ACTIVATIONS[activation](query + keys + bias) * weight).sum(axis=1)


def concat(
    query: Array,
    keys: Array,
    weight: Array,
    vector: Array | float = 1.0,
    bias: Array | float = 0.0,
    activation: str = "tanh",
) -> Array:
    sides = [np.concatenate([query, key]) for key in keys]
    return np.array([(vector * ACTIVATIONS[activation](weight @ side + bias)).sum() for side in sides])


def location_sensitive(
    query: Array,
    keys: Array,
    alignment: Array,
    filters: Array,
    projection: Array,
    weight: Array | float = 1.0,
    bias: Array | float = 0.0,
) -> Array:
    channels = np.atleast_2d(alignment)
    around = filters.shape[2] // 2
    features = [
        sum(np.correlate(np.pad(c, around), f, "valid") for c, f in zip(channels, many, strict=True))
        for many in filters
    ]
    return additive(query, keys + np.stack(features, axis=1) @ projection.T, weight, bias)


def distance(query: Array, keys: Array, scale: float | None = None) -> Array:
    return -((keys - query) ** 2).sum(axis=1) * (1 / (2 * math.sqrt(len(query))) if scale is None else scale)


def softcap(score: Score, cap: float = 50.0) -> Score:
    return lambda query, keys, **parameters: cap * np.tanh(score(query, keys, **parameters) / cap)


def leaky(score: Score, slope: float = 0.2) -> Score:
    def modified(query: Array, keys: Array, **parameters: Any) -> Array:
        scores = score(query, keys, **parameters)
        return np.where(scores > 0, scores, slope * scores)

    return modified


def qknorm(
    score: Score,
    epsilon: float = 1e-6,
    query_scale: Array | float = 1.0,
    key_scale: Array | float = 1.0,
) -> Score:
    def modified(query: Array, keys: Array, **parameters: Any) -> Array:
        query = query / np.sqrt(np.mean(query**2) + epsilon) * query_scale
        keys = np.stack([key / np.sqrt(np.mean(key**2) + epsilon) * key_scale for key in keys])
        return score(query, keys, **parameters)

    return modified


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


def entmax(scores: Array, alpha: float = 1.5) -> Array:
    below, power = (alpha - 1) * (scores - scores.max()), 1 / (alpha - 1)
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if (np.maximum(below + middle, 0) ** power).sum() >= 1 else (middle, high)
    return np.maximum(below + high, 0) ** power


def sink(scores: Array, sink: float = 0.0) -> Array:
    return softmax(np.append(scores, sink))[:-1]


def relu(scores: Array, power: int = 1) -> Array:
    return np.where(scores > 0, scores, 0) ** power / len(scores)


def sigmoid(scores: Array, bias: float = 0.0) -> Array:
    return np.exp(-np.logaddexp(0, -(scores + bias)))


def hardmax(scores: Array) -> Array:
    return (np.arange(len(scores)) == np.argmax(scores)).astype(np.float64)


def top(scores: Array, k: int = 4) -> Array:
    kept = np.argsort(-scores, kind="stable")[:k]
    weights = np.zeros(len(scores))
    weights[kept] = softmax(scores[kept])
    return weights


def top_p(scores: Array, p: float = 0.9) -> Array:
    best_first = softmax(scores)[np.argsort(-scores, kind="stable")]
    return top(scores, next((k for k in range(1, len(scores)) if best_first[:k].sum() >= p), len(scores)))


def threshold(scores: Array, threshold: float = 0.1) -> Array:
    kept = (softmax(scores) >= threshold) | (scores == scores.max())
    powers = np.where(kept, np.exp(scores - scores.max()), 0)
    return powers / powers.sum()


def monotonic(scores: Array, before: Array) -> Array:
    stops = sigmoid(scores)
    weights = np.zeros(len(scores))
    for start, stop in zip(*np.triu_indices(len(scores)), strict=True):
        weights[stop] += before[start] * np.prod(1 - stops[start:stop]) * stops[stop]
    return weights


def monotonic_hard(scores: Array, before: Array) -> Array:
    start = np.argmax(before) if before.any() else len(scores)
    stops = [key for key in range(start, len(scores)) if scores[key] > 0]
    return (np.arange(len(scores)) == stops[0]).astype(np.float64) if stops else np.zeros(len(scores))


SCORES: dict[str, Score] = {
    f.__name__: f
    for f in (
        dot,
        scaled_dot,
        cosine,
        general,
        linear,
        additive,
        concat,
        distance,
        location,
        location_sensitive,
    )
}
"""Every score by its name. *Shape:* query `(size,)`, keys `(key_len, size)` -> `(key_len,)`."""
MODIFIERS: dict[str, Callable[..., Score]] = {f.__name__: f for f in (qknorm, softcap, leaky)}
"""Every modifier by its name: from a score, and numbers, to a score."""
NORMALIZERS: dict[str, Callable[..., Array]] = {
    f.__name__: f
    for f in (softmax, sparsemax, entmax15, entmax, sigmoid, relu, sink, hardmax, top, top_p, threshold)
}
"""Every normaliser by its name. *Shape:* scores `(key_len,)` of visible keys -> the same."""
COUPLED: dict[str, Callable[..., Array]] = {f.__name__: f for f in (monotonic, monotonic_hard)}
"""The normalisers that also take the weights of the query before. *Shape:* scores `(key_len,)`, minus infinity where a
key is hidden, weights `(key_len,)` -> the same."""


def attend(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    score: str | Score = "scaled_dot",
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
    or normaliser's parameter that is an array with one entry a head, `{"weight": (heads, size)}`, is listed as a tuple
    of arrays. A score may also be a formula of its own, such as `MODIFIERS` make.

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
    formula = SCORES[score] if isinstance(score, str) else score
    for place in np.ndindex(*query.shape[:-1]):
        head = place[-2] if len(place) > 1 else 0
        keys = key[place[:-1]]
        own = [
            {name: one[head] if isinstance(one, tuple) else one for name, one in (parameters or {}).items()}
            for parameters in (score_parameters, normalizer_parameters)
        ]
        scores = formula(query[place], keys, **own[0]) + added[place]
        seen = visible[place] & (scores != -np.inf)
        if normalizer in COUPLED:
            before = weights[place[:-1]][place[-1] - 1] if place[-1] else np.eye(1, len(keys))[0]
            weights[place] = COUPLED[normalizer](np.where(seen, scores, -np.inf), before)
            output[place] = weights[place] @ value[place[:-1]]
        elif seen.any():
            weights[place][seen] = NORMALIZERS[normalizer](scores[seen], **own[1])
            output[place] = weights[place][seen] @ value[place[:-1]][seen]
    return output, weights
