"""Fused kernels held against the plain formula: outputs, weights and the gradients of everything.

The rule is that of docs/design.md: an error against float64 may be at most twice that of the plain formula in the same
precision, plus rounding. Half precisions are plain in float32, and rounded at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import regard
from regard.attention.normalizers import Normalizer
from regard.attention.parts import tensors_of, with_tensors
from regard.attention.scores import Score

ROUNDING = 4
"""How many units in the last place of a result's largest number are rounding."""
TIGHT = 1e-12
"""The same in float64, as a share of the largest number."""

BORDERS = [1, 2, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257]
"""Lengths around those of vectors and panels."""


@dataclass(frozen=True)
class Call:
    """A call by its parts. *Shape:* as in `regard.attend`; `bias` and `mask` are tensors."""

    query: Tensor
    key: Tensor
    value: Tensor
    score: Score
    normalizer: Normalizer
    mask: Any = None
    bias: Tensor | None = None

    @property
    def leaves(self) -> dict[str, Tensor]:
        parts = [("query", self.query), ("key", self.key), ("value", self.value)]
        parts += [(f"score's {i}", t) for i, t in enumerate(tensors_of(self.score))]
        parts += [(f"normaliser's {i}", t) for i, t in enumerate(tensors_of(self.normalizer))]
        return dict(parts if self.bias is None else [*parts, ("bias", self.bias)])

    def to(self, dtype: torch.dtype) -> Call:
        """The same call in another precision, ready to be differentiated."""
        return self.with_leaves([t.detach().to(dtype).requires_grad_() for t in self.leaves.values()])

    def with_leaves(self, leaves: Sequence[Tensor]) -> Call:
        """The same call with other tensors, in the order of `leaves`."""
        new = dict(zip(self.leaves, leaves, strict=True))
        count = len(tensors_of(self.normalizer))
        normalizer = with_tensors(self.normalizer, [new[f"normaliser's {i}"] for i in range(count)])
        own = [t for name, t in new.items() if name.startswith("score's")]
        tensors = {name: new[name] for name in ("query", "key", "value", "bias") if name in new}
        return replace(self, score=with_tensors(self.score, own), normalizer=normalizer, **tensors)

    def attend(self, **settings: Any) -> Any:
        parts = {"score": self.score, "normalizer": self.normalizer, "mask": self.mask, "bias": self.bias}
        return regard.attend(self.query, self.key, self.value, **parts, **settings)

    def plain(self) -> tuple[Tensor, Tensor]:
        """Output and weights by the plain formula, every pair written out."""
        wide = self if self.query.element_size() > 2 else self._wide()
        query, key = wide.score.prepare(wide.query, wide.key)
        group = query.shape[-3] // key.shape[-3] if query.ndim > 2 else 1
        key = key.repeat_interleave(group, -3) if group > 1 else key
        group = query.shape[-3] // wide.value.shape[-3] if query.ndim > 2 else 1
        value = wide.value.repeat_interleave(group, -3) if group > 1 else wide.value
        scores = wide.score.compare(query, key)
        if wide.bias is not None:
            scores = scores + wide.bias
        if self.mask is not None:
            shown = self.mask
            if not isinstance(shown, Tensor):
                grid = regard.attention.call.AttentionCall.of(self.query, self.key, self.value).grid
                shown = shown.block(slice(0, grid.query_len), slice(0, grid.key_len), grid)
            scores = scores.masked_fill(~shown, -torch.inf)
        blind = (scores.detach() == -torch.inf).all(-1, keepdim=True)
        weights = self.normalizer.weigh(scores.masked_fill(blind, 0.0)).masked_fill(blind, 0.0)
        return (weights @ value).to(self.query.dtype), weights.to(self.query.dtype)

    def _wide(self) -> Call:
        tensors = {name: getattr(self, name).float() for name in ("query", "key", "value")}
        bias = None if self.bias is None else self.bias.float()
        score = with_tensors(self.score, [t.float() for t in tensors_of(self.score)])
        return replace(self, **tensors, bias=bias, score=score)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def everything(call: Call, ends: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Output, weights and the gradient of every leaf, from random gradients of the two, in float64."""
    output, weights = ends
    above = normal(*output.shape, seed=1).to(output.dtype), normal(*weights.shape, seed=2).to(weights.dtype)
    leaves = call.leaves
    grads = torch.autograd.grad(ends, list(leaves.values()), above, materialize_grads=True)
    found = {"output": output, "weights": weights}
    found |= {f"gradient of {name}": grad for name, grad in zip(leaves, grads, strict=True)}
    return {name: t.detach().double() for name, t in found.items()}


def judge(
    call: Call,
    dtype: torch.dtype,
    backend: str = "sparse",
    *,
    rounding: float = ROUNDING,
    tight: float = TIGHT,
    floor: float = 0.0,
) -> None:
    """Hold a backend against the plain formula; raises `AssertionError` with all that is off.

    `floor` is the least size of numbers that are summed up, for results that are nothing but rounding.
    """
    call = call.to(dtype)
    exact_call = call.to(torch.float64)
    exact = everything(exact_call, exact_call.plain())
    found = everything(call, call.attend(backend=backend, return_weights=True))
    plain = exact if dtype == torch.float64 else everything(call, call.plain())
    wrong = []
    for name, expected in exact.items():
        error, own = (float((one[name] - expected).abs().max()) for one in (found, plain))
        scale = max(float(expected.abs().max()), floor)
        least = tight if dtype == torch.float64 else rounding * torch.finfo(dtype).eps
        # A number below the normal ones has lost places.
        most = 2 * own + least * scale + torch.finfo(dtype).smallest_normal
        if not error <= most:
            wrong.append(f"{name}: {error:.2e} beside {own:.2e} plainly, of {scale:.2e}")
    assert not wrong, "; ".join(wrong)


def scored(
    score: str, scores: Tensor, query_len: int = 1, size: int = 3, seed: int = 5
) -> tuple[Tensor, Tensor, Score]:
    """Queries, keys and a score under which every query of head h has `scores[h]`, up to a constant.

    *Shape:* scores `(heads, key_len)` -> `(heads, query_len, size)`, `(heads, key_len, size)`.
    """
    heads, key_len = scores.shape
    query, key = torch.zeros(heads, query_len, size), normal(heads, key_len, size, seed=seed)
    query, scores = query.double(), scores.double()
    if score == "product":
        query[..., 0], key[..., 0] = 1.0, scores
        return query, key, regard.scores.Dot()
    if score == "distance":
        key[..., 1:] = 0
        key[..., 0] = (scores.amax(-1, keepdim=True) - scores).sqrt()
        return query, key, regard.scores.Distance(1.0)
    # The best has three quarters of the weight: near zero a sum of channels would be exact to more places.
    best, spread = scores.amax(-1, keepdim=True), (scores.amax(-1) - scores.amin(-1))
    weight = torch.zeros(heads, size, dtype=torch.float64)
    weight[:, 0] = torch.where(spread == 0, 1.0, spread)
    key[..., 0] = torch.atanh((scores - best) / weight[:, :1] + 0.75)
    return query, key, regard.scores.Additive(weight)
