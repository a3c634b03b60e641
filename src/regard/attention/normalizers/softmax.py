"""Normalisers that give every visible key some weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from regard.attention.normalizers.normalizer import Normalizer
from regard.attention.numbers import check_any_number, check_number

__all__ = ["Sigmoid", "Softmax"]


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

    @property
    def kernel(self) -> tuple[str, float] | None:
        return "softmax", self.temperature

    def __post_init__(self) -> None:
        check_number("the temperature of softmax", self.temperature)

    def weigh(self, scores: Tensor) -> Tensor:
        return torch.softmax(scores if self.temperature == 1.0 else scores / self.temperature, dim=-1)


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

    @property
    def kernel(self) -> tuple[str, float] | None:
        return "sigmoid", self.bias

    def __post_init__(self) -> None:
        check_any_number("the bias of sigmoid", self.bias)

    def weigh(self, scores: Tensor) -> Tensor:
        return torch.sigmoid(scores + self.bias if self.bias else scores)
