"""What tells a Transformer where a word stands."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from regard.errors import UserError


class SinusoidalPositions(nn.Module):
    """Sines and cosines of wavelengths from 2 pi to 10000 * 2 pi (Vaswani et al. 2017, section 3.5); no limit
    of length.

    `P[t, 2i] = sin(t / 10000^(2i/size)); P[t, 2i+1] = cos(t / 10000^(2i/size))`
    """

    table: Tensor

    def __init__(self, size: int, longest: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("table", self._build(longest), persistent=False)

    def _build(self, length: int) -> Tensor:
        rates = torch.exp(torch.arange(0, self.size, 2).double() * (-math.log(10000.0) / self.size))
        angles = torch.arange(length).double()[:, None] * rates
        return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, : self.size].float()

    def forward(self, start: int, length: int) -> Tensor:
        """*Shape*: `(length, size)`: the vectors of the places from `start` on."""
        if start + length > self.table.shape[0]:
            self.table = self._build(2 * (start + length)).to(self.table)
        return self.table[start : start + length]


class LearnedPositions(nn.Module):
    """One learned vector per place, up to `longest` places (Gehring et al. 2017, section 3.1)."""

    def __init__(self, size: int, longest: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(longest, size).normal_(std=0.02))

    def forward(self, start: int, length: int) -> Tensor:
        """*Shape*: `(length, size)`: the vectors of the places from `start` on."""
        if start + length > self.table.shape[0]:
            raise UserError(
                f"a sentence of {start + length} tokens is longer than the {self.table.shape[0]} places "
                "this model learned (setting: longest); sinusoidal positions have no such limit"
            )
        return self.table[start : start + length]


POSITIONS: dict[str, type[SinusoidalPositions] | type[LearnedPositions]] = {
    "sinusoidal": SinusoidalPositions,
    "learned": LearnedPositions,
}
