"""Windows with gaps."""

from __future__ import annotations

from dataclasses import dataclass
from types import EllipsisType

from torch import Tensor

from regard.attention.grid import Grid
from regard.attention.masks.mask import Mask
from regard.attention.masks.window import Window
from regard.attention.numbers import check_whole

__all__ = ["Dilated", "dilated"]


@dataclass(frozen=True, eq=False)
class Dilated(Mask):
    """A query sees every `step`-th key, up to `left` of them before and `right` after its own place; None is no limit.

    Places are aligned at the end, as those of a window are. Raises `ValueError` for limits that are not whole numbers
    of at least 0, or a step that is not at least 1.
    """

    left: int | None
    right: int | None
    step: int

    def __post_init__(self) -> None:
        for name, value in (("left", self.left), ("right", self.right)):
            if value is not None:
                check_whole(f"{name} of a dilated window", value)
        check_whole("step of a dilated window", self.step, 1)

    @property
    def window(self) -> Window:
        """The window without gaps."""
        reach = [None if side is None else side * self.step for side in (self.left, self.right)]
        return Window(*reach)

    @property
    def formula(self) -> bool:
        return True

    def at(self, query: Tensor, key: Tensor, grid: Grid) -> Tensor:
        ahead = key - (query + (grid.key_len - grid.query_len))
        return self.window.at(query, key, grid) & (ahead % self.step == 0)

    def span(self, start: int, stop: int, grid: Grid) -> tuple[int, int]:
        return self.window.span(start, stop, grid)

    def hides(self, grid: Grid) -> bool:
        return self.step > 1 or self.window.hides(grid)


def dilated(width: int | None, step: int, right: int | EllipsisType | None = ...) -> Mask:
    """A mask under which a query sees `width` keys before and `right` after its place (both sides alike when `right`
    is not given), at distances that are multiples of `step`, aligned at the end; None is no limit.

    *Shape:* `(query_len, key_len)`, whatever they are. Raises `ValueError` for a limit that is not a whole number of at
    least 0, or a step that is not one of at least 1.

    Example:
        >>> print(dilated(1, 2))
        ■·■···
        ·■·■··
        ■·■·■·
        ·■·■·■
        ··■·■·
        ···■·■

    Beltagy et al. 2020 (Longformer), section 3.1, who count both sides together; with no limit before and none seen
    after, `dilated(None, step, 0)`, the strided pattern of Child et al. 2019 (Sparse Transformer), section 4.3.
    """
    return Dilated(width, width if isinstance(right, EllipsisType) else right, step)
