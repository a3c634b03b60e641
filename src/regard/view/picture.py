"""A picture as a list of shapes, laid out once and painted as SVG or PNG alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

EMPTY = -1
"""The level of a cell whose weight is exactly zero."""
MISSING = -2
"""The level of a cell whose weight is not a number."""


@dataclass(frozen=True)
class Box:
    """A filled rectangle; `fill` is a role of the theme or the number of a shade."""

    x: float
    y: float
    width: float
    height: float
    fill: str | int


@dataclass(frozen=True)
class Text:
    """One line of text; `y` is its baseline and `angle` turns it counter-clockwise about (x, y)."""

    x: float
    y: float
    text: str
    size: float
    role: str = "ink"
    anchor: Literal["start", "middle", "end"] = "start"
    angle: int = 0


@dataclass(frozen=True)
class Cells:
    """A grid of equal cells; *Shape* of `levels`: `(rows, columns)`, a shade, EMPTY or MISSING each."""

    x: int
    y: int
    width: int
    height: int
    gap: int
    levels: NDArray[np.int16]


@dataclass(frozen=True)
class Picture:
    """Shapes on a page of `width` by `height` pixels, with the title and description read out aloud."""

    width: int
    height: int
    title: str
    description: str
    boxes: tuple[Box, ...]
    cells: Cells
    texts: tuple[Text, ...]
