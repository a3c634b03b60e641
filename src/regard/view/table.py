"""A table as a part of a page, with its contents to download as CSV."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

from regard.view.labels import readable

Cell = str | int | float | bool | None


@dataclass(frozen=True)
class Table:
    """Columns and rows of text and numbers; True and False are shown as right and wrong, None as a dash."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""


def table_markup(table: Table, *, link: bool = True) -> str:
    """The table as markup; numbers are aligned right, and `link` adds the download."""
    for place, row in enumerate(table.rows):
        if len(row) != len(table.columns):
            raise ValueError(
                f"row {place} has {len(row)} cells, but the table has {len(table.columns)} columns"
            )
    numeric = [
        any(_is_number(row[place]) for row in table.rows)
        and all(row[place] is None or _is_number(row[place]) for row in table.rows)
        for place in range(len(table.columns))
    ]
    head = "".join(
        f'<th scope="col"{_aligned(right)}>{escape(readable(name))}</th>'
        for name, right in zip(table.columns, numeric, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{_aligned(right)}>{_cell(cell)}</td>" for cell, right in zip(row, numeric, strict=True)
        )
        + "</tr>\n"
        for row in table.rows
    )
    caption = f"<caption>{escape(readable(table.caption))}</caption>" if table.caption else ""
    return (
        f'<div class="scroll" tabindex="0"><table>{caption}\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>\n" + (download(table, table.caption) if link else "")
    )


def download(table: Table, name: str) -> str:
    """A link that saves the table as CSV; its data are in the link itself."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([_plain(column) for column in table.columns])
    writer.writerows([_plain(cell) for cell in row] for row in table.rows)
    file = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "table"
    # A byte order mark, so that spreadsheets read UTF-8.
    data = quote("\ufeff" + text.getvalue())
    return f'<p><a download="{file}.csv" href="data:text/csv;charset=utf-8,{data}">Download as CSV</a></p>\n'


def number(value: float) -> str:
    """A number as people write it: at most four significant digits below ten thousand, whole above."""
    if isinstance(value, int) or (math.isfinite(value) and value == int(value) and abs(value) < 1e15):
        return f"{int(value):,}".replace(",", "\u202f").replace("-", "−")
    if abs(value) >= 10_000 and math.isfinite(value):
        return number(round(value))
    return f"{value:.4g}".replace("-", "−")


def _cell(cell: Cell) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, bool):
        return '<span class="right">✓ right</span>' if cell else '<span class="wrong">✗ wrong</span>'
    if isinstance(cell, str):
        return f"<bdi>{escape(readable(cell))}</bdi>"
    return number(cell)


def _plain(cell: Cell) -> str:
    """A cell for CSV: full precision, and never a formula of a spreadsheet."""
    if cell is None:
        return ""
    if not isinstance(cell, str):
        return repr(cell)
    text = readable(cell)
    return f"'{text}" if len(text) > 1 and text[0] in "=+-@" else text


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, (int, float)) and not isinstance(cell, bool)


def _aligned(right: bool) -> str:
    return ' class="number"' if right else ""
