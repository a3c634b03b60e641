"""Masks by how far a key stands from the query's own place."""

from __future__ import annotations

from dataclasses import dataclass
from types import EllipsisType

import torch
from torch import Tensor

from regard.attention.grid import Grid
from regard.attention.masks.mask import Mask, ranges_between
from regard.attention.numbers import check_whole

__all__ = ["Causal", "Window", "causal", "window"]


@dataclass(frozen=True, eq=False)
class Window(Mask):
    """A query sees from `left` keys before to `right` keys after its own place; None is no limit.

    Places are aligned at the end (bottom right): the last query stands at the last key, so that the mask is
    right with a key-value cache. FlashAttention >= 2.1 aligns so too; PyTorch's `is_causal` aligns top left.
    Raises `ValueError` for a limit that is not a whole number of at least 0.
    """

    left: int | None
    right: int | None

    def __post_init__(self) -> None:
        for name, value in (("left", self.left), ("right", self.right)):
            if value is not None:
                check_whole(f"{name} of a window", value)

    @property
    def formula(self) -> bool:
        return True

    def at(self, query: Tensor, key: Tensor, grid: Grid) -> Tensor:
        ahead = key - (query + (grid.key_len - grid.query_len))
        if self.left is None:
            return ahead >= -grid.key_len if self.right is None else ahead <= self.right
        return ahead >= -self.left if self.right is None else (ahead >= -self.left) & (ahead <= self.right)

    def span(self, start: int, stop: int, grid: Grid) -> tuple[int, int]:
        shift = grid.key_len - grid.query_len
        low = 0 if self.left is None else start + shift - self.left
        high = grid.key_len if self.right is None else stop + shift + self.right
        low = min(max(low, 0), grid.key_len)
        return low, min(max(high, low), grid.key_len)

    def ranges(self, grid: Grid) -> Tensor | None:
        place = torch.arange(grid.query_len, device=grid.device) + (grid.key_len - grid.query_len)
        # No limit reaches further than this, and a larger number would not fit.
        most = grid.query_len + grid.key_len
        low = torch.zeros_like(place) if self.left is None else place - min(self.left, most)
        high = (
            torch.full_like(place, grid.key_len) if self.right is None else place + min(self.right, most) + 1
        )
        return ranges_between(low, high, grid)

    def hides(self, grid: Grid) -> bool:
        shift = grid.key_len - grid.query_len
        before = self.left is not None and grid.key_len - 1 > self.left
        after = self.right is not None and grid.key_len - 1 > shift + self.right
        return before or after


@dataclass(frozen=True, eq=False)
class Causal(Window):
    """A query sees the keys up to its own place, the last query all of them."""

    left: int | None = None
    right: int | None = 0


def causal() -> Mask:
    """A mask under which a query sees the keys up to its own place, aligned at the end.

    *Shape:* `(query_len, key_len)`, whatever they are.

    Example:
        >>> print(causal())
        ■·····
        ■■····
        ■■■···
        ■■■■··
        ■■■■■·
        ■■■■■■
        >>> causal().picture(2, 3).int().tolist()
        [[1, 1, 0], [1, 1, 1]]

    Vaswani et al. 2017, section 3.2.3. PyTorch's `is_causal=True` aligns at the start: it shows the first query of the
    example one key.
    """
    return Causal()


def window(left: int | None, right: int | EllipsisType | None = ...) -> Mask:
    """A mask under which a query sees `left` keys before and `right` after its place (both sides alike when
    `right` is not given), aligned at the end; None is no limit.

    *Shape:* `(query_len, key_len)`, whatever they are. Raises `ValueError` for a limit that is not a whole number of at
    least 0.

    Example:
        >>> print(window(1))
        ■■····
        ■■■···
        ·■■■··
        ··■■■·
        ···■■■
        ····■■
        >>> window(1, 0).picture(3, 3).int().tolist()
        [[1, 0, 0], [1, 1, 0], [0, 1, 1]]

    Beltagy et al. 2020 (Longformer), section 3.1. FlashAttention spells no limit -1 in `window_size=(left, right)`.
    """
    return Window(left, left if isinstance(right, EllipsisType) else right)
