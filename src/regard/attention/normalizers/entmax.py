"""Normalisers that give weak keys exactly nothing: projections onto the simplex."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from regard.attention.normalizers.normalizer import Normalizer, check_per_head, per_head

__all__ = ["Entmax", "Entmax15", "Sparsemax"]


@dataclass(frozen=True, eq=False)
class Sparsemax(Normalizer):
    r"""The Euclidean projection of the scores onto the simplex: weak keys get exactly zero.

    $$w = \operatorname*{argmin}_{p \in \Delta} \lVert p - s \rVert^2, \qquad w_i = \max(s_i - \tau, 0)$$

    *Shape:* scores `(..., query_len, key_len)` -> weights of the same shape.

    Example:
        >>> Sparsemax().weigh(torch.tensor([2.0, 0.0, 1.0]))
        tensor([1., 0., 0.])

    Martins & Astudillo 2016, algorithm 1. The weights are those of the `entmax` package (1.3), which raises where all
    keys of a query are hidden (`regard.attend` gives zeros) and has no forward-mode derivatives nor `torch.func`
    transforms.
    """

    name: ClassVar[str] = "sparsemax"

    @property
    def kernel(self) -> tuple[str, float] | None:
        return "entmax", 2.0

    def weigh(self, scores: Tensor) -> Tensor:
        # No key more than 1 below the best can be in the support: moving those up to 1 below changes nothing
        # and keeps the sums finite.
        scores = (scores - scores.detach().amax(-1, keepdim=True)).clamp(min=-1.0)
        with torch.no_grad():
            ordered = scores.sort(dim=-1, descending=True).values
            count = torch.arange(1, scores.shape[-1] + 1, device=scores.device, dtype=scores.dtype)
            size = (1 + count * ordered > ordered.cumsum(-1)).sum(-1, keepdim=True)
            inside = scores >= ordered.gather(-1, size.clamp(min=1) - 1)
            size = inside.sum(-1, keepdim=True)
        threshold = ((scores * inside).sum(-1, keepdim=True) - 1) / size
        return (scores - threshold).clamp(min=0) * inside


@dataclass(frozen=True, eq=False)
class Entmax15(Normalizer):
    r"""The weights that maximise expected score plus Tsallis entropy at alpha = 1.5: some keys get exactly zero.

    $$w = \operatorname*{argmax}_{p \in \Delta} p^\top s + \tfrac{4}{3} \sum_j (p_j - p_j^{1.5}),
    \qquad w_i = \max(s_i / 2 - \tau, 0)^2$$

    It stands between softmax (alpha = 1) and sparsemax (alpha = 2).

    *Shape:* scores `(..., query_len, key_len)` -> weights of the same shape.

    Example:
        >>> Entmax15().weigh(torch.tensor([2.0, 0.0, 1.0]))
        tensor([0.8307, 0.0000, 0.1693])

    Peters, Niculae & Martins 2019, algorithm 2. The weights are those of the `entmax` package (1.3), which raises where
    all keys of a query are hidden (`regard.attend` gives zeros), whose second derivatives are NaN where a weight is
    zero, and which has no forward-mode derivatives nor `torch.func` transforms.
    """

    name: ClassVar[str] = "entmax15"

    @property
    def kernel(self) -> tuple[str, float] | None:
        return "entmax", 1.5

    def weigh(self, scores: Tensor) -> Tensor:
        # Only keys less than 1 below the best can be in the support.
        scores = ((scores - scores.detach().amax(-1, keepdim=True)) / 2).clamp(min=-2.0)
        with torch.no_grad():
            ordered = scores.sort(dim=-1, descending=True).values
            count = torch.arange(1, scores.shape[-1] + 1, device=scores.device, dtype=scores.dtype)
            mean = ordered.cumsum(-1) / count
            spread = (ordered.square().cumsum(-1) / count - mean.square()) * count
            threshold = mean - ((1 - spread) / count).clamp(min=0).sqrt()
            size = (threshold < ordered).sum(-1, keepdim=True)
            inside = scores >= ordered.gather(-1, size.clamp(min=1) - 1)
            size = inside.sum(-1, keepdim=True)
        mean = (scores * inside).sum(-1, keepdim=True) / size
        spread = ((scores - mean).square() * inside).sum(-1, keepdim=True)
        # The support's spread is at most 1; a tiny floor keeps the root's gradient finite when rounding meets it.
        threshold = mean - ((1 - spread) / size).clamp(min=torch.finfo(scores.dtype).tiny).sqrt()
        return (scores - threshold).clamp(min=0).square() * inside


@dataclass(frozen=True, eq=False)
class Entmax(Normalizer):
    r"""The weights that maximise expected score plus Tsallis entropy, at any alpha above 1: some keys get exactly zero.

    $$w = \operatorname*{argmax}_{p \in \Delta} p^\top s + \frac{1}{\alpha(\alpha - 1)} \sum_j (p_j - p_j^\alpha),
    \qquad w_i = \max((\alpha - 1) s_i - \tau, 0)^{1/(\alpha - 1)}$$

    `alpha` towards 1 gives softmax, 1.5 `Entmax15`, 2 `Sparsemax`; above 2 weights are sparser still, and the slope
    of a weight that is nearly zero has no bound. A tensor takes part in differentiation. It is meant to be learned, so
    no value of it is wrong: below 1 it is mirrored ($1 + |\alpha - 1|$), and nearer to 1 than 0.0001 it counts as that
    near while its gradient stays, so that it is never caught there. Raises `ValueError` for a number that is not above
    1 (softmax is alpha = 1), and in `regard.attend` for a tensor of another shape.

    First and second derivatives, forward-mode too, are exact; those of third order and above are not all.

    *Shape:* scores `(..., heads, query_len, key_len)` -> weights of the same shape; alpha a number or a tensor, `()`
    or `(heads,)`.

    Example:
        >>> Entmax(1.3).weigh(torch.tensor([2.0, 0.0, 1.0]))
        tensor([0.7688, 0.0234, 0.2078])

    Peters, Niculae & Martins 2019, section 3; alpha learned by each head, and its gradient: Correia, Niculae & Martins
    2019, section 3, who write it $1 + \sigma(a)$ and so keep it below 2. `entmax_bisect` of the `entmax` package (1.3)
    halves an interval 50 times for any alpha, raises where all keys of a query are hidden, and has no forward-mode
    derivatives nor `torch.func` transforms.
    """

    alpha: float | Tensor = 1.5
    name: ClassVar[str] = "entmax"

    @property
    def kernel(self) -> tuple[str, float] | None:
        return None if isinstance(self.alpha, Tensor) else ("entmax", float(self.alpha))

    def __post_init__(self) -> None:
        if isinstance(self.alpha, Tensor):
            return
        if not isinstance(self.alpha, int | float) or not 1.0 < self.alpha < math.inf:
            raise ValueError(
                f"alpha of entmax must be a number above 1 (softmax is alpha = 1), it is {self.alpha!r}"
            )

    def learn(self, heads: int) -> Normalizer:
        """One alpha a head, from 1.5; an alpha that was given stays as it is."""
        if isinstance(self.alpha, Tensor) or self.alpha != 1.5:
            return self
        return replace(self, alpha=torch.full((heads,), 1.5))

    def check(self, query: Tensor, key: Tensor) -> None:
        check_per_head("alpha of entmax", self.alpha, query)

    def weigh(self, scores: Tensor) -> Tensor:
        if not isinstance(self.alpha, Tensor):
            order = torch.full((), self.alpha - 1.0, dtype=scores.dtype, device=scores.device)
            solve = _newton if self.alpha <= 2.0 else _bisection
            return _differentiable(scores, order, solve(_below_best(scores), order), None)
        order = (per_head(self.alpha, scores) - 1.0).abs()
        order = order + (order.clamp(min=1e-4) - order).detach()
        held, low = order.detach(), _below_best(scores)
        weights = torch.where(
            held <= 1.0, _newton(low, held.clamp(max=1.0)), _bisection(low, held.clamp(min=1.0))
        )
        return _differentiable(scores, held, weights, order)


def _below_best(scores: Tensor) -> Tensor:
    scores = scores.detach()
    return scores - scores.amax(-1, keepdim=True)


def _newton(scores: Tensor, order: Tensor) -> Tensor:
    r"""The weights of entmax where `order` $a = \alpha - 1$ is at most 1, from scores whose best is 0.

    They are $(1 + a (s - \lambda))_+^{1/a}$, which tends to $e^{s - \lambda}$ with $a$. The power $((\sum w)^a - 1)/a$
    of their sum falls with $\lambda$ and is convex (a norm of $1 + a (s - \lambda)$), so Newton's step from either side
    of the root ends on its left; and it is a straight line where all scores are equal, and where all keys but one are
    out. Where very many keys leave one after the other its steps are short: three times the middle between that bound
    and the one from above is tried. Eight steps then serve 100,000 keys in float64, nine a million.
    """
    top = (1 - torch.finfo(scores.dtype).eps) / order
    scores = scores * order
    low = torch.zeros_like(scores[..., :1])
    # The threshold if all keys were equal: there the best still has its fair share, so no sum on the way is zero.
    high = -torch.expm1(-order * (low + scores.shape[-1]).log()) / order
    threshold = low
    for step in range(9):
        weights, slopes = _powers((scores - order * threshold).clamp(min=-1.0), order)
        total = weights.sum(-1, keepdim=True)
        high = torch.where(total < 1, torch.minimum(high, threshold), high)
        total = total.log()
        rise = torch.expm1(order * total) / order * torch.exp((1 - order) * total)
        low = torch.maximum(low, torch.minimum(threshold + rise / slopes.sum(-1, keepdim=True), top))
        threshold = (low + high) / 2 if step in (0, 2, 4) else low
    return _summing_to_one(*_powers((scores - order * threshold).clamp(min=-1.0), order))


def _powers(bases: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """`(1 + base) ** (1 / order)` and the slope `(1 + base) ** (1 / order - 1)`, 0 where base is -1."""
    weights = (bases.log1p() / order).exp()
    return weights, weights / (1 + bases).clamp(min=torch.finfo(bases.dtype).tiny)


def _bisection(scores: Tensor, order: Tensor) -> Tensor:
    r"""The weights of entmax where `order` $a = \alpha - 1$ is at least 1, from scores whose best is 0.

    The unknown is the weight $v$ of the best key, between one over the number of keys and 1; the others are
    $(v^a + a s)_+^{1/a}$. Near zero these rise without bound, which leads Newton's steps astray and makes any other
    threshold too coarse.
    """
    finfo = torch.finfo(scores.dtype)
    scores, power = scores * order, 1 / order
    high = torch.ones_like(scores[..., :1])
    low = high / max(scores.shape[-1], 1)
    for _ in range(3 - round(math.log2(finfo.eps))):
        middle = (low * high).sqrt()
        over = (middle**order + scores).clamp(min=0.0).pow(power).sum(-1, keepdim=True) >= 1
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    bases = (high**order + scores).clamp(min=0.0)
    weights = bases.pow(power)
    return _summing_to_one(weights, weights / bases.clamp(min=finfo.tiny))


def _summing_to_one(weights: Tensor, slopes: Tensor) -> Tensor:
    """The last of the rounding: what the weights sum to beyond one is taken from each by its slope."""
    beyond = (weights.sum(-1, keepdim=True) - 1) / slopes.sum(-1, keepdim=True)
    return (weights - slopes * beyond).clamp(min=0.0)


def _differentiable(scores: Tensor, held: Tensor, weights: Tensor, order: Tensor | None) -> Tensor:
    r"""The found `weights` as a function of the scores, and of `order` where that is a tensor; `held` is its value.

    Around the solution $w_i = (u_i + a (ds_i - d\lambda))^{1/a}$ with $u = w^a$. The first-order $d\lambda$ is known;
    one Newton step from there on the sum of the weights makes second derivatives exact. Every quantity that is moved
    has the value zero, so the weights keep theirs. Keys without weight are left out: their powers have no finite slope.
    """
    tiny = torch.finfo(scores.dtype).tiny
    bases = weights**held
    outside = bases <= tiny
    weights, bases = weights.masked_fill(outside, 0.0), bases.masked_fill(outside, 1.0)
    slopes = weights / bases
    moved = scores.masked_fill(outside, 0.0)
    moved = moved - moved.detach()
    moved = moved - (slopes / slopes.sum(-1, keepdim=True) * moved).sum(-1, keepdim=True)
    if order is None:
        order = held
        ratio = order * moved / bases
        growth = ratio.log1p() / order
    else:
        drift = order - held
        logs = weights.masked_fill(outside, 1.0).log()
        excess = torch.expm1(held * logs) / held
        pull = (weights * (excess / bases - logs)).sum(-1, keepdim=True) / held / slopes.sum(-1, keepdim=True)
        ratio = (order * (moved - pull * drift) + excess * drift) / bases
        growth = ratio.log1p() / order + logs * (held / order - 1)
    weights = weights * growth.exp()
    slopes = weights / (bases * (1 + ratio))
    total = weights.sum(-1, keepdim=True)
    return weights - slopes * ((total - total.detach()) / slopes.sum(-1, keepdim=True))
