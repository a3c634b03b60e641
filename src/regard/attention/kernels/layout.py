"""Tensors as the CPU's kernels read them: queries by row, keys in panels, channel by channel; and their addresses."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from regard.attention.kernels import tile

__all__ = ["SCORES", "Layout", "addresses", "rows_of", "strides_of"]

LARGEST = {4: 43.0, 8: 350.0}
"""Queries and keys of an additive score up to here have a finite e^2x that is not zero."""
SMALL = 0.25
"""Up to here their sum is in the range of the polynomial that is exact near zero, too."""

SCORES = {"product": tile.PRODUCT, "distance": tile.DISTANCE, "additive": tile.ADDITIVE}


@dataclass(frozen=True)
class Layout:
    """Queries and keys as the kernel of their score reads them.

    *Shape:* query `(batch, heads, query_len, channels)`; key `(batch, key_heads, key_len, channels)` by row, otherwise
    `(batch, key_heads, panels, channels, panel)`; weight `(heads or 1, ...)`, empty where the score has none.
    """

    query: Tensor
    key: Tensor
    weight: Tensor
    score: int
    by_row: bool
    panel: int
    panels: int

    @classmethod
    def of(cls, query: Tensor, key: Tensor, weight: Tensor | None, score: str, by_row: bool) -> Layout:
        item = query.element_size()
        panel = tile.panel_keys(item)
        panels = -(-key.shape[-2] // panel)
        code, own = SCORES[score], query.new_empty(0) if weight is None else weight.contiguous()
        if by_row:
            return cls(query.contiguous(), rows_of(key), own, code, True, panel, panels)
        if weight is not None:
            largest = _largest(query, key)
            if largest <= SMALL and item == 4:
                code = tile.SMALL
            elif largest <= LARGEST[item]:
                code = tile.EXPONENTIAL
                # In double precision: of the error of tanh most is that of these, and of them there are few.
                query, key = ((2 * t.double()).exp_().to(t.dtype) for t in (query, key))
        key = pad(key, (0, 0, 0, panels * panel - key.shape[-2]))
        key = key.unflatten(-2, (panels, panel)).transpose(-1, -2)
        return cls(query.contiguous(), key.contiguous(), own.contiguous(), code, False, panel, panels)

    @property
    def stride(self) -> int:
        """How far apart the rows of a tile of scores are that holds all keys."""
        # A vector more than the keys: rows at a distance of a power of two would fight for the same places of a cache.
        return self.panels * self.panel + self.panel

    @property
    def key_strides(self) -> list[int]:
        """From one batch element, head and key to the next. (Keys of a panel are not apart by rows.)"""
        return list(self.key.stride()[:3])

    @property
    def weight_stride(self) -> int:
        return self.weight[0].numel() if len(self.weight) > 1 else 0


def rows_of(tensor: Tensor) -> Tensor:
    """The same, with the numbers of a row side by side: a part of a cache is read where it lies."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _largest(*tensors: Tensor) -> float:
    """The largest magnitude; not a number where one is none."""
    found = [float(torch.linalg.vector_norm(t, torch.inf)) if t.numel() else 0.0 for t in tensors]
    return max(found) if all(one == one for one in found) else math.nan


def addresses(*tensors: Tensor | None) -> list[int]:
    return [0 if tensor is None or not tensor.numel() else tensor.data_ptr() for tensor in tensors]


def strides_of(tensor: Tensor | None, axes: int) -> list[int]:
    """The strides along the first axes, zero where there is but one place."""
    if tensor is None:
        return [0] * axes
    return [
        stride if size > 1 else 0 for stride, size in zip(tensor.stride()[:axes], tensor.shape, strict=False)
    ]
