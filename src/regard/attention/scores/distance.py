"""Minus the distance of query and key."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from regard.attention.numbers import check_any_number
from regard.attention.scores.score import Score

__all__ = ["Distance"]


@dataclass(frozen=True, eq=False)
class Distance(Score):
    r"""Minus the squared Euclidean distance: under softmax, a Gaussian kernel.

    $$s(q, k) = -\mathrm{scale} \cdot \lVert q - k \rVert^2, \qquad \mathrm{scale} = 1/(2\sqrt{D})$$

    With the default scale it is the scaled dot product less a penalty on long queries and keys, so the two
    can be compared like for like. Computed from differences, which is exact for near keys.

    *Shape:* query `(..., query_len, size)`, key `(..., key_len, size)` -> scores `(..., query_len, key_len)`.

    Example:
        >>> import torch
        >>> query, key = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, 2.0]])
        >>> Distance(scale=1.0).compare(query, key)
        tensor([[-8., -1.]])

    Tsai et al. 2019 ("Transformer Dissection"), who read attention as a kernel smoother and try this kernel (RBF)
    among others. PyTorch's `scaled_dot_product_attention` and Keras have no such score.
    """

    scale: float | None = None
    name: ClassVar[str] = "distance"

    def __post_init__(self) -> None:
        if self.scale is not None:
            check_any_number("the scale of distance", self.scale)

    @property
    def kernel(self) -> str | None:
        return "distance" if self.scale is None or self.scale >= 0 else None

    def factor(self, size: int) -> float:
        return 0.5 / math.sqrt(max(size, 1)) if self.scale is None else self.scale

    def width(self, size: int) -> int:
        return max(size, 1)

    def operations(self, size: int) -> int:
        return 3 * size

    def compare(self, query: Tensor, key: Tensor) -> Tensor:
        return (query.unsqueeze(-2) - key.unsqueeze(-3)).square().sum(-1) * -self.factor(key.shape[-1])
