"""Additive (Bahdanau) attention: scores, forward, and forward and backward, against length and head size."""

from __future__ import annotations

from benchmarks.contest import Contest
from benchmarks.harness import Plot
from benchmarks.problems import Problem
from benchmarks.settings import Settings, asked
from benchmarks.tables import number

SIZE, LENGTH = 64, 1024
PANELS = ("scores, forward", "attention, forward", "attention, forward and backward")


def per_element(problem: Problem, _: str, seconds: float) -> str:
    """The time for one channel of one pair of query and key."""
    return f"{number(1e9 * seconds / (problem.pairs * problem.size))} ns"


def problem(settings: Settings, length: int, size: int, panel: str) -> Problem:
    """One head; for the scores alone the values have one channel, so that summing them is next to nothing."""
    value_size = 1 if panel == PANELS[0] else size
    return Problem(
        "additive",
        1,
        length,
        length,
        size,
        value_size,
        gradients=panel == PANELS[2],
        device=settings.device,
        dtype=settings.dtype,
    )


def main() -> None:
    settings = asked("additive", __doc__)
    contest = Contest(settings, per_element)
    for panel in PANELS:
        for length in settings.lengths:
            contest.run(problem(settings, length, SIZE, panel), ["softmax"], panel)
        for size in settings.sizes:
            contest.run(problem(settings, LENGTH, size, panel), ["softmax"])
    contest.publish(
        "additive",
        "Additive attention",
        "The time of `regard.attend` with the score v · tanh(q + k), batch 1, 1 head. The nanoseconds are for one "
        "channel of one pair of query and key. The scores have values of one channel, which cost next to nothing. "
        "Eagerly the sum over channels is a matrix product, which is faster there; for the compiler it is written as a "
        "sum, which it joins with the tanh.",
        (Plot("additive.svg", "Additive attention: time against length, size 64", PANELS),),
    )


if __name__ == "__main__":
    main()
