"""Linear projections by the fastest library that PyTorch has for this processor."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional

from regard.attention.call import transforming

__all__ = ["Linear", "linear"]

ROWS = 16
"""From so many rows on oneDNN's products are faster; below, setting them up takes longer than they do."""


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None, *, relu: bool = False) -> Tensor:
    """`torch.nn.functional.linear`, and with `relu` what is above 0 of it; faster where nobody differentiates.

    PyTorch multiplies float32 by MKL, which on processors that are not Intel's leaves half of their AVX-512 unused.
    oneDNN, which PyTorch has for other ends, does not: with it a product takes less than half the time, the result
    is as exact, and ReLU costs nothing.

    *Shape:* input `(..., size)`, weight `(new_size, size)`, bias `(new_size,)` -> `(..., new_size)`.

    Example:
        >>> linear(torch.ones(2, 3), torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.0, 0.0]]), relu=True)
        tensor([[6., 0.],
                [6., 0.]])
    """
    if (
        not torch.is_grad_enabled()
        and type(input) is Tensor
        and type(weight) in (Tensor, nn.Parameter)
        and input.dtype == weight.dtype == torch.float32
        and input.device.type == "cpu"
        and input.numel() >= ROWS * input.shape[-1] > 0
        and input.is_contiguous()
        and _faster()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not transforming()
        and forward_ad._current_level < 0
    ):
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            input, weight, bias, "relu" if relu else "none", [], ""
        )
        return product
    output = functional.linear(input, weight, bias)
    return output.relu() if relu else output


class Linear(nn.Linear):
    """`torch.nn.Linear` by `linear`."""

    def forward(self, input: Tensor, *, relu: bool = False) -> Tensor:
        return linear(input, self.weight, self.bias, relu=relu)


@cache
def _faster() -> bool:
    """Whether oneDNN is there, and faster than MKL: on processors with AVX-512 that are not Intel's."""
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return (
        "AuthenticAMD" in info
        and torch.backends.mkldnn.is_available()
        and "AVX512" in torch.backends.cpu.get_cpu_capability()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
