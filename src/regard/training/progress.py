"""What training says while it runs: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from regard.training.checkpoints import State

# Seconds at least between two updates of the bar, two plain lines, and two lines of evaluations.
BAR_EVERY = 0.2
LINE_EVERY = 10.0
EVALUATION_EVERY = 1.0


class Progress:
    """Shows step, epoch, loss, learning rate, tokens per second, the metric, and the time left."""

    def __init__(self, metric: str, *, show: bool = True, stream: TextIO | None = None) -> None:
        self.metric = metric
        self.stream = stream or sys.stderr
        self.show = show
        self._bar: Any = None
        self._next = 0.0
        self._next_evaluation = 0.0
        self._facts: dict[str, str] = {}

    def __enter__(self) -> Progress:
        if self.show and self.stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TaskProgressColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = (BarColumn(bar_width=20), TaskProgressColumn(), TextColumn("{task.description}"))
            self._bar = Bar(*columns, console=Console(file=self.stream), transient=True, auto_refresh=False)
            self._bar.add_task("", total=1.0)
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, state: State, share: float) -> None:
        """Show how far training has come; `share` of the budget is spent."""
        now = time.monotonic()
        if not self.show or now < self._next:
            return
        facts = [f"step {state.step}", f"epoch {state.epoch + 1}", *self._facts.values()]
        if share > 0:
            facts.append(f"{duration(state.seconds * (1 - share) / share)} left")
        if self._bar is not None:
            self._next = now + BAR_EVERY
            self._bar.update(
                self._bar.task_ids[0], completed=share, description="  ".join(facts), refresh=True
            )
        else:
            if self._facts:
                self._say("  ".join(facts))
            self._next = now + (LINE_EVERY if self._facts else 0.0)

    def trained(self, record: dict[str, Any]) -> None:
        """Remember a training record for the next update."""
        self._facts["loss"] = f"loss {record['loss']:.4f}"
        self._facts["rate"] = f"learning rate {record['learning_rate']:.2e}"
        self._facts["speed"] = f"{record['tokens_per_second']:,.0f} tokens/s"

    def evaluated(self, state: State, value: float, better: bool) -> None:
        """Say the metric of an evaluation."""
        self._facts["metric"] = f"{self.metric} {value:.4g}"
        now = time.monotonic()
        if now < self._next_evaluation:
            return
        self._next_evaluation = now + EVALUATION_EVERY
        best = "  (best so far)" if better else ""
        self.say(
            f"step {state.step}  epoch {state.epoch}  {self.metric} {value:.4g}{best}  {duration(state.seconds)}"
        )

    def say(self, line: str) -> None:
        """Print a line that stays."""
        if self.show:
            self._say(line)

    def _say(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=self.stream, flush=True)


def duration(seconds: float) -> str:
    """Seconds as people say them.

    Example:
        >>> duration(3725)
        '1 h 02 min'
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
