"""Peak memory of regard and its peers, forward and backward, each in a fresh process: additive and sparse attention."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Sequence

import torch

from benchmarks.harness import RESULTS, Machine, Missing, Report, Row, Spread, command
from benchmarks.limits import free_memory
from benchmarks.memory import in_fresh_process, peak
from benchmarks.peers import COMPILED, PEERS, Peer, peers_for
from benchmarks.problems import Problem, Run, backend_of, inputs_of, regard_run
from benchmarks.settings import Settings, asked

LENGTHS = (1024, 4096, 16384)
MECHANISMS = (
    ("additive", "softmax"),
    ("scaled_dot", "sparsemax"),
    ("scaled_dot", "entmax15"),
    ("scaled_dot", "top-8"),
)
LONGEST = 300.0
"""Seconds that a process may take."""
SMALL = 64
"""The length on which a contestant loads its code before it is weighed."""


def problem(score: str, length: int, device: str, dtype: str) -> Problem:
    """Size 64: one head of additive scores, eight of products."""
    heads = 1 if score == "additive" else 8
    return Problem(score, heads, length, length, 64, 64, gradients=True, device=device, dtype=dtype)


def weigh(who: str, normalizer: str, asked: Problem) -> float:
    """Run a problem in this process; MiB."""
    found = [
        peer for peer in PEERS if (peer.name, peer.score, peer.normalizer) == (who, asked.score, normalizer)
    ]

    def ready(given: Problem) -> Run:
        inputs = inputs_of(given)
        return found[0].prepare(inputs, given) if found else regard_run(given, inputs, normalizer)

    run = ready(asked)
    if found and who.startswith((COMPILED, "Keras", "Flex")):
        run()  # what is compiled is compiled for its lengths
    else:
        ready(problem(asked.score, SMALL, asked.device, asked.dtype))()
    gc.collect()
    if asked.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(asked.device)
        before = torch.cuda.memory_allocated(asked.device)
        returned = sum(tensor.nbytes for tensor in run())
        return (torch.cuda.max_memory_allocated(asked.device) - before - returned) / 2**20
    return peak(run)


def _weighed(who: str, normalizer: str, given: Problem, settings: Settings) -> float | str:
    """MiB, or why there are none."""
    spelt = [who, given.score, normalizer, str(given.queries)]
    try:
        return in_fresh_process(
            "memory_of_peers", *spelt, str(settings.threads), given.device, given.dtype, timeout=LONGEST
        )
    except subprocess.TimeoutExpired:
        return f"would take longer than {LONGEST:.0f} s"
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or [""])[-1][:200]
        return f"ended with status {error.returncode}: {last}"


def _refused(peer: Peer, given: Problem) -> str:
    if peer.bytes(given) > free_memory(given.device) / 2:
        return "would need more than half of the free memory"
    return peer.refuse(given)


def compare(
    score: str, normalizer: str, given: Problem, settings: Settings
) -> tuple[list[Row], list[Missing]]:
    """Weigh regard and every peer of the mechanism, and softmax."""
    case = given.case(normalizer)
    mine = _weighed("regard", normalizer, given, settings)
    if isinstance(mine, str):
        return [], [Missing("regard", case, mine)]
    rows, missing = [], []
    backend = backend_of(given, inputs_of(given), normalizer)
    for peer in peers_for(given):
        if peer.normalizer not in (normalizer, "softmax"):
            continue
        other = _refused(peer, given) or _weighed(peer.name, peer.normalizer, given, settings)
        if isinstance(other, str):
            missing.append(Missing(peer.name, given.case(peer.normalizer), other))
        else:
            rows.append(Row.of(case, "MiB", [mine], peer.name, [other], backend))
            print(f"{case}: {mine:.1f} MiB, {peer.name} {other:.1f} MiB", flush=True)
    return rows or [Row(case, "MiB", Spread.of([mine]), 1, note=backend)], missing


def one(arguments: Sequence[str]) -> None:
    """What a fresh process does: weigh one contestant and print MiB."""
    who, score, normalizer, length, threads, device, dtype = arguments
    torch.set_num_threads(int(threads))
    print(json.dumps(weigh(who, normalizer, problem(score, int(length), device, dtype))))


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2:])
        return
    settings = asked("memory_of_peers", __doc__)
    machine = Machine.here(settings.device)
    rows: list[Row] = []
    missing: list[Missing] = []
    for score, normalizer in MECHANISMS[:2] if settings.quick else MECHANISMS:
        for length in LENGTHS[:1] if settings.quick else LENGTHS:
            given = problem(score, length, settings.device, settings.dtype)
            found, absent = compare(score, normalizer, given, settings)
            rows += found
            missing += absent
    report = Report(
        "memory_of_peers",
        "Memory beside peers",
        "Peak memory of attention forward and backward beyond inputs, output and gradients, batch 1, "
        f"{settings.dtype}, each call once in a fresh process: resident memory, with what the allocator keeps for "
        "reuse. SDPA computes softmax, another mechanism than the sparse ones. That the peers compute the same is "
        "checked where they are timed, above.",
        "lower",
        command(),
        machine,
        tuple(rows),
        tuple(missing),
    )
    if settings.quick:
        report.keep(RESULTS / "quick")
    else:
        report.publish()


if __name__ == "__main__":
    main()
