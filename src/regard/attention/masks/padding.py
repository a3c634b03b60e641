"""Masks of sequences of different lengths."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from regard.attention.grid import Grid
from regard.attention.masks.mask import Mask, ranges_between
from regard.attention.numbers import check_whole_tensor

__all__ = ["Padding", "padding"]


@dataclass(frozen=True, eq=False)
class Padding(Mask):
    """Each sequence of the batch sees its first `lengths` keys. *Shape:* lengths `(batch,)`, the leading axes."""

    lengths: Tensor

    def check(self, query: Tensor, key: Tensor) -> None:
        leading = tuple(key.shape[: self.lengths.ndim])
        if self.lengths.ndim > key.ndim - 2 or tuple(self.lengths.shape) != leading:
            raise ValueError(
                f"lengths of a padding mask must have the leading axes of key {tuple(key.shape)}, "
                f"they have shape {tuple(self.lengths.shape)}"
            )

    def at(self, query: Tensor, key: Tensor, grid: Grid) -> Tensor:
        trailing = max(grid.ndim - self.lengths.ndim, 2)
        lengths = self.lengths.to(grid.device)
        return key < lengths.reshape(*lengths.shape, *(1,) * trailing)

    def ranges(self, grid: Grid) -> Tensor | None:
        trailing = max(grid.ndim - self.lengths.ndim, 2) - 1
        lengths = self.lengths.to(grid.device, torch.int64)
        lengths = lengths.reshape(*lengths.shape, *(1,) * trailing)
        return ranges_between(torch.zeros_like(lengths), lengths, grid)

    def shape(self, grid: Grid) -> tuple[int, ...]:
        trailing = max(grid.ndim - self.lengths.ndim, 2)
        return (*self.lengths.shape, *(1,) * (trailing - 1), grid.key_len)

    def natural(self) -> tuple[int, int] | None:
        longest = int(self.lengths.max()) if self.lengths.numel() else 0
        return longest, longest


def padding(lengths: Tensor) -> Mask:
    """A mask that hides the keys past each sequence's length.

    *Shape:* lengths `(batch,)`, or more leading axes of key; the mask is `(batch, 1, 1, key_len)` where key has heads.
    Raises `TypeError` unless they are a tensor of whole numbers; `regard.attend` raises `ValueError` when they do not
    fit key. A length beyond the keys shows them all.

    Example:
        >>> import torch
        >>> print(padding(torch.tensor([2, 3])))
        ■■·
        ■■·
        ■■·
        <BLANKLINE>
        ■■■
        ■■■
        ■■■
        >>> padding(torch.tensor([1, 3])).picture(1, 3).int().tolist()
        [[[1, 0, 0]], [[1, 1, 1]]]

    `nn.MultiheadAttention` wants the opposite written out: `key_padding_mask`, True at the padding.
    """
    check_whole_tensor("lengths", lengths)
    return Padding(lengths)
