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

from benchmarks.tables import grid_table, missing_table, number, rows_table

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
PICTURES = "pictures/performance"
"""Where the plots are, from the page."""
ORDER = (
    "additive",
    "sparse",
    "dense",
    "decoding",
    "graph",
    "memory_of_peers",
    "training_throughput",
    "translation_decoding",
    "memory",
    "operator_overhead",
    "import_time",
)
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
    accelerator: str = ""

    @classmethod
    def here(cls, device: str = "cpu") -> Machine:
        """This machine, with the threads that PyTorch uses now, and the accelerator where the work is done there."""
        return cls(
            cpu=_cpu(),
            cores=os.cpu_count() or 1,
            threads=torch.get_num_threads(),
            load=round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else 0.0,
            system=f"{platform.system()} {platform.machine()}",
            python=platform.python_version(),
            torch=torch.__version__,
            accelerator="" if device == "cpu" else torch.cuda.get_device_name(device),
        )

    def __str__(self) -> str:
        accelerator = f"{self.accelerator}; " if self.accelerator else ""
        return (
            f"{accelerator}{self.cpu}, {self.cores} cores, {self.threads} threads, load {self.load} at the start; "
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
            return number(self.median)
        return f"{number(self.median)} ({number(self.low)} to {number(self.high)})"


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
    limit: float | None = None
    """The least figure that the hardware allows."""
    panel: str = ""
    """The panel of a plot in which the row stands; none when empty."""
    length: int = 0

    @property
    def share(self) -> float | None:
        """How much of the physical limit is reached, at most 1."""
        return None if self.limit is None else self.limit / self.regard.median

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
class Missing:
    """A contestant that did not run a case, and why not."""

    who: str
    case: str
    why: str


@dataclass(frozen=True)
class Plot:
    """A picture of figures against length, with a panel for each group of rows."""

    file: str
    title: str
    panels: tuple[str, ...]


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
    missing: tuple[Missing, ...] = ()
    plots: tuple[Plot, ...] = ()
    grid: bool = False
    """Whether the table has a line for each case and a column for each peer."""

    def markdown(self) -> str:
        """A section with the command and the machine above a table."""
        ratio = (
            "below a peer stands its figure over regard's, more is better"
            if self.grid
            else f"for the ratio, {self.better} is better"
        )
        lines = [
            f"## {self.title}",
            self.about,
            f"```\n{self.command}\n```",
            f"{self.machine}. Medians with quartiles; {ratio}.",
            *(f"![{plot.title}]({PICTURES}/{plot.file})" for plot in self.plots),
            self.table(),
            *([missing_table(self.missing)] if self.missing else []),
        ]
        return "\n\n".join(lines) + "\n"

    def table(self) -> str:
        """The rows as a Markdown table."""
        return grid_table(self.rows) if self.grid else rows_table(self.rows)

    def publish(self) -> None:
        """Print the table, keep the rows as JSON lines, draw the plots and bring docs/performance.md up to date."""
        self.keep(RESULTS)
        for plot in self.plots:
            from benchmarks.plots import draw

            draw(plot, self.rows, PAGE.parent / PICTURES / plot.file)
        _replace(PAGE, page())

    def keep(self, folder: Path) -> None:
        """Print the table and write the rows into a folder, as JSON lines."""
        absent = f"\n\n{missing_table(self.missing)}" if self.missing else ""
        print(f"\n{self.title}\n{self.machine}\n\n{self.table()}{absent}\n", flush=True)
        parts = {"missing": self.missing, "row": self.rows}
        lines = [{**asdict(replace(self, rows=(), missing=())), "kind": "run"}]
        lines += [{"kind": kind, **asdict(one)} for kind, some in parts.items() for one in some]
        _replace(folder / f"{self.benchmark}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))

    @classmethod
    def read(cls, path: Path) -> Report:
        """What `publish` kept."""
        head, *lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        kinds = [line.pop("kind") for line in (head, *lines)][1:]
        head["machine"] = Machine(**head["machine"])
        head["plots"] = tuple(
            Plot(plot["file"], plot["title"], tuple(plot["panels"])) for plot in head.get("plots", ())
        )
        head["rows"] = tuple(_row(line) for line, kind in zip(lines, kinds, strict=True) if kind == "row")
        head["missing"] = tuple(
            Missing(**line) for line, kind in zip(lines, kinds, strict=True) if kind == "missing"
        )
        return cls(**head)


def in_turns(
    contestants: Mapping[str, Callable[[int], object]],
    rounds: int,
    *,
    warm_up: int = 1,
    repeat: int | Mapping[str, int] = 1,
    finish: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Call every contestant with the number of each round, `repeat` times, and return the seconds of one call.

    The first of a round is the second of the next, so none always runs in the wake of the same other. `finish` waits
    for work that goes on elsewhere, as on a GPU.
    """
    names = list(contestants)
    times = repeat if isinstance(repeat, Mapping) else dict.fromkeys(names, repeat)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warm_up, rounds):
        first = turn % len(names)
        for name in (*names[first:], *names[:first]):
            run = contestants[name]
            gc.collect()
            gc.disable()
            finish()
            start = time.perf_counter()
            for _ in range(times[name]):
                run(max(turn, 0))
            finish()
            elapsed = time.perf_counter() - start
            gc.enable()
            if turn >= 0:
                seconds[name].append(elapsed / times[name])
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
    for name in ("regard", "peer_value", "ratio"):
        if fields[name] is not None:
            fields[name] = Spread(**fields[name])
    return Row(**fields)


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                widest = " with AVX-512" if "AVX512" in torch.backends.cpu.get_cpu_capability() else ""
                return line.partition(":")[2].strip() + widest
    return platform.processor() or platform.machine()
