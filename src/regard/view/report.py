"""A report: one HTML file, readable anywhere and for ever, made of titled sections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from regard.errors import UserError
from regard.view.chart import Chart, chart_markup
from regard.view.files import write
from regard.view.heatmap import Heatmap
from regard.view.labels import readable
from regard.view.page import page
from regard.view.table import Table, table_markup


@dataclass(frozen=True)
class Headline:
    """A number that matters, large: its value as text, what it is, and perhaps what it is measured against."""

    value: str
    label: str
    note: str = ""


@dataclass(frozen=True)
class Headlines:
    """Several headline numbers side by side."""

    numbers: Sequence[Headline]


@dataclass(frozen=True)
class Code:
    """A command or a file, shown as it is."""

    text: str


Part = str | Code | Headlines | Table | Chart | Heatmap
"""What a section is made of; a string is prose, with an empty line between paragraphs."""


@dataclass(frozen=True)
class Section:
    """A titled part of a report."""

    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Report:
    """A page of sections that fetches nothing: it can be mailed, archived, and read without a network.

    Example:
        >>> from regard.view import Series
        >>> chart = Chart("Loss", "step", "loss", [Series("train", [(0, 2.0), (100, 0.5)])])
        >>> report = Report("dates, additive/softmax", [Section("Training", ["It went well.", chart])])
        >>> "https:" in report.html()
        False
    """

    title: str
    sections: Sequence[Section]
    lead: str = ""

    def html(self) -> str:
        """The page as HTML."""
        lead = f'<p class="lead">{escape(readable(self.lead))}</p>\n' if self.lead else ""
        links = "".join(
            f'<li><a href="#part-{place}">{escape(readable(section.title))}</a></li>'
            for place, section in enumerate(self.sections, 1)
        )
        contents = f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n' if len(self.sections) > 2 else ""
        body = "".join(
            f'<section id="part-{place}" aria-labelledby="title-{place}">\n'
            f'<h2 id="title-{place}">{escape(readable(section.title))}</h2>\n'
            + "".join(_markup(part) for part in section.parts)
            + "</section>\n"
            for place, section in enumerate(self.sections, 1)
        )
        return page(
            readable(self.title),
            f"<header><h1>{escape(readable(self.title))}</h1>\n{lead}{contents}</header>\n<main>\n{body}</main>",
        )

    def save(self, path: str | Path) -> None:
        """Write the page to an `.html` file, whole or not at all."""
        path = Path(path)
        if path.suffix.lower() != ".html":
            raise UserError(f"cannot write the report to {path.name!r}: the name must end in .html")
        write(path, self.html().encode("utf-8"))


def _markup(part: Part) -> str:
    match part:
        case str():
            paragraphs = [piece.strip() for piece in readable(part).split("\n\n")]
            return "".join(f"<p>{escape(piece)}</p>\n" for piece in paragraphs if piece)
        case Code():
            return f'<pre tabindex="0"><code>{escape(readable(part.text))}</code></pre>\n'
        case Headlines():
            return f'<dl class="headlines">{"".join(map(_headline, part.numbers))}</dl>\n'
        case Table():
            return table_markup(part)
        case Chart():
            return chart_markup(part)
        case Heatmap():
            return part.figure()
    raise TypeError(f"a report cannot show {type(part).__name__}")


def _headline(headline: Headline) -> str:
    note = f'<dd class="quiet">{escape(readable(headline.note))}</dd>' if headline.note else ""
    return (
        f"<div><dt>{escape(readable(headline.label))}</dt>"
        f'<dd class="value">{escape(readable(headline.value))}</dd>{note}</div>'
    )
