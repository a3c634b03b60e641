"""A heatmap of attention weights: where each produced token looked."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from regard.errors import UserError
from regard.view.colours import LIGHT
from regard.view.figure import heatmap_figure
from regard.view.files import write
from regard.view.fonts import drawable
from regard.view.labels import readable
from regard.view.layout import heatmap_picture
from regard.view.page import page
from regard.view.picture import Picture
from regard.view.png import png
from regard.view.svg import svg
from regard.view.terminal import terminal


@dataclass(frozen=True, eq=False)
class Heatmap:
    """Attention weights with their tokens, ready to be drawn; made by `heatmap`.

    A row is a token that was produced, a column a token that was looked at. The darkest shade is `top`.
    A weight of exactly zero (sparsemax, a mask) is left blank, so that it differs from a small one.

    *Shape* of `weights`: `(target_len, source_len)`.
    """

    weights: NDArray[np.float64]
    source: tuple[str, ...]
    target: tuple[str, ...]
    title: str = ""
    subtitle: str = ""
    top: float = 1.0

    @property
    def description(self) -> str:
        """One sentence for those who do not see the picture."""
        rows, across = self.weights.shape
        return (
            f"Heatmap of attention weights: {rows} target tokens (rows) by {across} source tokens (columns); "
            f"darker is larger, up to {self.top:.3g}."
        )

    def png(self) -> bytes:
        """The heatmap as a PNG image."""
        return png(self._picture(self.title, self.subtitle, drawable), LIGHT)

    def svg(self) -> str:
        """The heatmap as an SVG file that carries the glyphs it needs."""
        return svg(self._picture(self.title, self.subtitle), LIGHT)

    def figure(self, heading: Literal["h1", "h2", "h3"] = "h3") -> str:
        """The heatmap as a `<figure>` of an HTML page, with its title as that heading."""
        return heatmap_figure(
            self._picture("", ""), self.weights, self.source, self.target, self.title, self.subtitle, heading
        )

    def html(self) -> str:
        """The heatmap as an HTML page of its own, light or dark as the reader prefers."""
        return page(readable(self.title) or "Attention weights", self.figure("h1"))

    def text(self, width: int | None = None, *, colour: bool | None = None) -> str:
        """The heatmap for a terminal of `width` columns, in panels if it is narrow.

        By default the width is the terminal's, and colour is used if standard output is a terminal.
        """
        return terminal(
            self.weights, self.source, self.target, self.top, (self.title, self.subtitle), width, colour
        )

    def save(self, path: str | Path) -> None:
        """Write the heatmap as the file's suffix says: `.png`, `.svg` or `.html`."""
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix == ".png":
            data = self.png()
        elif suffix == ".svg":
            data = self.svg().encode("utf-8")
        elif suffix == ".html":
            data = self.html().encode("utf-8")
        else:
            raise UserError(f"cannot draw {path.name!r}: the name must end in .png, .svg or .html")
        write(path, data)

    def _picture(self, title: str, subtitle: str, label: Callable[[str], str] = str) -> Picture:
        return heatmap_picture(
            self.weights, self.source, self.target, self.top, title, subtitle, self.description, label
        )

    def _repr_png_(self) -> bytes:
        return self.png()

    def _repr_html_(self) -> str:
        """An image that any notebook shows, in which nothing can run."""
        data = base64.b64encode(self.svg().encode("utf-8")).decode("ascii")
        return f'<img alt="{html.escape(self.description)}" src="data:image/svg+xml;base64,{data}">'


def heatmap(
    weights: Any,
    *,
    source: Sequence[str],
    target: Sequence[str],
    title: str = "",
    subtitle: str = "",
    top: float | None = None,
) -> Heatmap:
    """A heatmap of attention weights, to save (`.png`, `.svg`, `.html`), print, or show in a notebook.

    *Shape* of `weights` (a tensor or anything like an array): `(target_len, source_len)`. `top` is the
    weight of the darkest shade, by default the largest weight; give it to compare several heatmaps.
    NaN is drawn in a colour of its own. Raises `ValueError` for another shape, labels that do not match
    it, and negative or infinite weights.

    Example:
        >>> picture = heatmap([[0.9, 0.1], [0.0, 1.0]], source=["我", "来"], target=["I", "come"])
        >>> print(picture.text(40, colour=False), end="")
             我 来
           I ██ ░░
        come ·  ██
        <BLANKLINE>
             0 ·░░▒▒▓▓██ 1
    """
    values = _array(weights)
    sources, targets = tuple(source), tuple(target)
    expected = (len(targets), len(sources))
    if values.ndim != 2 or values.shape != expected:
        raise ValueError(
            f"weights has shape {values.shape}, but target has {len(targets)} labels and source has "
            f"{len(sources)}: expected shape {expected}"
        )
    if 0 in expected:
        raise ValueError(f"weights has shape {values.shape}: there is nothing to draw")
    if not all(isinstance(label, str) for label in (*sources, *targets)):
        raise TypeError("source and target must be sequences of str")
    if np.isinf(values).any() or (values < 0).any():
        raise ValueError("weights must be zero or more and finite (or NaN)")
    if top is None:
        top = float(np.nanmax(values, initial=0.0)) or 1.0
    elif not 0 < top < float("inf"):
        raise ValueError(f"top must be greater than zero and finite, not {top!r}")
    values.setflags(write=False)
    return Heatmap(values, sources, targets, title, subtitle, float(top))


def _array(weights: Any) -> NDArray[np.float64]:
    """A copy of the weights in float64, off any device and graph."""
    if hasattr(weights, "detach"):
        weights = weights.detach().to("cpu").double().numpy()
    return np.array(weights, dtype=np.float64)
