"""Masks of sequences whose beginning is known to all of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from regard.attention.grid import Grid
from regard.attention.masks.mask import Mask, ranges_between
from regard.attention.masks.padding import padding
from regard.attention.masks.window import Causal
from regard.attention.numbers import check_whole

__all__ = ["Prefix", "prefix"]


@dataclass(frozen=True, eq=False)
class Prefix(Mask):
    """A query sees the first `length` keys, and those up to its own place, aligned at the end."""

    length: int

    def __post_init__(self) -> None:
        check_whole("length of a prefix", self.length)

    @property
    def formula(self) -> bool:
        return True

    def at(self, query: Tensor, key: Tensor, grid: Grid) -> Tensor:
        return (key < self.length) | Causal().at(query, key, grid)

    def span(self, start: int, stop: int, grid: Grid) -> tuple[int, int]:
        return 0, max(min(self.length, grid.key_len), Causal().span(start, stop, grid)[1])

    def ranges(self, grid: Grid) -> Tensor | None:
        causal = Causal().ranges(grid)
        assert causal is not None
        return ranges_between(causal[..., 0], causal[..., 1].clamp(min=self.length), grid)

    def hides(self, grid: Grid) -> bool:
        return self.length < grid.key_len and Causal().hides(grid)


def prefix(length: int | Tensor) -> Mask:
    """A mask under which every query sees the first `length` keys, and further ones up to its own place, aligned at
    the end.

    *Shape:* `(query_len, key_len)`, whatever they are; with a tensor of lengths, `(batch,)` or more leading axes of
    key, the mask is `(batch, 1, query_len, key_len)` where key has heads. Raises `ValueError` for a length that is not
    a whole number of at least 0, `TypeError` for a tensor that is not of whole numbers.

    Example:
        >>> print(prefix(3))
        ■■■···
        ■■■···
        ■■■···
        ■■■■··
        ■■■■■·
        ■■■■■■

    Raffel et al. 2020 (T5), section 3.2.1, "prefix LM"; Dong et al. 2019 (UniLM), section 2.3. A tensor gives what
    Transformers makes of `token_type_ids` in PaliGemma.
    """
    return padding(length) | Causal() if isinstance(length, Tensor) else Prefix(length)
