"""What training says while it runs."""

from __future__ import annotations

import io

import pytest

from regard.training import progress as module
from regard.training.checkpoints import State
from regard.training.progress import Progress, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


RECORD = {"loss": 2.5, "learning_rate": 1e-3, "tokens_per_second": 12345.6}


def drive(stream: io.StringIO, show: bool = True) -> str:
    with Progress("BLEU", show=show, stream=stream) as progress:
        progress.step(State(step=1), 0.1)
        progress.trained(RECORD)
        progress.step(State(step=50, seconds=30.0), 0.5)
        progress.step(State(step=51, seconds=30.0), 0.5)
        progress.evaluated(State(step=60, epoch=1, seconds=75.0), 31.25, True)
        progress.evaluated(
            State(step=61, epoch=1, seconds=75.1), 31.24, False
        )  # too soon for a line of its own
    return stream.getvalue()


def test_plain_lines_come_at_intervals() -> None:
    lines = drive(io.StringIO()).splitlines()
    assert lines == [
        "step 50  epoch 1  loss 2.5000  learning rate 1.00e-03  12,346 tokens/s  30 s left",
        "step 60  epoch 1  BLEU 31.25  (best so far)  1 min 15 s",
    ]


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BAR_EVERY", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    text = drive(Terminal())
    assert "step 51" in text
    assert "30 s left" in text
    assert "BLEU 31.25" in text


def test_nothing_where_nothing_is_wanted() -> None:
    assert drive(io.StringIO(), show=False) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (75, "1 min 15 s"), (3599.6, "1 h 00 min"), (7384, "2 h 03 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
