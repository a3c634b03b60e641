"""Figures against length on two logarithmic axes, as SVG: the same bytes for the same rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import Plot, Row

OURS = {"color": "black", "marker": "o", "linewidth": 2.4, "markersize": 5, "zorder": 3}
LIMIT = {"color": "black", "linestyle": ":", "linewidth": 1.4}
PEERS = (
    {"color": "#0b5fa5", "linestyle": "--", "marker": "s"},
    {"color": "#c4541a", "linestyle": "-.", "marker": "^"},
    {"color": "#6f8f3a", "linestyle": (0, (5, 1)), "marker": "D"},
    {"color": "#8a6fb0", "linestyle": (0, (3, 1, 1, 1)), "marker": "v"},
    {"color": "#999999", "linestyle": (0, (1, 1)), "marker": "x"},
)
"""Told apart without colour by dashes and markers; their greys differ too."""
ACROSS, WIDTH, HEIGHT = 2, 4.6, 3.5
"""Panels side by side, and the inches of each."""


def draw(plot: Plot, rows: Sequence[Row], path: Path) -> None:
    """Draw regard, its peers and the limit, a panel for each group of rows that has a name."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    panels = {panel: [row for row in rows if row.panel == panel] for panel in plot.panels}
    panels = {panel: found for panel, found in panels.items() if found}
    if not panels:
        return
    peers = list(dict.fromkeys(row.peer for found in panels.values() for row in found if row.peer))
    across = min(ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    with mpl.rc_context({"svg.hashsalt": "regard", "font.family": "DejaVu Sans", "font.size": 10}):
        figure, axes = pyplot.subplots(
            down, across, figsize=(WIDTH * across, HEIGHT * down + 0.8), squeeze=False, layout="constrained"
        )
        for place, axis in enumerate(axes.flat):
            if place >= len(panels):
                axis.set_visible(False)
                continue
            panel, found = list(panels.items())[place]
            for number, peer in enumerate(peers):
                points = [
                    (row.length, row.peer_value.median)
                    for row in found
                    if row.peer == peer and row.peer_value
                ]
                style = {"linewidth": 1.6, "markersize": 4.5, **PEERS[number % len(PEERS)]}
                axis.plot(*_lines(points), label=peer, **style)
            axis.plot(
                *_lines([(row.length, row.limit) for row in found if row.limit]), label="limit", **LIMIT
            )
            axis.plot(*_lines([(row.length, row.regard.median) for row in found]), label="regard", **OURS)
            _dress(axis, panel, found)
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
        pyplot.close(figure)


def _lines(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Abscissae and ordinates, each length once, in order."""
    ordered = sorted(dict(points).items())
    return [x for x, _ in ordered], [y for _, y in ordered]


def _dress(axis: object, panel: str, rows: Sequence[Row]) -> None:
    lengths = sorted({row.length for row in rows})
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(lengths, [f"{n // 1024}k" if n >= 1024 else str(n) for n in lengths])
    axis.minorticks_off()
    axis.set_title(panel, fontsize=11)
    axis.set_xlabel("length")
    axis.set_ylabel(rows[0].unit)
    axis.grid(True, color="#dddddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
