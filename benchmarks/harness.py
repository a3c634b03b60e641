"""Ratios against named peers, measured in turns in one process, with their spread; kept as JSON lines and Markdown.

A single time means little on a shared machine. Here every contestant does the same work once a round, the order
turning from round to round, and what counts is the ratio within a round: its median and quartiles.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
ORDER = ("training_throughput", "memory", "operator_overhead", "import_time")
"""Every benchmark, in the order in which it is run and shown."""


@dataclass(frozen=True)
class Machine:
    """Where a measurement was made, and how busy it was at its start."""

    cpu: str
    cores: int
    threads: int
    load: float
    system: str
    python: str
    torch: str

    @classmethod
    def here(cls) -> Machine:
        """This machine, with the threads that PyTorch uses now."""
        return cls(
            cpu=_cpu(),
            cores=os.cpu_count() or 1,
            threads=torch.get_num_threads(),
            load=round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else 0.0,
            system=f"{platform.system()} {platform.machine()}",
            python=platform.python_version(),
            torch=torch.__version__,
        )

    def __str__(self) -> str:
        return (
            f"{self.cpu}, {self.cores} cores, {self.threads} threads, load {self.load} at the start; "
            f"{self.system}, Python {self.python}, torch {self.torch}"
        )


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value, all three are that value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(low, median, high)

    def __str__(self) -> str:
        if self.low == self.high:
            return _number(self.median)
        return f"{_number(self.median)} ({_number(self.low)} to {_number(self.high)})"


@dataclass(frozen=True)
class Row:
    """One case: regard's figure, a peer's, and regard's divided by the peer's, round by round."""

    case: str
    unit: str
    regard: Spread
    rounds: int
    peer: str = ""
    peer_value: Spread | None = None
    ratio: Spread | None = None
    note: str = ""

    @classmethod
    def of(
        cls, case: str, unit: str, regard: Sequence[float], peer: str, other: Sequence[float], note: str = ""
    ) -> Row:
        """From the figures of each round, in the same order for both."""
        ratios = [one / two for one, two in zip(regard, other, strict=True)]
        return cls(
            case, unit, Spread.of(regard), len(ratios), peer, Spread.of(other), Spread.of(ratios), note
        )


@dataclass(frozen=True)
class Report:
    """All rows of one benchmark, and what is needed to make them again."""

    benchmark: str
    title: str
    about: str
    better: Literal["higher", "lower"]
    command: str
    machine: Machine
    rows: tuple[Row, ...]

    def markdown(self) -> str:
        """A section with the command and the machine above a table."""
        lines = [
            f"## {self.title}",
            self.about,
            f"```\n{self.command}\n```",
            f"{self.machine}. Medians with quartiles; for the ratio, {self.better} is better.",
            self.table(),
        ]
        return "\n\n".join(lines) + "\n"

    def table(self) -> str:
        """The rows as a Markdown table."""
        notes = any(row.note for row in self.rows)
        heads = [
            "case",
            "regard",
            "peer",
            "the peer's",
            "regard / peer",
            "rounds",
            *(["note"] if notes else []),
        ]
        cells = [heads]
        for row in self.rows:
            peer = "" if row.peer_value is None else f"{row.peer_value} {row.unit}"
            ratio = "" if row.ratio is None else _emphasised(row.ratio)
            one = [row.case, f"{row.regard} {row.unit}", row.peer, peer, ratio, str(row.rounds)]
            cells.append([*one, row.note] if notes else one)
        widths = [max(len(line[place]) for line in cells) for place in range(len(heads))]
        cells.insert(1, ["-" * width for width in widths])
        return "\n".join(
            "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
            for line in cells
        )

    def publish(self) -> None:
        """Print the table, keep the rows as JSON lines, and bring docs/performance.md up to date."""
        print(f"\n{self.title}\n{self.machine}\n\n{self.table()}\n", flush=True)
        head = {**asdict(replace(self, rows=())), "kind": "run"}
        lines = [head, *({"kind": "row", **asdict(row)} for row in self.rows)]
        _replace(RESULTS / f"{self.benchmark}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        _replace(PAGE, page())

    @classmethod
    def read(cls, path: Path) -> Report:
        """What `publish` kept."""
        head, *rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        del head["kind"]
        head["machine"] = Machine(**head["machine"])
        return cls(**{**head, "rows": tuple(_row(row) for row in rows)})


def in_turns(
    contestants: Mapping[str, Callable[[int], object]], rounds: int, *, warm_up: int = 1, repeat: int = 1
) -> dict[str, list[float]]:
    """Call every contestant with the number of each round, `repeat` times, and return the seconds of one call.

    The first of a round is the second of the next, so none always runs in the wake of the same other.
    """
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warm_up, rounds):
        first = turn % len(names)
        for name in (*names[first:], *names[:first]):
            run = contestants[name]
            gc.collect()
            gc.disable()
            start = time.perf_counter()
            for _ in range(repeat):
                run(max(turn, 0))
            elapsed = time.perf_counter() - start
            gc.enable()
            if turn >= 0:
                seconds[name].append(elapsed / repeat)
    return seconds


def command() -> str:
    """The command line that runs this process again, from the root of the repository."""
    module = Path(sys.argv[0]).stem
    return shlex.join(["python", "-m", f"benchmarks.{module}", *sys.argv[1:]])


def page() -> str:
    """docs/performance.md, from the results that are there."""
    reports = [Report.read(path) for name in ORDER if (path := RESULTS / f"{name}.jsonl").exists()]
    opening = (
        "# Performance\n\n"
        "This page is written by `python -m benchmarks`; each table is made again by the command above it. Every "
        "figure is a ratio to a named peer that did the same work in turns with regard on the same machine: the "
        "absolute figures depend on the machine and on what else it was doing, the ratios much less.\n"
    )
    return "\n".join([opening, *(report.markdown() for report in reports)])


def _row(fields: dict[str, Any]) -> Row:
    del fields["kind"]
    for name in ("regard", "peer_value", "ratio"):
        if fields[name] is not None:
            fields[name] = Spread(**fields[name])
    return Row(**fields)


def _emphasised(spread: Spread) -> str:
    """The median in bold."""
    median, *quartiles = str(spread).split(" ", 1)
    return " ".join([f"**{median}**", *quartiles])


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def _number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0:
        return "0"
    digits = 2 - int(f"{value:.2e}".partition("e")[2])
    return f"{round(value, digits):,.{max(digits, 0)}f}"


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                widest = " with AVX-512" if "AVX512" in torch.backends.cpu.get_cpu_capability() else ""
                return line.partition(":")[2].strip() + widest
    return platform.processor() or platform.machine()
