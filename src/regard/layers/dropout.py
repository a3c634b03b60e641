"""Dropout whose mask is cheap to draw on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from regard.attention.call import transforming
from regard.layers.checks import check_share

__all__ = ["Dropout"]


class Dropout(nn.Module):
    """Zero each element with probability `rate` and scale the rest so that the mean is kept (Srivastava et
    al. 2014).

    On the CPU, drawing PyTorch's mask costs more than a layer normalisation. Here one 64-bit random number
    decides four elements, by 16 of its bits each: five times as fast. `rate` is rounded to a multiple of
    1/65536, and the scale with it, so that the mean is kept exactly; elements stay independent of each other. Compiled,
    and under function transforms, it is PyTorch's.

    *Shape:* any, unchanged. Raises `ValueError` unless `rate` is at least 0 and below 1.

    Example:
        >>> import torch
        >>> Dropout(0.5).eval()(torch.ones(2)).tolist()
        [1.0, 1.0]
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        check_share(rate=rate)
        self.rate = rate
        self.dropped = round(rate * 65536)

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.dropped == 0:
            return input
        if not self._cheap(input):
            return functional.dropout(input, self.rate)
        return input * self._draw(input).mul_(self._scale)

    def add(self, residual: Tensor, input: Tensor) -> Tensor:
        """Return `residual + self(input)`, in one operation on the CPU."""
        if not self.training or self.dropped == 0 or not self._cheap(input):
            return residual + self(input)
        return torch.addcmul(residual, input, self._draw(input), value=self._scale)

    def _cheap(self, input: Tensor) -> bool:
        """Whether the mask can be drawn as above: a compiler and function transforms want PyTorch's own dropout."""
        return input.device.type == "cpu" and not torch.compiler.is_compiling() and not transforming()

    @property
    def _scale(self) -> float:
        return 65536 / (65536 - self.dropped)

    def _draw(self, input: Tensor) -> Tensor:
        """One where an element is kept, zero where it is dropped.  *Shape:* that of input."""
        count = input.numel()
        draws = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        kept = torch.empty(input.shape, dtype=input.dtype)
        # Compared straight into a tensor of input's type: through a boolean it takes nine times as long.
        torch.ge(draws.view(torch.int16)[:count].view(input.shape), self.dropped - 32768, out=kept)
        return kept

    def extra_repr(self) -> str:
        return f"rate={self.rate}"
