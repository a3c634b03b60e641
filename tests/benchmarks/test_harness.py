"""The harness: ratios are taken round by round, turns rotate, and what is kept can be read back."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks import harness, plots, tables


def report(**changes) -> harness.Report:
    """Two cases, one of them against two peers, and a contestant that did not run."""
    rows = tuple(
        dataclasses.replace(
            harness.Row.of(case, "ms", [2.0, 4.0], peer, [20.0, 40.0], "by a backend"),
            limit=limit,
            panel="forward",
            length=length,
        )
        for case, length, limit, peer in (
            ("short", 128, 0.3, "eager"),
            ("short", 128, 0.3, "compiled"),
            ("long", 256, 1.5, "eager"),
        )
    )
    made = harness.Report(
        "additive", "Additive", "About.", "lower", "python -m benchmarks.additive", harness.Machine.here(), rows,
        (harness.Missing("compiled", "long", "no compiler"),),
        (harness.Plot("additive.svg", "Time against length", ("forward",)),),
        grid=True,
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A place to publish in."""
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(harness, "PAGE", tmp_path / "docs" / "performance.md")
    return tmp_path


def test_the_ratio_is_taken_within_each_round():
    row = harness.Row.of("case", "s", [1.0, 10.0, 100.0], "peer", [2.0, 20.0, 200.0])
    assert row.ratio == harness.Spread(0.5, 0.5, 0.5)
    assert row.regard.median == 10.0


def test_contestants_take_turns_at_going_first():
    seen = []
    seconds = harness.in_turns({name: lambda _, name=name: seen.append(name) for name in "ab"}, 2, warm_up=0)
    assert "".join(seen) == "abba"
    assert [len(times) for times in seconds.values()] == [2, 2]


def test_a_fast_contestant_runs_more_often_and_work_elsewhere_is_waited_for():
    seen = []
    runs = {name: lambda _, name=name: seen.append(name) for name in "ab"}
    harness.in_turns(runs, 1, warm_up=0, repeat={"a": 3, "b": 1}, finish=lambda: seen.append("."))
    assert "".join(seen) == ".aaa..b."


@pytest.mark.parametrize("grid", [True, False])
def test_a_report_is_published_and_read_back(house, capsys, grid):
    made = report(grid=grid)
    made.publish()
    assert harness.Report.read(house / "results" / "additive.jsonl") == made
    shown = (house / "docs" / "performance.md").read_text(encoding="utf-8")
    printed = capsys.readouterr().out
    assert "python -m benchmarks.additive" in shown
    assert "![Time against length](pictures/performance/additive.svg)" in shown
    assert (house / "docs" / "pictures" / "performance" / "additive.svg").exists()
    for text in shown, printed:
        assert ("**10.0**" if grid else "**0.100**") in text
        assert "no compiler" in text


def test_a_grid_has_a_line_for_each_case_and_a_column_for_each_peer():
    head, _, short, long = tables.grid_table(report().rows).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (head, short, long)]
    assert cells[0][2:5] == ["share of the limit", "eager", "compiled"]
    assert cells[1][2:5] == ["10%", "**10.0**", "**10.0**"]  # a limit of 0.3 ms, and 3 taken
    assert cells[2][2:5] == ["50%", "**10.0**", ""]


def test_reasons_that_are_the_same_are_told_once():
    missing = [harness.Missing("peer", f"case {place}", "too long") for place in range(5)]
    assert tables.missing_table(missing).splitlines()[2:] == [
        "| peer        | too long | case 0; case 1; case 2; and 2 more |"
    ]


def test_the_same_rows_make_the_same_picture(tmp_path):
    made = report()
    for name in "ab":
        plots.draw(made.plots[0], made.rows, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert b"<dc:date>" not in (tmp_path / "a").read_bytes()
