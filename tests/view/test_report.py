"""Reports and charts: complete, offline, escaped, readable without a mouse."""

import csv
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from regard.errors import UserError
from regard.view import Chart, Code, Headline, Headlines, Report, Section, Series, Table, heatmap
from regard.view.chart import thinned, ticks
from regard.view.table import number

BAD = "</td><img src=x onerror=alert(1)>\"'\x00\u202e"


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def report(word: str) -> Report:
    chart = Chart(
        word, word, word, [Series(word, [(0, 1.0), (1, 0.5)]), Series(word, [(0, 0.2)], [(0.1, 0.3)])], word
    )
    return Report(
        word,
        [
            Section(word, [word, Headlines([Headline(word, word, word)]), Code(word)]),
            Section("Charts", [chart]),
            Section("Examples", [Table([word, "right"], [[word, True], [None, False]], word)]),
            Section("Pictures", [heatmap([[1.0]], source=[word], target=[word], title=word)]),
        ],
        lead=word,
    )


def test_every_text_is_escaped() -> None:
    page, plain = Page(report(BAD).html()), Page(report("w" * 60).html())
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert [list(names) for _, names in page.elements] == [list(names) for _, names in plain.elements]
    assert "\x00" not in report(BAD).html()
    assert "\u202e" not in report(BAD).html()


def test_it_fetches_nothing_and_is_the_same_every_time() -> None:
    text = report("机器翻译").html()
    assert not re.search(r"https?:", text)
    assert text == report("机器翻译").html()
    links = [names["href"] or "" for tag, names in Page(text).elements if tag == "a"]
    assert all(link.startswith(("#", "data:text/csv")) for link in links)
    assert "default-src 'none'" in text


def test_every_link_within_the_page_has_its_place() -> None:
    elements = Page(report("x").html()).elements
    places = [names["id"] for _, names in elements if "id" in names]
    assert len(places) == len(set(places))
    for _, names in elements:
        if (names.get("href") or "").startswith("#"):
            assert (names["href"] or "")[1:] in places


def numbers(part: Table | Chart) -> list[list[str]]:
    page = Page(Report("r", [Section("s", [part])]).html())
    (link,) = [names["href"] or "" for tag, names in page.elements if tag == "a"]
    return list(csv.reader(io.StringIO(unquote(link.partition(",")[2]).lstrip("\ufeff"))))


def test_the_numbers_can_be_taken_along_in_full() -> None:
    chart = Chart(
        "t", "step", "loss", [Series("a", [(0, 1 / 3), (2, math.nan)]), Series("b", [(0, 2.0)], [(1.0, 3.0)])]
    )
    assert numbers(chart) == [
        ["step", "a", "b", "b, low", "b, high"],
        ["0", repr(1 / 3), "2.0", "1.0", "3.0"],
        ["2", "nan", "", "", ""],
    ]
    table = Table(["token", "n"], [['北京,\n"x"', 1], ["=HYPERLINK(1)", None], ["-", 0.5]])
    assert numbers(table) == [["token", "n"], ['北京,\n"x"', "1"], ["'=HYPERLINK(1)", ""], ["-", "0.5"]]


def test_charts_of_odd_data() -> None:
    for points in ([], [(0.0, math.nan)], [(1.0, 1.0)], [(0.0, 5.0), (1.0, 5.0)], [(0.0, -1e9), (1.0, 1e-9)]):
        text = Report("r", [Section("s", [Chart("c", "x", "y", [Series("a", points)])])]).html()
        assert "nan" not in "".join(re.findall(r' d="([^"]*)"', text))
    with pytest.raises(ValueError, match="2 points but 1 ranges"):
        Report("r", [Section("s", [Chart("c", "x", "y", [Series("a", [(0, 1), (1, 1)], [(0, 1)])])])]).html()
    with pytest.raises(ValueError, match="row 0 has 1 cells"):
        Report("r", [Section("s", [Table(["a", "b"], [["x"]])])]).html()


def test_a_gap_in_the_data_is_a_gap_in_the_line() -> None:
    points = [(0.0, 1.0), (1.0, math.nan), (2.0, 1.0), (3.0, 2.0)]
    text = Report("r", [Section("s", [Chart("c", "x", "y", [Series("a", points)])])]).html()
    (path,) = re.findall(r'class="line l0" d="([^"]*)"', text)
    assert path.count("M") == 2


def test_many_lines_are_told_apart_by_more_than_colour() -> None:
    lines = [Series(f"run {place}", [(0, place), (1, place)]) for place in range(16)]
    text = Report("r", [Section("s", [Chart("c", "x", "y", lines)])]).html()
    strokes = re.findall(r'<path (class="line[^>]*?) d="M1 5', text)
    assert len(set(strokes)) == 16


def test_long_curves_are_thinned_but_keep_their_extremes() -> None:
    points = [(float(place), math.sin(place)) for place in range(100_000)]
    points[31_337] = (31_337.0, 9.0)
    kept = thinned(points)
    assert len(kept) <= 502
    assert (31_337.0, 9.0) in kept
    assert kept == sorted(kept)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.2, 0.93), (-3, 1200), (1e-7, 3e-7), (5, 5), (0, 0), (1e12, 1e12 + 3)]
)
def test_ticks_span_the_values(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low
    assert high <= found[-1]
    assert 2 <= len(found) <= 14
    assert found == sorted(set(found))


def test_numbers_as_people_write_them() -> None:
    assert number(3) == "3"
    assert number(29_000) == "29\u202f000"
    assert number(0.123456) == "0.1235"
    assert number(-2.5) == "−2.5"
    assert number(1e-5) == "1e−05"
    assert number(math.nan) == "nan"


def test_save(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    report("报告").save(path)
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [child.name for child in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(UserError, match=r"\.html"):
        report("x").save(tmp_path / "report.txt")
