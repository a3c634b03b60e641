"""A heatmap in the terminal: shaded cells under their labels, in panels when the window is narrow."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from regard.view.colours import DARK, LEVELS, LIGHT
from regard.view.labels import clip, columns, visible
from regard.view.layout import levels

NARROWEST = 24
"""Fewer columns than this are taken for this many."""
FAINT = 0.05  # of the largest weight: drawn as a dot where there are no colours
_BLOCKS = "░▒▓█"
_WIDEST_LABEL = 12
_WIDEST_COLUMN = 10


def colour_allowed() -> bool:
    """Whether standard output is a terminal that wants colour (NO_COLOR and FORCE_COLOR are heeded)."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def terminal(
    weights: NDArray[np.float64],
    source: Sequence[str],
    target: Sequence[str],
    top: float,
    heading: Sequence[str],
    width: int | None,
    colour: bool | None,
) -> str:
    """The heatmap as lines of at most `width` columns, for a font whose wide characters take two."""
    width = shutil.get_terminal_size((100, 24)).columns if width is None else width
    width = max(width, NARROWEST)
    colour = colour_allowed() if colour is None else colour
    row_labels = [clip(visible(token), min(_WIDEST_LABEL, width // 3)) for token in target]
    left = max(columns(label) for label in row_labels) + 1
    widest = max(columns(visible(token)) for token in source)
    column = min(max(widest, 2), _WIDEST_COLUMN, width - left - 1)
    labels = [clip(visible(token), column) for token in source]
    across = max(1, (width - left) // (column + 1))
    shades = levels(weights, top)

    panels = []
    for start in range(0, len(source), across):
        stop = min(start + across, len(source))
        lines = [" " * left + " ".join(_centred(label, column) for label in labels[start:stop])]
        for row, label in enumerate(row_labels):
            cells = (
                _cell(float(weights[row, place]), int(shades[row, place]), column, colour)
                for place in range(start, stop)
            )
            lines.append(" " * (left - 1 - columns(label)) + label + " " + " ".join(cells))
        panels.append("\n".join(line.rstrip() for line in lines))
    head = [clip(visible(line.strip()), width) for line in heading if line]
    scale = f"{' ' * min(left, 6)}0 {_ramp(colour)} {top:.3g}"
    return "\n\n".join([*(["\n".join(head)] if head else []), *panels, scale]) + "\n"


def _centred(text: str, width: int) -> str:
    spare = width - columns(text)
    return " " * (spare // 2) + text + " " * (spare - spare // 2)


def _cell(weight: float, level: int, width: int, colour: bool) -> str:
    if np.isnan(weight):
        return _centred("?", width)
    # Without colours there are too few shades to tell next to nothing from a fifth.
    if level < 0 or (not colour and level < LEVELS * FAINT):
        return _centred("·", width)
    if not colour:
        return _BLOCKS[level * len(_BLOCKS) // LEVELS] * width
    number = f"{weight:.2f}".lstrip("0") if weight < 0.995 else f"{weight:.1f}"
    return _painted(_centred(number if len(number) <= width else "", width), level)


def _painted(text: str, level: int) -> str:
    """The text on a ground of the scale's colour, in whichever ink reads on it."""
    ground = LIGHT.shades[level]
    ink = LIGHT.colour("ink") if level < LEVELS * 0.45 else DARK.colour("ink")
    return f"\x1b[48;2;{_parts(ground)}m\x1b[38;2;{_parts(ink)}m{text}\x1b[0m"


def _ramp(colour: bool) -> str:
    if not colour:
        return "·" + "".join(block * 2 for block in _BLOCKS)
    return "·" + "".join(_painted(" ", level) for level in range(3, LEVELS, 8))


def _parts(colour: str) -> str:
    return ";".join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))
