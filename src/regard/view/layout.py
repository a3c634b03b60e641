"""Where everything of a heatmap goes: cells, labels, title and scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from regard.view.colours import LEVELS
from regard.view.fonts import clip, width
from regard.view.labels import readable, visible
from regard.view.picture import EMPTY, MISSING, Box, Cells, Picture, Text

MARGIN = 20
LARGEST_CELL = 28
WIDEST_CELL = 76
ROOM = 1120  # pixels the cells may take along one side
LONGEST_LABEL = 170
MOST_CELLS = 560  # along one side; beyond, neighbours share a cell
LEGEND = 160


def levels(weights: NDArray[np.float64], top: float) -> NDArray[np.int16]:
    """The shade of every weight: EMPTY for exactly zero, MISSING for NaN, else 0 to `LEVELS - 1`.

    *Shape*: `(target_len, source_len)` in and out.
    """
    missing = np.isnan(weights)
    shares = np.clip(np.where(missing, 0.0, weights) / top, 0.0, 1.0)
    shades = np.rint(shares * (LEVELS - 1)).astype(np.int16)
    shades[weights == 0] = EMPTY
    shades[missing] = MISSING
    return shades


def pooled(
    weights: NDArray[np.float64], source: Sequence[str], target: Sequence[str]
) -> tuple[NDArray[np.float64], list[str], list[str]]:
    """The weights with neighbours merged (their largest), so that neither side has more than MOST_CELLS.

    The labels come back visible; of a merged group, its first and last. *Shape*: `(rows, columns)` out.
    """
    rows = math.ceil(weights.shape[0] / MOST_CELLS)
    columns = math.ceil(weights.shape[1] / MOST_CELLS)
    if rows > 1 or columns > 1:
        weights = np.maximum.reduceat(weights, np.arange(0, weights.shape[0], rows), axis=0)
        weights = np.maximum.reduceat(weights, np.arange(0, weights.shape[1], columns), axis=1)
    return weights, _grouped(source, columns), _grouped(target, rows)


def _grouped(tokens: Sequence[str], size: int) -> list[str]:
    labels = [visible(token) for token in tokens]
    if size == 1:
        return labels
    groups = (labels[start : start + size] for start in range(0, len(labels), size))
    return [group[0] if len(group) == 1 else f"{group[0]} … {group[-1]}" for group in groups]


def heatmap_picture(
    weights: NDArray[np.float64],
    source: Sequence[str],
    target: Sequence[str],
    top: float,
    title: str,
    subtitle: str,
    description: str,
    label: Callable[[str], str] = str,
) -> Picture:
    """Lay out a heatmap: sources on top, targets at the left, the scale under the cells.

    `label` has the last word on what is written for a text.
    """
    merged = math.ceil(len(source) / MOST_CELLS) * math.ceil(len(target) / MOST_CELLS)
    weights, sources, targets = pooled(weights, source, target)
    rows, across = weights.shape
    cell = max(1, min(LARGEST_CELL, ROOM // max(rows, across)))
    size = max(8.0, min(13.0, cell * 0.62))
    source_labels = [clip(label(token), size, LONGEST_LABEL) for token in sources]
    target_labels = [clip(label(token), size, LONGEST_LABEL) for token in targets]
    widest = max(width(text, size) for text in source_labels)
    cell_width, angle = _orientation(cell, across, widest)
    gap = 1 if cell >= 9 else 0

    left_label = max(width(text, size) for text in target_labels)
    head = MARGIN
    texts: list[Text] = []
    boxes: list[Box] = []
    for line, line_size, role in ((title, 16.0, "ink"), (subtitle, 12.5, "muted")):
        for part in _wrapped(label(readable(line)), line_size, max(420, cell_width * across + left_label)):
            head += round(line_size * 1.35)
            texts.append(Text(MARGIN, head - 4, part, line_size, role))
    if texts:
        head += 12

    x = math.ceil(MARGIN + max(left_label, width("target ↓", 11)) + 8)
    turned = {0: size * 1.2, 45: (widest + size) * math.sin(math.pi / 4), 90: widest}[angle]
    texts.append(Text(x, head + 10, "source →", 11, "muted"))
    head += 16
    y = math.ceil(head + turned + 8)
    texts.append(Text(x - 8, y - 8, "target ↓", 11, "muted", "end"))

    grid_width, grid_height = cell_width * across, cell * rows
    boxes.append(Box(x, y, grid_width - gap, grid_height - gap, "ground"))
    overhang = 0.0
    every = _every(cell_width, size * (1.5 if angle == 45 else 1.15)) if angle else 1
    for place in range(0, across, every):
        written, centre = source_labels[place], x + (place + 0.5) * cell_width
        if angle == 0:
            texts.append(Text(centre, y - 7, written, size, "ink", "middle"))
        elif angle == 45:
            texts.append(Text(centre + size * 0.3, y - 6, written, size, "ink", "start", 45))
            overhang = max(overhang, centre + width(written, size) * math.cos(math.pi / 4) + size)
        else:
            texts.append(Text(centre + size * 0.35, y - 6, written, size, "ink", "start", 90))
    for place in range(0, rows, _every(cell, size * 1.15)):
        middle = y + (place + 0.5) * cell
        texts.append(Text(x - 8, middle + size * 0.36, target_labels[place], size, "ink", "end"))

    foot = y + grid_height + 16
    legend_boxes, legend_texts = _legend(x, foot, top, bool(np.isnan(weights).any()), merged)
    ends = [x + grid_width, overhang, x + LEGEND + 120]
    ends += [
        text.x + width(text.text, text.size) for text in texts if text.anchor == "start" and not text.angle
    ]
    ends += [text.x + width(text.text, text.size) for text in legend_texts]
    return Picture(
        width=math.ceil(max(ends) + MARGIN),
        height=foot + 12 + MARGIN,
        title=title or "Attention weights",
        description=description,
        boxes=(*boxes, *legend_boxes),
        cells=Cells(x, y, cell_width, cell, gap, levels(weights, top)),
        texts=(*texts, *legend_texts),
    )


def _orientation(cell: int, across: int, widest: float) -> tuple[int, int]:
    """The width of a cell and the angle of the labels on top: level if they fit or can be made to."""
    needed = math.ceil(widest + 8)
    if needed <= cell or (cell >= 14 and needed <= WIDEST_CELL and needed * across <= ROOM):
        return max(cell, needed), 0
    return cell, 45 if cell >= 16 else 90


def _every(cell: int, line: float) -> int:
    """Label each cell, or every second, fifth, tenth ... so that labels keep apart."""
    needed = line / cell
    if needed <= 1:
        return 1
    return next(step for step in (2, 5, 10, 20, 25, 50, 100) if step >= needed or step == 100)


def _wrapped(text: str, size: float, room: float) -> list[str]:
    """The text in at most three lines that fit the room."""
    lines: list[str] = []
    for word in text.split():
        if lines and width(f"{lines[-1]} {word}", size) <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    kept = [clip(line, size, room) for line in lines[:3]]
    if len(lines) > 3:
        kept[-1] = clip(kept[-1] + " …" * 9, size, room)
    return kept


def _legend(x: int, y: int, top: float, missing: bool, merged: int) -> tuple[list[Box], list[Text]]:
    step = LEGEND // (LEVELS // 2)
    texts = [Text(x, y + 10, "weight  0", 11, "muted")]
    start = math.ceil(x + width("weight  0", 11) + 8)
    boxes = [Box(start, y, 12, 12, "ground")]
    start += 14
    boxes += [Box(start + place * step, y, step, 12, 2 * place + 1) for place in range(LEVELS // 2)]
    end = start + step * (LEVELS // 2)
    note = f"{top:.3g}"
    texts.append(Text(end + 8, y + 10, note, 11, "muted"))
    end = math.ceil(end + 8 + width(note, 11))
    if missing:
        boxes.append(Box(end + 16, y, 12, 12, "missing"))
        texts.append(Text(end + 34, y + 10, "not a number", 11, "muted"))
        end = math.ceil(end + 34 + width("not a number", 11))
    if merged > 1:
        texts.append(Text(end + 16, y + 10, f"each cell: the largest of {merged}", 11, "muted"))
    return boxes, texts
