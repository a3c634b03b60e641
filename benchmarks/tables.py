"""Results as Markdown: one line a row, or a grid of one line a case with a column for every peer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.harness import Missing, Row, Spread

SHOWN = 3
"""How many cases of a peer that did not run are listed by name."""


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0:
        return "0"
    digits = 2 - int(f"{value:.2e}".partition("e")[2])
    return f"{round(value, digits):,.{max(digits, 0)}f}"


def rows_table(rows: Sequence[Row]) -> str:
    """A line for each row."""
    notes = any(row.note for row in rows)
    heads = ["case", "regard", "peer", "the peer's", "regard / peer", "rounds", *(["note"] if notes else [])]
    lines = [heads]
    for row in rows:
        peer = "" if row.peer_value is None else f"{row.peer_value} {row.unit}"
        ratio = "" if row.ratio is None else _emphasised(row.ratio)
        one = [row.case, f"{row.regard} {row.unit}", row.peer, peer, ratio, str(row.rounds)]
        lines.append([*one, row.note] if notes else one)
    return _markdown(lines)


def grid_table(rows: Sequence[Row]) -> str:
    """A line for each case; below each peer its figure divided by regard's, so that more is better for regard."""
    cases: dict[str, dict[str, Row]] = {}
    for row in rows:
        cases.setdefault(row.case, {})[row.peer] = row
    peers = list(dict.fromkeys(row.peer for row in rows if row.peer))
    limits = any(row.limit is not None for row in rows)
    heads = ["case", "regard", *(["share of the limit"] if limits else []), *peers, "rounds", "note"]
    lines = [heads]
    for case, found in cases.items():
        row = next(iter(found.values()))
        share = [] if not limits else [_share(row)]
        against = [_inverse(found[peer].ratio) if peer in found else "" for peer in peers]
        lines.append([case, f"{row.regard} {row.unit}", *share, *against, str(row.rounds), row.note])
    return _markdown(lines)


def missing_table(missing: Sequence[Missing]) -> str:
    """Who did not run, why, and where."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in missing:
        found.setdefault((one.who, one.why), []).append(one.case)
    lines = [["did not run", "why", "cases"]]
    for (who, why), cases in found.items():
        more = [f"and {len(cases) - SHOWN} more"] if len(cases) > SHOWN else []
        lines.append([who, why, "; ".join([*cases[:SHOWN], *more])])
    return _markdown(lines)


def _share(row: Row) -> str:
    return "" if row.share is None else f"{row.share:.0%}" if row.share >= 0.095 else f"{row.share:.1%}"


def _inverse(ratio: Spread | None) -> str:
    if ratio is None:
        return ""
    if ratio.low == ratio.high:
        return f"**{number(1 / ratio.median)}**"
    return f"**{number(1 / ratio.median)}** ({number(1 / ratio.high)} to {number(1 / ratio.low)})"


def _emphasised(spread: Spread) -> str:
    """The median in bold."""
    median, *quartiles = str(spread).split(" ", 1)
    return " ".join([f"**{median}**", *quartiles])


def _markdown(lines: list[list[str]]) -> str:
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    ruled = [lines[0], ["-" * width for width in widths], *lines[1:]]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in ruled
    )
