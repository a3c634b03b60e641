"""One problem, all contestants: verified against each other, then timed in turns, each beside the physical limit."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import torch

from benchmarks import limits, problems
from benchmarks.harness import RESULTS, Machine, Missing, Plot, Report, Row, Spread, command, in_turns
from benchmarks.peers import Peer, peers_for
from benchmarks.problems import Inputs, Problem, Run
from benchmarks.settings import TOLERANCE, Settings

LEAST, FEWEST = 5e-3, 3
"""The seconds that one measurement takes at least, and the fewest rounds."""


class Disagreement(Exception):
    """A peer's numbers are not regard's."""


@dataclass(frozen=True, eq=False)
class Contestant:
    """One way to do the work, ready to run."""

    name: str
    normalizer: str
    run: Run
    seconds: float
    """Of one call, about."""

    @property
    def key(self) -> str:
        """What tells it from all others."""
        return f"{self.name}: {self.normalizer}"


@dataclass
class Clock:
    """How long contestants have taken, to know beforehand who would take too long."""

    patience: float
    seen: dict[str, tuple[float, float]] = field(default_factory=dict)

    def too_long(self, who: str, work: float) -> bool:
        """Whether so much work would take longer than the patience lasts, time being in proportion to work."""
        before, seconds = self.seen.get(who, (work, 0.0))
        return work > before and seconds * work / before > self.patience

    def note(self, who: str, work: float, seconds: float) -> None:
        """Remember how long a call took."""
        self.seen[who] = work, seconds


def verify(found: Iterable[torch.Tensor], expected: Iterable[torch.Tensor], dtype: str) -> None:
    """Raise `Disagreement` unless results are what is expected, as far as the precision allows."""
    apart = problems.difference(found, expected)
    if not apart <= TOLERANCE[dtype]:
        raise Disagreement(
            f"refused: its results are {apart:.1e} from regard's, {TOLERANCE[dtype]} is allowed"
        )


class Contest:
    """The problems of one benchmark, run one after the other."""

    def __init__(
        self,
        settings: Settings,
        remark: Callable[[Problem, str, float], str] = lambda problem, normalizer, seconds: "",
    ) -> None:
        """`remark` says more of a case: of the problem, regard's normaliser and its seconds."""
        self.settings, self.remark = settings, remark
        self.clock, self.machine = Clock(settings.patience), Machine.here(settings.device)
        self.rows: list[Row] = []
        self.missing: list[Missing] = []

    def run(self, problem: Problem, normalizers: Iterable[str], panel: str = "") -> None:
        """Let regard's normalisers and their peers compete; keep the rows. In `panel`, {} is the normaliser."""
        if "torch._dynamo" in sys.modules:  # what was compiled for other problems counts against this one
            torch.compiler.reset()
        inputs, names = problems.inputs_of(problem), tuple(normalizers)
        ours = [
            one
            for name in names
            if (one := self._ready("regard", name, problem, lambda n=name: _first(problem, inputs, n)))
        ]
        if not ours:
            return
        peers = [
            one
            for peer in peers_for(problem)
            if peer.normalizer in (*names, "softmax") and (one := self._peer(peer, problem, inputs, ours))
        ]
        seconds = self._times([*ours, *peers])
        length = max(problem.queries, problem.keys)
        for mine in ours:
            for row in self._rows(problem, inputs, mine, peers, seconds):
                self.rows.append(replace(row, panel=panel.format(mine.normalizer), length=length))
                print(
                    f"{row.case}: {row.regard} {row.unit}, {row.peer or 'no peer'} {row.ratio or ''}",
                    flush=True,
                )

    def publish(self, name: str, title: str, about: str, plots: tuple[Plot, ...] = ()) -> None:
        """Write what was found; after a quick run it stays out of the documentation."""
        about = (
            f"{about} {limits.described(self.settings)} {self.settings.dtype}; contestants agree to "
            f"{TOLERANCE[self.settings.dtype]:g} (norm of the difference over that of the result) before they are "
            f"timed, in turns."
        )
        rows, missing = tuple(self.rows), tuple(self.missing)
        report = Report(name, title, about, "lower", command(), self.machine, rows, missing, plots, grid=True)
        if self.settings.quick:
            report.keep(RESULTS / "quick")
        else:
            report.publish()

    def _peer(
        self, peer: Peer, problem: Problem, inputs: Inputs, ours: list[Contestant]
    ) -> Contestant | None:
        """The peer, once it has shown that it computes what regard does."""
        why = peer.refuse(problem)
        if not why and peer.bytes(problem) > limits.free_memory(problem.device) / 2:
            why = "would need more than half of the free memory"
        if why:
            self.missing.append(Missing(peer.name, problem.case(peer.normalizer), why))
            return None
        same = [one.run for one in ours if one.normalizer == peer.normalizer]

        def prepare() -> Run:
            run = peer.prepare(inputs, problem)
            if same:
                verify(run(), same[0](), problem.dtype)
            else:  # regard does something else here: the last queries are enough
                few = inputs.last(problems.SAMPLE)
                tail = [part[..., -problems.SAMPLE :, :] for part in run()[:2]]
                verify(tail, _blockwise(problem, few, peer.normalizer)[: len(tail)], problem.dtype)
            return run

        try:
            return self._ready(peer.name, peer.normalizer, problem, prepare)
        except Exception as error:  # whatever keeps a peer from running is told in the table
            first = next(iter(str(error).strip().splitlines()), "")[:200].replace("|", "/")
            why = first if isinstance(error, Disagreement) else f"{type(error).__name__}: {first}"
            print(f"{peer.name}, {problem.case(peer.normalizer)}: {why}", file=sys.stderr, flush=True)
            self.missing.append(Missing(peer.name, problem.case(peer.normalizer), why))
            return None

    def _ready(
        self, name: str, normalizer: str, problem: Problem, prepare: Callable[[], Run]
    ) -> Contestant | None:
        """Prepare a contestant, which runs it once, and run it once more for its time; None if that takes too long."""
        who = f"{name}: {problem.score}/{normalizer}, {problem.what}, {problem.mask}, {problem.kind}"
        work = problem.pairs * problem.size
        if self.clock.too_long(who, work):
            why = f"would take longer than {self.clock.patience:.3g} s a call"
            self.missing.append(Missing(name, problem.case(normalizer), why))
            return None
        run = prepare()
        self._finish()
        start = time.perf_counter()
        run()
        self._finish()
        seconds = time.perf_counter() - start
        self.clock.note(who, work, seconds)
        return Contestant(name, normalizer, run, seconds)

    def _finish(self) -> None:
        if self.settings.device.startswith("cuda"):
            torch.cuda.synchronize(self.settings.device)

    def _times(self, contestants: list[Contestant]) -> dict[str, list[float]]:
        repeat = {one.key: max(1, int(LEAST / max(one.seconds, 1e-6))) for one in contestants}
        once = sum(one.seconds * repeat[one.key] for one in contestants)
        rounds = min(max(int(self.settings.seconds / once), FEWEST), self.settings.rounds)
        runs = {one.key: functools.partial(_turn, one.run) for one in contestants}
        return in_turns(runs, rounds, warm_up=int(once < 1), repeat=repeat, finish=self._finish)

    def _rows(
        self,
        problem: Problem,
        inputs: Inputs,
        mine: Contestant,
        peers: list[Contestant],
        seconds: dict[str, list[float]],
    ) -> list[Row]:
        """Regard beside each peer of the same normaliser, and beside softmax."""
        figures = {key: [1e3 * value for value in values] for key, values in seconds.items()}
        case, ours = problem.case(mine.normalizer), figures[mine.key]
        support = problems.support_of(problem, inputs, mine.normalizer)
        limit = 1e3 * limits.limit_of(limits.work_of(problem, mine.normalizer, support), self.settings)
        kept = f"{support:.3g} keys a query" if mine.normalizer != "softmax" else ""
        told = self.remark(problem, mine.normalizer, Spread.of(ours).median / 1e3)
        backend = problems.backend_of(problem, inputs, mine.normalizer)
        note = "; ".join(part for part in (told, kept, backend) if part)
        rows = [
            Row.of(case, "ms", ours, peer.name, figures[peer.key], note)
            for peer in peers
            if peer.normalizer in (mine.normalizer, "softmax")
        ]
        alone = [Row(case, "ms", Spread.of(ours), len(ours), note=note)]
        return [replace(row, limit=limit) for row in rows or alone]


def _first(problem: Problem, inputs: Inputs, normalizer: str) -> Run:
    run = problems.regard_run(problem, inputs, normalizer)
    run()
    return run


def _blockwise(problem: Problem, inputs: Inputs, normalizer: str) -> tuple[torch.Tensor, ...]:
    """What regard's plain backend computes: where it hands softmax to PyTorch, PyTorch would verify itself."""
    return problems.regard_run(problem, inputs, normalizer, "blockwise")()


def _turn(run: Run, _: int) -> object:
    return run()
