"""Masks of images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from regard.attention.grid import Grid
from regard.attention.masks.mask import Mask
from regard.attention.numbers import check_whole

__all__ = ["Neighbourhood", "neighbourhood"]


@dataclass(frozen=True, eq=False)
class Neighbourhood(Mask):
    """A pixel of an image, row after row, sees those within `radius` rows and columns of it.

    *Shape:* radius `(rows, columns)`.
    """

    height: int
    width: int
    radius: tuple[int, int]

    def check(self, query: Tensor, key: Tensor) -> None:
        pixels = self.height * self.width
        for what, length in (("query", query.shape[-2]), ("key", key.shape[-2])):
            if length != pixels:
                raise ValueError(
                    f"{what} must have a place for each of the {self.height} x {self.width} = {pixels} pixels "
                    f"of a neighbourhood mask, it has {length}"
                )

    def at(self, query: Tensor, key: Tensor, grid: Grid) -> Tensor:
        rows = (query // self.width - key // self.width).abs() <= self.radius[0]
        return rows & ((query % self.width - key % self.width).abs() <= self.radius[1])

    def span(self, start: int, stop: int, grid: Grid) -> tuple[int, int]:
        last = stop - 1
        before, after = start % self.width, self.width - 1 - last % self.width
        low = start - self.radius[0] * self.width - min(before, self.radius[1])
        high = last + self.radius[0] * self.width + min(after, self.radius[1]) + 1
        low = min(max(low, 0), grid.key_len)
        return low, min(max(high, low), grid.key_len)

    def hides(self, grid: Grid) -> bool:
        return self.radius[0] < self.height - 1 or self.radius[1] < self.width - 1

    def natural(self) -> tuple[int, int] | None:
        return self.height * self.width, self.height * self.width


def neighbourhood(height: int, width: int, radius: int | tuple[int, int]) -> Mask:
    """A mask of images of `height` x `width` pixels, row after row, under which a pixel sees those within `radius` rows
    and columns of it; a pair is one radius for rows and one for columns.

    *Shape:* `(height * width, height * width)`. Raises `ValueError` for numbers that are not whole, or too small;
    `regard.attend` raises it when query or key has another length.

    Example:
        >>> print(neighbourhood(2, 3, radius=1))
        ■■·■■·
        ■■■■■■
        ·■■·■■
        ■■·■■·
        ■■■■■■
        ·■■·■■

    Ramachandran et al. 2019 (stand-alone self-attention), section 3. Hassani et al. 2023 (NATTEN) move the
    neighbourhood of a pixel near the border inwards, so that all have as many neighbours.
    """
    check_whole("height of a neighbourhood mask", height, 1)
    check_whole("width of a neighbourhood mask", width, 1)
    both = radius if isinstance(radius, tuple) else (radius, radius)
    if len(both) != 2:
        raise ValueError(f"radius of a neighbourhood mask must be one number or two, it is {radius!r}")
    for number in both:
        check_whole("radius of a neighbourhood mask", number)
    return Neighbourhood(height, width, both)
