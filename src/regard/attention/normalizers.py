"""Normalisers: from the scores of one query to the weights of its keys.

A normaliser is a small frozen value with one method. It receives rows of scores in which a hidden key has the
score minus infinity and at least one key does not; a row that may see nothing never reaches it.
To add one: write the class, list it in `NORMALIZERS` (or in `NUMBERED` when its name carries a number).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

__all__ = [
    "NORMALIZERS",
    "NUMBERED",
    "Entmax15",
    "Hardmax",
    "Normalizer",
    "Sigmoid",
    "Softmax",
    "Sparsemax",
    "TopK",
]


@dataclass(frozen=True, eq=False)
class Normalizer:
    """A function from the scores of a query to non-negative weights of its keys.

    *Shape:* scores `(..., query_len, key_len)` -> weights of the same shape.
    """

    name: ClassVar[str]

    @property
    def spelling(self) -> str:
        """The name under which the command line and config files know this value."""
        return self.name

    def weigh(self, scores: Tensor) -> Tensor:
        """Turn scores into weights along the last axis.

        *Shape:* `(..., query_len, key_len)` -> the same. Hidden keys have score -inf and get weight 0; at least
        one key of each row is not hidden. `regard.attend` gives rows that may see nothing weights of zero.
        """
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Softmax(Normalizer):
    r"""Softmax: every visible key gets some weight.

    $$w_i = \frac{e^{s_i / t}}{\sum_j e^{s_j / t}}$$

    `temperature` $t$ above 1 flattens the weights, below 1 sharpens them. Raises `ValueError` unless it is above 0.

    *Shape:* scores `(..., query_len, key_len)` -> weights of the same shape.

    Example:
        >>> Softmax().weigh(torch.tensor([2.0, 0.0, 1.0]))
        tensor([0.6652, 0.0900, 0.2447])

    Bahdanau et al. 2015, section 3.1; the temperature: Hinton et al. 2015, section 2. `torch.softmax` has no
    temperature, and is NaN where all keys are hidden: `regard.attend` gives zeros.
    """

    temperature: float = 1.0
    name: ClassVar[str] = "softmax"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"the temperature of softmax must be above 0, it is {self.temperature}")

    def weigh(self, scores: Tensor) -> Tensor:
        return torch.softmax(scores if self.temperature == 1.0 else scores / self.temperature, dim=-1)


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
class Sigmoid(Normalizer):
    r"""Each key is weighed on its own; the weights need not sum to one.

    $$w_i = \frac{1}{1 + e^{-(s_i + b)}}$$

    `bias` $b$ is added to every score.

    *Shape:* scores `(..., query_len, key_len)` -> weights of the same shape.

    Example:
        >>> Sigmoid().weigh(torch.tensor([2.0, 0.0, 1.0]))
        tensor([0.8808, 0.5000, 0.7311])

    Ramapuram et al. 2024, who use $b = -\log(\text{key length})$, so that the weights sum to about one at first; here
    it is 0 unless given.
    """

    bias: float = 0.0
    name: ClassVar[str] = "sigmoid"

    def weigh(self, scores: Tensor) -> Tensor:
        return torch.sigmoid(scores + self.bias if self.bias else scores)


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

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise ValueError(f"k of top-k must be a whole number of at least 1, it is {self.k!r}")

    @property
    def spelling(self) -> str:
        """`top-` and the number of keys that are kept."""
        return f"top-{self.k}"

    def weigh(self, scores: Tensor) -> Tensor:
        if self.k >= scores.shape[-1]:
            return torch.softmax(scores, dim=-1)
        with torch.no_grad():
            last = scores.topk(self.k, dim=-1).values[..., -1:]
            above = scores > last
            equal = scores == last
            room = self.k - above.sum(-1, keepdim=True)
            kept = above | (equal & (equal.cumsum(-1) <= room)) | scores.isnan()
        return torch.softmax(scores.masked_fill(~kept, -torch.inf), dim=-1)


NORMALIZERS: dict[str, Callable[[], Normalizer]] = {
    part.name: part for part in (Softmax, Sparsemax, Entmax15, Sigmoid, Hardmax)
}
"""Every normaliser by the name that spells it."""

NUMBERED: dict[str, Callable[[int], Normalizer]] = {TopK.name: TopK}
"""Normalisers spelt with a number after a dash: `top-4`."""
