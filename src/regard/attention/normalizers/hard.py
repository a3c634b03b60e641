"""Normalisers that keep the best keys only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from regard.attention.normalizers.normalizer import Normalizer
from regard.attention.numbers import check_any_number

__all__ = ["Hardmax", "Threshold", "TopK", "TopP"]


@dataclass(frozen=True, eq=False)
class Hardmax(Normalizer):
    r"""All weight on the best key (the first of equals); no gradient reaches the scores.

    $$w_i = [i = \operatorname*{argmax}_j s_j]$$

    *Shape:* scores `(..., query_len, key_len)` -> weights of the same shape.

    Example:
        >>> Hardmax().weigh(torch.tensor([2.0, 0.0, 1.0]))
        tensor([1., 0., 0.])

    The deterministic argmax; the hard attention of Xu et al. 2015, section 4.1, draws the key at random by its softmax
    weight and learns the scores by REINFORCE.
    """

    name: ClassVar[str] = "hardmax"

    @property
    def kernel(self) -> tuple[str, float] | None:
        return "hardmax", 0.0

    def weigh(self, scores: Tensor) -> Tensor:
        if scores.shape[-1] == 0:
            return scores
        best = scores.detach().argmax(-1, keepdim=True)
        weights = torch.zeros_like(scores).scatter(-1, best, 1.0)
        weights = weights.masked_fill(scores.isnan().any(-1, keepdim=True), torch.nan)
        # Depends on the scores for autograd's sake, with a gradient of zero.
        return torch.where(torch.zeros_like(scores, dtype=torch.bool), scores, weights)


@dataclass(frozen=True, eq=False)
class TopK(Normalizer):
    r"""Softmax over the `k` best keys, zero for the others; of equal scores the first keys win.

    $$w_i = \frac{[i \in \mathrm{top}_k(s)]\, e^{s_i}}{\sum_{j \in \mathrm{top}_k(s)} e^{s_j}}$$

    With fewer than `k` visible keys, all of them are kept. Gradients flow through the kept scores, as if the
    others were hidden. Raises `ValueError` unless `k` is a whole number of at least 1.

    *Shape:* scores `(..., query_len, key_len)` -> weights of the same shape.

    Example:
        >>> TopK(2).weigh(torch.tensor([2.0, 0.0, 1.0]))
        tensor([0.7311, 0.0000, 0.2689])

    Gupta et al. 2021 (top-k attention); x-transformers keeps every key that ties with the last.
    """

    k: int = 4
    name: ClassVar[str] = "top"

    @property
    def kernel(self) -> tuple[str, float] | None:
        return "top", float(self.k)

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise ValueError(f"k of top-k must be a whole number of at least 1, it is {self.k!r}")

    @property
    def spelling(self) -> str:
        """`top-` and the number of keys that are kept."""
        return f"top-{self.k}"

    def weigh(self, scores: Tensor) -> Tensor:
        with torch.no_grad():
            if torch.compiler.is_compiling():
                # The length is a symbol: to compare it with a number would make the program right for some only.
                last = pad(scores, (0, self.k), value=-torch.inf).topk(self.k, dim=-1).values[..., -1:]
            else:
                last = scores.topk(min(self.k, scores.shape[-1]), dim=-1).values[..., -1:]
            above = scores > last
            equal = scores == last
            room = self.k - above.sum(-1, keepdim=True)
            kept = above | (equal & (equal.cumsum(-1) <= room)) | scores.isnan()
        return torch.softmax(scores.masked_fill(~kept, -torch.inf), dim=-1)


@dataclass(frozen=True, eq=False)
class TopP(Normalizer):
    r"""Softmax over the fewest best keys that together have a share `p` of its weight, zero for the others.

    $$w_i = \frac{[i \in P]\, e^{s_i}}{\sum_{j \in P} e^{s_j}}, \qquad
    P = \text{the fewest best keys with } \sum_{i \in P} \mathrm{softmax}(s)_i \ge p$$

    Of equal scores the first keys win. Gradients flow through the kept scores, as if the others were hidden. Raises
    `ValueError` unless `p` is above 0 and at most 1.

    *Shape:* scores `(..., query_len, key_len)` -> weights of the same shape.

    Example:
        >>> TopP(0.8).weigh(torch.tensor([2.0, 0.0, 1.0]))
        tensor([0.7311, 0.0000, 0.2689])

    The rule of Holtzman et al. 2020 (nucleus sampling), section 3.1, for the keys of attention, as Lin et al. 2025
    (Twilight) use it to drop keys. PyTorch and x-transformers have it for the next token only.
    """

    p: float = 0.9
    name: ClassVar[str] = "top_p"

    def __post_init__(self) -> None:
        check_any_number("p of top_p", self.p)
        if not 0.0 < self.p <= 1.0:
            raise ValueError(f"p of top_p must be above 0 and at most 1, it is {self.p!r}")

    def weigh(self, scores: Tensor) -> Tensor:
        weights = torch.softmax(scores, dim=-1)
        if self.p == 1.0:
            return weights
        with torch.no_grad():
            ordered, places = weights.detach().sort(dim=-1, descending=True, stable=True)
            enough = ordered.cumsum(-1) - ordered >= self.p
            kept = torch.zeros_like(enough).scatter(-1, places, ~enough)
        return _among(weights, kept)


@dataclass(frozen=True, eq=False)
class Threshold(Normalizer):
    r"""Softmax over the keys whose share of its weight is at least `threshold`, zero for the others.

    $$w_i = \frac{[i \in T]\, e^{s_i}}{\sum_{j \in T} e^{s_j}}, \qquad
    T = \{i : \mathrm{softmax}(s)_i \ge \min(t, \max_j \mathrm{softmax}(s)_j)\}$$

    The best key, or the best if several are equal, is always kept. Gradients flow through the kept scores, as if the
    others were hidden. Raises `ValueError` unless `threshold` $t$ is above 0 and at most 1.

    *Shape:* scores `(..., query_len, key_len)` -> weights of the same shape.

    Example:
        >>> Threshold(0.2).weigh(torch.tensor([2.0, 0.0, 1.0]))
        tensor([0.7311, 0.0000, 0.2689])

    The rule of epsilon sampling (Hewitt et al. 2022) for the keys of attention; PyTorch and x-transformers have no such
    attention.
    """

    threshold: float = 0.1
    name: ClassVar[str] = "threshold"

    def __post_init__(self) -> None:
        check_any_number("the threshold", self.threshold)
        if not 0.0 < self.threshold <= 1.0:
            raise ValueError(f"the threshold must be above 0 and at most 1, it is {self.threshold!r}")

    def weigh(self, scores: Tensor) -> Tensor:
        weights = torch.softmax(scores, dim=-1)
        held = weights.detach()
        return _among(weights, held >= held.amax(-1, keepdim=True).clamp(max=self.threshold))


def _among(weights: Tensor, kept: Tensor) -> Tensor:
    """Weights of the kept keys alone, which again sum to one."""
    weights = weights * kept
    return weights / weights.sum(-1, keepdim=True)
