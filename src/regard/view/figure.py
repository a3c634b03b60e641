"""A heatmap as a part of a page: the picture, a line that tells the weight pointed at, and the numbers."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from regard.view.labels import readable, visible
from regard.view.layout import pooled
from regard.view.picture import Picture
from regard.view.svg import THEMED, shapes

MOST_NUMBERS = 2_500
"""A table of all weights has at most this many; beyond, it tells each row's largest."""
MOST_ROWS = 1_000
"""A table has at most this many rows."""


def heatmap_figure(
    picture: Picture,
    weights: NDArray[np.float64],
    source: Sequence[str],
    target: Sequence[str],
    title: str,
    subtitle: str,
    heading: str,
) -> str:
    """Markup of a `<figure>` whose weights can be pointed at, walked through by keyboard, or read as a table.

    `picture` has no title of its own: it is in the caption, as a `heading` element (`h1`, `h3`).
    *Shape* of `weights`: `(target_len, source_len)`.
    """
    drawn, sources, targets = pooled(weights, source, target)
    most = float(np.nanmax(drawn, initial=0.0)) or 1.0
    codes = np.where(np.isnan(drawn), 65535, np.rint(np.nan_to_num(drawn) / most * 65534)).astype("<u2")
    cells = picture.cells
    grid = [cells.x, cells.y, cells.width, cells.height]
    data = {
        "source": json.dumps(sources, ensure_ascii=False),
        "target": json.dumps(targets, ensure_ascii=False),
        "grid": json.dumps(grid),
        "top": repr(most),
        "weights": base64.b64encode(codes.tobytes()).decode("ascii"),
    }
    attributes = "".join(f' data-{name}="{escape(value)}"' for name, value in data.items())
    caption = f"<{heading}>{escape(readable(title))}</{heading}>" if title else ""
    caption += f"<p>{escape(readable(subtitle))}</p>" if subtitle else ""
    return (
        f'<figure class="heatmap"{attributes}>\n'
        + (f"<figcaption>{caption}</figcaption>\n" if caption else "")
        + f'<div class="scroll"><svg width="{picture.width}" height="{picture.height}" '
        f'viewBox="0 0 {picture.width} {picture.height}" role="img" tabindex="0" '
        f'aria-label="{escape(picture.description)}">\n'
        + shapes(picture, THEMED)
        + '<rect class="cursor" width="0" height="0"/>\n</svg></div>\n'
        '<output class="readout quiet" aria-live="polite">'
        "Point at a cell, or move with the arrow keys, to read its weight.</output>\n"
        + _numbers(weights, source, target)
        + "</figure>\n"
    )


def _numbers(weights: NDArray[np.float64], source: Sequence[str], target: Sequence[str]) -> str:
    sources, targets = [visible(token) for token in source], [visible(token) for token in target[:MOST_ROWS]]
    if weights.size <= MOST_NUMBERS:
        head = "".join(f'<th scope="col" class="number"><bdi>{escape(token)}</bdi></th>' for token in sources)
        rows = (
            "".join(f'<td class="number">{weight:.3f}</td>' for weight in row.tolist()) for row in weights
        )
        caption = "Weights: a row for each target token, a column for each source token."
    else:
        head = '<th scope="col">largest weights</th>'
        rows = (
            "<td>"
            + ", ".join(
                f"<bdi>{escape(sources[place])}</bdi> {row[place]:.3f}"
                for place in np.argsort(-np.nan_to_num(row), kind="stable")[:3].tolist()
            )
            + "</td>"
            for row in weights[:MOST_ROWS]
        )
        caption = "The three source tokens with the largest weights, for each target token."
    body = "".join(
        f'<tr><th scope="row"><bdi>{escape(token)}</bdi></th>{row}</tr>\n'
        for token, row in zip(targets, rows, strict=False)
    )
    return (
        "<details><summary>The numbers</summary>"
        f'<div class="scroll" tabindex="0"><table><caption>{caption}</caption>\n'
        f"<thead><tr><td></td>{head}</tr></thead>\n<tbody>{body}</tbody></table></div></details>\n"
    )
