"""A line chart as a part of a page: axes, lines, a legend, and its numbers below."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from regard.view.colours import SERIES
from regard.view.labels import readable
from regard.view.table import Table, download, number, table_markup

WIDTH, HEIGHT = 720, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 12, 46
MOST_POINTS = 500  # drawn of one line; the numbers to download are all there
MOST_MARKS = 40  # a line with more points has no marks on it
MOST_ROWS = 100  # of the table below a chart
_DASHES = ("", "7 4", "2 3", "9 3 2 3")


@dataclass(frozen=True)
class Series:
    """One line of a chart: its name, its points (x, y), and for each point a range (low, high) if known.

    Points whose y is not finite break the line.
    """

    name: str
    points: Sequence[tuple[float, float]]
    ranges: Sequence[tuple[float, float]] | None = None


@dataclass(frozen=True)
class Chart:
    """Lines over a common x axis, each told from the others by colour and by dash."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    note: str = ""


@dataclass(frozen=True)
class _Frame:
    """The ranges of both axes, and where their values lie on the picture."""

    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, value: float) -> float:
        return LEFT + (value - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - LEFT - RIGHT)

    def down(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.y[0]) / (self.y[1] - self.y[0]) * (HEIGHT - TOP - BOTTOM)


def chart_markup(chart: Chart) -> str:
    """The chart as a `<figure>`: the picture, its legend, and its numbers as a table and as CSV."""
    for series in chart.series:
        if series.ranges is not None and len(series.ranges) != len(series.points):
            raise ValueError(
                f"series {series.name!r} has {len(series.points)} points but {len(series.ranges)} ranges"
            )
    numbers = _numbers(chart)
    caption = f"<figcaption><h3>{escape(readable(chart.title))}</h3>"
    caption += f"<p>{escape(readable(chart.note))}</p>" if chart.note else ""
    return (
        f'<figure class="chart">\n{caption}</figcaption>\n'
        + _legend(chart.series)
        + f'<div class="scroll" tabindex="0">{_picture(chart)}</div>\n'
        + "<details><summary>The numbers</summary>"
        + (
            table_markup(numbers, link=False)
            if len(numbers.rows) <= MOST_ROWS
            else f"<p>{len(numbers.rows)} rows: too many to read here.</p>"
        )
        + download(numbers, chart.title)
        + "</details>\n</figure>\n"
    )


def _picture(chart: Chart) -> str:
    finite = [point for series in chart.series for point in series.points if _finite(point)]
    spans = [bound for series in chart.series for pair in series.ranges or () for bound in pair]
    label = escape(readable(f"Line chart: {chart.y_label} by {chart.x_label}, {len(chart.series)} lines."))
    start = f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">\n'
    if not finite:
        return (
            start + f'<text class="muted" x="{WIDTH / 2:g}" y="{HEIGHT / 2:g}" text-anchor="middle" '
            'font-size="13">no finite values</text>\n</svg>'
        )
    x_ticks = ticks(min(x for x, _ in finite), max(x for x, _ in finite))
    heights = [y for _, y in finite] + [bound for bound in spans if math.isfinite(bound)]
    y_ticks = ticks(min(heights), max(heights), 5)
    frame = _Frame(
        (min(x_ticks[0], *(x for x, _ in finite)), max(x_ticks[-1], *(x for x, _ in finite))),
        (y_ticks[0], y_ticks[-1]),
    )
    return (
        start
        + _axes(chart, frame, x_ticks, y_ticks)
        + "".join(_band(series, place, frame) for place, series in enumerate(chart.series))
        + "".join(_line(series, place, frame) for place, series in enumerate(chart.series))
        + "</svg>"
    )


def _axes(chart: Chart, frame: _Frame, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> str:
    out = []
    floor = HEIGHT - BOTTOM
    for value in y_ticks:
        y = frame.down(value)
        out.append(f'<path class="rule" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        out.append(
            f'<text class="muted" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" font-size="12">'
            f"{number(value)}</text>"
        )
    for value in x_ticks:
        x = frame.across(value)
        out.append(f'<path class="rule" d="M{x:.1f} {floor}v5"/>')
        out.append(
            f'<text class="muted" x="{x:.1f}" y="{floor + 19}" text-anchor="middle" font-size="12">'
            f"{number(value)}</text>"
        )
    middle = TOP + (floor - TOP) / 2
    out.append(
        f'<text class="muted" x="{LEFT + (WIDTH - LEFT - RIGHT) / 2:g}" y="{HEIGHT - 6}" text-anchor="middle" '
        f'font-size="12">{escape(readable(chart.x_label))}</text>'
    )
    out.append(
        f'<text class="muted" x="14" y="{middle:g}" text-anchor="middle" font-size="12" '
        f'transform="rotate(-90 14 {middle:g})">{escape(readable(chart.y_label))}</text>'
    )
    return "\n".join(out) + "\n"


def _line(series: Series, place: int, frame: _Frame) -> str:
    points = thinned(list(series.points))
    path, pen = "", "M"
    for x, y in points:
        if _finite((x, y)):
            path += f"{pen}{frame.across(x):.1f} {frame.down(y):.1f}"
            pen = "L"
        else:
            pen = "M"
    out = [f'<path {_stroke(place)} d="{path}"/>\n']
    if len(points) <= MOST_MARKS:
        name = escape(readable(series.name))
        out += [
            f'<circle class="p{place % 8}" cx="{frame.across(x):.1f}" cy="{frame.down(y):.1f}" r="3.2">'
            f"<title>{name}: {number(x)}, {number(y)}</title></circle>\n"
            for x, y in points
            if _finite((x, y))
        ]
    return "".join(out)


def _band(series: Series, place: int, frame: _Frame) -> str:
    """The ranges of a line as a shaded band about it."""
    spans = [
        (x, low, high)
        for (x, _), (low, high) in zip(series.points, series.ranges or (), strict=False)
        if all(map(math.isfinite, (x, low, high)))
    ]
    if len(spans) < 2:
        return ""
    upper = [f"{frame.across(x):.1f} {frame.down(high):.1f}" for x, _, high in spans]
    lower = [f"{frame.across(x):.1f} {frame.down(low):.1f}" for x, low, _ in reversed(spans)]
    return f'<path class="band p{place % 8}" d="M{"L".join(upper + lower)}z"/>\n'


def _stroke(place: int) -> str:
    """How the line with this number is drawn: eight colours, and dashes that change with every line."""
    dash = _DASHES[(place + place // len(SERIES["light"])) % len(_DASHES)]
    return f'class="line l{place % len(SERIES["light"])}"' + (f' stroke-dasharray="{dash}"' if dash else "")


def _legend(series: Sequence[Series]) -> str:
    if len(series) < 2:
        return ""
    items = []
    for place, one in enumerate(series):
        items.append(
            f'<li><svg width="30" height="10" aria-hidden="true"><path {_stroke(place)} d="M1 5H29"/></svg>'
            f"<bdi>{escape(readable(one.name))}</bdi></li>"
        )
    return f'<ul class="legend">{"".join(items)}</ul>\n'


def _numbers(chart: Chart) -> Table:
    """The points of all lines as a table with a row for each x."""
    columns = [chart.x_label]
    lines: list[dict[float, tuple[float | None, ...]]] = []
    for series in chart.series:
        if series.ranges is None:
            columns.append(series.name)
            lines.append({x: (y,) for x, y in series.points})
        else:
            columns += [series.name, f"{series.name}, low", f"{series.name}, high"]
            both = zip(series.points, series.ranges, strict=True)
            lines.append({x: (y, low, high) for (x, y), (low, high) in both})
    spans = [1 if series.ranges is None else 3 for series in chart.series]
    places = sorted({x for line in lines for x in line})
    rows = [
        [
            x,
            *(
                value
                for line, span in zip(lines, spans, strict=True)
                for value in line.get(x, (None,) * span)
            ),
        ]
        for x in places
    ]
    return Table(columns, rows)


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round values that span low to high, about as many as asked for.

    Example:
        >>> ticks(0.0, 0.93, 5)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if low == high:
        low, high = low - (abs(low) or 1) * 0.5, high + (abs(high) or 1) * 0.5
    rough = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, 1 - math.floor(math.log10(step)))
    return [round(place * step, digits) for place in range(first, last + 1)]


def thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most about MOST_POINTS of the points: of each stretch, its lowest and its highest."""
    if len(points) <= MOST_POINTS:
        return points
    size = math.ceil(2 * len(points) / MOST_POINTS)
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        kept += sorted({min(stretch, key=_height), max(stretch, key=_height)})
    return kept


def _height(point: tuple[float, float]) -> float:
    return point[1] if math.isfinite(point[1]) else math.inf


def _finite(values: Iterable[float]) -> bool:
    return all(map(math.isfinite, values))
