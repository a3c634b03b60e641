"""The kernels' formulas in PyTorch's own operations: what second derivatives, and queries with dense supports, run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from regard.attention.kernels.settings import Settings
from regard.attention.normalizers import (
    Entmax,
    Entmax15,
    Hardmax,
    Normalizer,
    Sigmoid,
    Softmax,
    Sparsemax,
    TopK,
)
from regard.attention.scores.additive import ACTIVATIONS
from regard.attention.scores.score import for_each_head

__all__ = [
    "additive_scores",
    "attention",
    "drawn",
    "gradients",
    "hide",
    "normalizer_of",
    "scores_of",
    "shares",
    "through",
]


def additive_scores(query: Tensor, key: Tensor, weight: Tensor, activation: str = "tanh") -> Tensor:
    """`weight . tanh(query + key)`, or another activation. *Shape:* as in `operators`."""
    energy = ACTIVATIONS[activation](query.unsqueeze(-2) + for_each_head(key, query).unsqueeze(-3))
    return (energy @ weight[:, None, :, None]).squeeze(-1)


def scores_of(query: Tensor, key: Tensor, weight: Tensor | None, score: str) -> Tensor:
    """The scores by name. *Shape:* as in `operators`."""
    if score.startswith("additive"):
        assert weight is not None
        return additive_scores(query, key, weight, score.partition("_")[2] or "tanh")
    key = for_each_head(key, query)
    if score == "distance":
        return -(query.unsqueeze(-2) - key.unsqueeze(-3)).square().sum(-1)
    return query @ key.mT


def hide(scores: Tensor, ranges: Tensor | None, mask: Tensor | None, bias: Tensor | None) -> Tensor:
    """Scores with their bias, minus infinity where a query may not look. *Shape:* as in `operators`."""
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    if ranges is not None:
        place = torch.arange(scores.shape[-1], device=scores.device)
        low, high = ranges[..., 0, None], ranges[..., 1, None]
        scores = scores.masked_fill(~((place >= low) & (place < high)), -torch.inf)
    return scores if mask is None else scores.masked_fill(~mask, -torch.inf)


def normalizer_of(name: str, parameter: float) -> Normalizer:
    """The normaliser that a kernel knows by this name and number."""
    if name == "entmax":
        return Sparsemax() if parameter == 2 else Entmax15() if parameter == 1.5 else Entmax(parameter)
    made: dict[str, Callable[[], Normalizer]] = {
        "top": lambda: TopK(int(parameter)),
        "hardmax": Hardmax,
        "softmax": lambda: Softmax(parameter),
        "sigmoid": lambda: Sigmoid(parameter),
    }
    return made[name]()


def shares(settings: Settings, query: Tensor, key_len: int) -> Tensor:
    """What the CPU's kernel multiplies weights with: 0, or one over the share that is kept.

    *Shape:* query `(batch, heads, query_len, size)` -> float64 `(batch, heads, query_len, key_len)`.
    """
    batch, heads, query_len, _ = query.shape
    head = torch.arange(batch * heads, device=query.device).view(batch, heads, 1)
    rows = head * settings.whole + settings.first + torch.arange(query_len, device=query.device)
    keys = torch.arange(key_len, device=query.device)
    return drawn(settings.seed, settings.dropout, rows[..., None], keys)


def drawn(seed: int, dropout: float, rows: Tensor, keys: Tensor) -> Tensor:
    """The same by the numbers of queries among those of all heads, and by keys; these are broadcast to each other."""

    def signed(number: int) -> int:
        return number - 2**64 if number >= 2**63 else number

    def shifted(x: Tensor, places: int) -> Tensor:
        return (x >> places) & (2 ** (64 - places) - 1)

    x = seed + rows * signed(0x9E3779B97F4A7C15) + keys * signed(0xD1B54A32D192ED03)
    x = (x ^ shifted(x, 30)) * signed(0xBF58476D1CE4E5B9)
    x = (x ^ shifted(x, 27)) * signed(0x94D049BB133111EB)
    number = shifted(x ^ shifted(x, 31), 11).double() / 2**53
    return (number >= dropout).double() / (1 - dropout)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weight: Tensor | None,
    ranges: Tensor | None,
    mask: Tensor | None,
    bias: Tensor | None,
    settings: Settings,
) -> tuple[Tensor, Tensor]:
    """Output and weights by the definition, every pair written out. *Shape:* as in `operators`."""
    scores = scores_of(query, key, weight, settings.score)
    if settings.scale != 1:
        scores = scores * settings.scale
    scores = hide(scores, ranges, mask, bias)
    blind = (scores.detach() == -torch.inf).all(-1, keepdim=True)
    normalizer = normalizer_of(settings.normalizer, settings.parameter)
    weights = normalizer.weigh(scores.masked_fill(blind, 0.0)).masked_fill(blind, 0.0)
    kept = weights
    if settings.dropout:
        if query.device.type != "cpu":
            raise NotImplementedError("a second derivative through dropout needs the CPU")
        kept = weights * shares(settings, query, key.shape[-2]).to(weights.dtype)
    return kept @ for_each_head(value, query), weights


def gradients(
    forward: Callable[..., Any], inputs: Sequence[Tensor | None], *above: Tensor | None
) -> list[Tensor | None]:
    """The gradients of `inputs` from those of what `forward` makes of them, ready to be differentiated again."""
    with torch.enable_grad():
        # A view cuts the graph behind a tensor off: a path from one input to another is not this function's to count.
        leaves = [
            None if t is None else t.view_as(t) if t.requires_grad else t.detach().requires_grad_()
            for t in inputs
        ]
        ends = forward(*leaves)
        pairs = [
            (end, grad)
            for end, grad in zip(ends if isinstance(ends, tuple) else (ends,), above, strict=True)
            if grad is not None
        ]
        found = iter(
            torch.autograd.grad(
                [end for end, _ in pairs],
                [leaf for leaf in leaves if leaf is not None],
                [grad for _, grad in pairs],
                create_graph=True,
                materialize_grads=True,
            )
        )
    return [None if leaf is None else next(found) for leaf in leaves]


def through(
    function: Callable[..., Sequence[Tensor | None]],
    inputs: Sequence[Tensor | None],
    grads: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """The gradients of `inputs` through `function`, from those of its results; differentiable if that is wanted."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        leaves = [
            None if t is None else t.view_as(t) if t.requires_grad else t.detach().requires_grad_()
            for t in inputs
        ]
        ends = function(*leaves)
        pairs = [
            (end, grad)
            for end, grad in zip(ends, grads, strict=True)
            if end is not None and grad is not None and end.requires_grad
        ]
        found = iter(
            torch.autograd.grad(
                [end for end, _ in pairs],
                [leaf for leaf in leaves if leaf is not None],
                [grad for _, grad in pairs],
                create_graph=again,
                allow_unused=True,
            )
            if pairs
            else [None] * len(leaves)
        )
    return [None if leaf is None else next(found) for leaf in leaves]
