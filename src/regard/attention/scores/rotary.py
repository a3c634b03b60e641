"""Scores that know how far query and key stand from each other, because both are turned by their places."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from regard.attention.numbers import check_number, check_whole
from regard.attention.rotary import Scaling, frequencies, precision, rotate
from regard.attention.scores.modifier import Modifier

__all__ = ["Rotary", "Rotary2D"]


@dataclass(frozen=True, eq=False)
class Rotary(Modifier):
    r"""A score of queries and keys that are turned by their places.

    $$s(R_i q, R_j k), \qquad (R_i q)^\top (R_j k) = q^\top R_{j - i} k$$

    so that scores that are products (and distances) depend on how far apart places are. Keys stand at 0, 1, ...;
    queries are aligned at the end, as in a causal mask: the last query stands at the last key, so that keys can be
    cached as they are, before they are turned. `start` is the place of the first query where that is another.

    `size` is how many numbers of each vector are turned, the first ones: all, unless it is given. `base`, `scaling` and
    `interleaved` are those of `regard.attention.rotary`. Raises `ValueError` for numbers that are too
    small; `regard.attend` raises it when the size is odd or larger than that of query or key.

    *Shape:* that of the inner `score`, whose query and key have one size.

    Example:
        >>> from regard.attention.scores.product import ScaledDot
        >>> query, key = torch.ones(1, 4), torch.ones(3, 4)
        >>> score = Rotary(ScaledDot())
        >>> score.compare(*score.prepare(query, key))
        tensor([[0.5837, 1.5403, 2.0000]])

    Su et al. 2021, equation 16. Transformers turns keys before they are cached.
    """

    base: float = 10000.0
    scaling: Scaling | None = field(default=None, kw_only=True)
    interleaved: bool = field(default=False, kw_only=True)
    size: int | None = field(default=None, kw_only=True)
    start: int | None = field(default=None, kw_only=True)
    name: ClassVar[str] = "rotary"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("base of rotary positions", self.base, 1.0)
        if self.size is not None:
            check_whole("size of rotary positions", self.size, 2)
        if self.start is not None:
            check_whole("start of rotary positions", self.start)

    def check(self, query: Tensor, key: Tensor) -> None:
        smaller = min(query.shape[-1], key.shape[-1])
        if self.size is None and query.shape[-1] != key.shape[-1]:
            raise ValueError(
                f"query and key must have the same size for rotary positions: "
                f"query has {query.shape[-1]}, key has {key.shape[-1]}"
            )
        size = smaller if self.size is None else self.size
        if size > smaller or size % 2:
            raise ValueError(
                f"size of rotary positions must be even and at most that of query and key, {smaller}, it is {size}"
            )
        self.score.check(query, key)

    def prepare(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        size = key.shape[-1] if self.size is None else self.size
        turns = frequencies(size, self.base, self.scaling, device=key.device, dtype=precision(key))
        first = key.shape[-2] - query.shape[-2] if self.start is None else self.start
        amplitude = 1.0 if self.scaling is None else self.scaling.amplitude
        query, key = (
            rotate(
                x,
                torch.arange(place, place + x.shape[-2], device=x.device),
                turns,
                self.interleaved,
                amplitude,
            )
            for x, place in ((query, first), (key, 0))
        )
        return self.score.prepare(query, key)


@dataclass(frozen=True, eq=False)
class Rotary2D(Modifier):
    r"""A score of queries and keys that are pixels of an image of `rows` x `columns`, row after row: the first half of
    each vector is turned by its row, the second by its column.

    *Shape:* that of the inner `score`; `regard.attend` raises `ValueError` unless query and key have `rows * columns`
    places and a size that is a multiple of 4.

    Example:
        >>> from regard.attention.scores.product import ScaledDot
        >>> pixels = torch.ones(4, 4)
        >>> score = Rotary2D(ScaledDot(), 2, 2)
        >>> score.compare(*score.prepare(pixels, pixels))[0]
        tensor([2.0000, 1.5403, 1.5403, 1.0806])

    Heo et al. 2024, section 3.1, "axial", with the frequencies of language by default; vision models take a `base` of
    100. EVA-02 and Transformers' Pixtral mix the frequencies of both axes in another order.
    """

    rows: int
    columns: int
    base: float = 10000.0
    interleaved: bool = field(default=False, kw_only=True)
    name: ClassVar[str] = "rotary_2d"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("rows of rotary positions", self.rows, 1)
        check_whole("columns of rotary positions", self.columns, 1)
        check_number("base of rotary positions", self.base, 1.0)

    def check(self, query: Tensor, key: Tensor) -> None:
        pixels = self.rows * self.columns
        for what, tensor in (("query", query), ("key", key)):
            if tensor.shape[-2] != pixels:
                raise ValueError(
                    f"{what} must have a place for each of the {self.rows} x {self.columns} = {pixels} pixels "
                    f"of rotary positions, it has {tensor.shape[-2]}"
                )
            if tensor.shape[-1] % 4:
                raise ValueError(
                    f"{what} must have a size that is a multiple of 4 for rotary positions by row and column, "
                    f"it has {tensor.shape[-1]}"
                )
        self.score.check(query, key)

    def prepare(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        return self.score.prepare(self._turned(query), self._turned(key))

    def _turned(self, x: Tensor) -> Tensor:
        turns = frequencies(x.shape[-1] // 2, self.base, device=x.device, dtype=precision(x))
        place = torch.arange(x.shape[-2], device=x.device)
        halves = zip(x.chunk(2, dim=-1), (place // self.columns, place % self.columns), strict=True)
        return torch.cat([rotate(half, at, turns, self.interleaved) for half, at in halves], dim=-1)
