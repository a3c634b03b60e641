"""The harness: ratios are taken round by round, turns rotate, and what is kept can be read back."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def harness():
    path = Path(__file__).parents[2] / "benchmarks" / "harness.py"
    spec = importlib.util.spec_from_file_location("benchmarks_harness", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_the_ratio_is_taken_within_each_round(harness):
    row = harness.Row.of("case", "s", [1.0, 10.0, 100.0], "peer", [2.0, 20.0, 200.0])
    assert row.ratio == harness.Spread(0.5, 0.5, 0.5)
    assert row.regard.median == 10.0


def test_contestants_take_turns_at_going_first(harness):
    seen = []
    seconds = harness.in_turns({name: lambda _, name=name: seen.append(name) for name in "ab"}, 2, warm_up=0)
    assert "".join(seen) == "abba"
    assert [len(times) for times in seconds.values()] == [2, 2]


def test_a_report_is_published_and_read_back(harness, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(harness, "PAGE", tmp_path / "docs" / "performance.md")
    row = harness.Row.of("case", "MiB", [3.0, 4.0], "peer", [1.5, 2.0])
    report = harness.Report(
        "memory", "Memory", "About.", "lower", "python -m benchmarks.memory", harness.Machine.here(), (row,)
    )
    report.publish()
    assert harness.Report.read(tmp_path / "results" / "memory.jsonl") == report
    shown = (tmp_path / "docs" / "performance.md").read_text(encoding="utf-8")
    assert "python -m benchmarks.memory" in shown
    assert "**2.00**" in shown
    assert "**2.00**" in capsys.readouterr().out
