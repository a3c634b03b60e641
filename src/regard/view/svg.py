"""Paint a picture as SVG: text stays text, its font travels inside, and nothing is fetched or run."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from regard.view import fonts
from regard.view.colours import DARK, LIGHT, Theme
from regard.view.labels import readable
from regard.view.picture import EMPTY, MISSING, Box, Cells, Picture, Text

MOST_PATHS = 40_000
"""A grid with more cells than this is painted as an image of one pixel per cell."""
FAMILIES = "'Regard Sans', 'Regard Sans CJK', 'Regard Sans More', 'DejaVu Sans', sans-serif"


@dataclass(frozen=True)
class Fixed:
    """Colours written into the elements: those of one theme."""

    theme: Theme

    def fill(self, role: str | int) -> str:
        return f'fill="{self.theme.colour(role)}"'

    def images(self) -> Sequence[tuple[str, Theme]]:
        return [("", self.theme)]


@dataclass(frozen=True)
class Themed:
    """Colours left to the style sheet of the page, which follows the reader's preference."""

    def fill(self, role: str | int) -> str:
        return f'class="k{role}"' if isinstance(role, int) else f'class="{role}"'

    def images(self) -> Sequence[tuple[str, Theme]]:
        return [('class="light-only" ', LIGHT), ('class="dark-only" ', DARK)]


THEMED = Themed()


def svg(picture: Picture, theme: Theme) -> str:
    """A whole SVG file in one theme's colours."""
    used = "".join(text.text for text in picture.texts)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{picture.width}" height="{picture.height}" '
        f'viewBox="0 0 {picture.width} {picture.height}" role="img" aria-labelledby="title description" '
        f'font-family="{FAMILIES}">\n'
        f'<title id="title">{escape(readable(picture.title))}</title>\n'
        f'<desc id="description">{escape(picture.description)}</desc>\n'
        f"<style>{fonts.embedded(used)}</style>\n"
        f'<rect width="{picture.width}" height="{picture.height}" fill="{theme.colour("paper")}"/>\n'
        + shapes(picture, Fixed(theme))
        + "</svg>\n"
    )


def shapes(picture: Picture, ink: Fixed | Themed) -> str:
    """The elements of a picture."""
    return (
        "".join(_box(box, ink) for box in picture.boxes)
        + _cells(picture.cells, ink)
        + "".join(_text(text, ink) for text in picture.texts)
    )


def _box(box: Box, ink: Fixed | Themed) -> str:
    return (
        f'<rect x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}" '
        f"{ink.fill(box.fill)}/>\n"
    )


def _text(text: Text, ink: Fixed | Themed) -> str:
    turn = f' transform="rotate({-text.angle} {text.x:.1f} {text.y:.1f})"' if text.angle else ""
    anchor = f' text-anchor="{text.anchor}"' if text.anchor != "start" else ""
    return (
        f'<text x="{text.x:.1f}" y="{text.y:.1f}" font-size="{text.size:g}" {ink.fill(text.role)}'
        f"{anchor}{turn}>{escape(text.text)}</text>\n"
    )


def _cells(cells: Cells, ink: Fixed | Themed) -> str:
    if cells.levels.size > MOST_PATHS:
        return "".join(_image(cells, attribute, theme) for attribute, theme in ink.images())
    paths = []
    for level in np.unique(cells.levels).tolist():
        if level != EMPTY:
            role = "missing" if level == MISSING else level
            paths.append(f'<path {ink.fill(role)} d="{_outline(cells, level)}"/>\n')
    return '<g shape-rendering="crispEdges">\n' + "".join(paths) + "</g>\n"


def _outline(cells: Cells, level: int) -> str:
    """One path around all cells of a level."""
    wide, high = cells.width - cells.gap, cells.height - cells.gap
    return "".join(
        f"M{cells.x + column * cells.width} {cells.y + row * cells.height}h{wide}v{high}h-{wide}z"
        for row, column in np.argwhere(cells.levels == level).tolist()
    )


def _image(cells: Cells, attribute: str, theme: Theme) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(painted(cells.levels, theme)).save(buffer, format="PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    rows, across = cells.levels.shape
    return (
        f'<image {attribute}x="{cells.x}" y="{cells.y}" width="{across * cells.width}" '
        f'height="{rows * cells.height}" preserveAspectRatio="none" image-rendering="pixelated" '
        f'href="data:image/png;base64,{data}"/>\n'
    )


def painted(levels: NDArray[np.int16], theme: Theme) -> NDArray[np.uint8]:
    """The colour of every cell. *Shape*: `(rows, columns)` in, `(rows, columns, 3)` out."""
    # EMPTY (-1) and MISSING (-2) index the table from its end.
    table = [*theme.shades, theme.colour("missing"), theme.colour("ground")]
    colours = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in table], dtype=np.uint8)
    return colours[levels]
