"""Weights in proportion to the scores above zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from regard.attention.normalizers.normalizer import Normalizer

__all__ = ["ReLU"]


@dataclass(frozen=True, eq=False)
class ReLU(Normalizer):
    r"""Each key is weighed on its own by what its score exceeds zero, over the number of visible keys.

    $$w_i = \frac{\max(s_i, 0)^p}{n}$$

    `power` $p$ is 1 or 2, another raises `ValueError`; $n$ counts the keys that the query may see. The weights need not
    sum to one, and are all zero where no score is above zero.

    *Shape:* scores `(..., query_len, key_len)` -> weights of the same shape.

    Example:
        >>> ReLU().weigh(torch.tensor([2.0, -1.0, 1.0, -torch.inf]))
        tensor([0.6667, 0.0000, 0.3333, 0.0000])

    Wortsman et al. 2023 ("Replacing softmax with ReLU in vision transformers"), who divide by the key length, here
    without the hidden keys, so that padding changes nothing; squared: Hua et al. 2022 (gated attention unit), after the
    activation of So et al. 2021 (Primer). PyTorch and Keras have no such attention.
    """

    power: int = 1
    name: ClassVar[str] = "relu"

    def __post_init__(self) -> None:
        if isinstance(self.power, bool) or self.power not in (1, 2):
            raise ValueError(f"the power of relu must be 1 or 2, it is {self.power!r}")

    def weigh(self, scores: Tensor) -> Tensor:
        seen = (scores.detach() != -torch.inf).sum(-1, keepdim=True).clamp(min=1)
        above = torch.relu(scores)
        return (above if self.power == 1 else above.square()) / seen
