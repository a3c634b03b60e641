"""Peak memory of attention forward and backward as the length grows, each call in a fresh process.

What is counted is the process's highest resident memory during the call, above what it held just before, and less
the output and the gradients that the call must return.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

import regard
from benchmarks import formulas
from benchmarks.harness import Machine, Report, Row, Spread, command
from regard.attention.scores import SCORES

HEADS, SIZE = 4, 32
LENGTHS = (1024, 2048, 4096, 8192)
PEER = "the formula in plain PyTorch"
PEER_LONGEST = 4096
COPIES = 4
"""How many tensors of its largest size the plain formula holds at once, roughly: to know what cannot fit."""


@dataclass(frozen=True)
class Call:
    """One attention call to weigh."""

    way: str
    """"regard" or "formula"."""
    score: str
    length: int


def measure(call: Call) -> float:
    """Run the call in this process, once; return MiB."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    _run(call.way, call.score, 16)  # loads the code that the call needs
    tensors, learned = _inputs(call.score, call.length)
    gradient = torch.randn(1, HEADS, call.length, SIZE)
    _forget_peak()
    before = _resident("VmRSS")
    output = _attend(call.way, call.score, tensors, learned)
    output.backward(gradient)
    returned = sum(t.numel() * t.element_size() for t in (output, *tensors, *learned.values()))
    return (_resident("VmHWM") - before - returned) / 2**20


def _inputs(score: str, length: int) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    tensors = [torch.randn(1, HEADS, length, SIZE).requires_grad_() for _ in range(3)]
    learned = {name: t.requires_grad_() for name, t in SCORES[score].initial(HEADS, SIZE).items()}  # type: ignore[attr-defined]
    return tensors, learned


def _attend(
    way: str, score: str, tensors: list[torch.Tensor], learned: dict[str, torch.Tensor]
) -> torch.Tensor:
    query, key, value = tensors
    if way == "formula":
        return formulas.attend(query, key, value, score, "softmax", **learned)
    return regard.attend(query, key, value, score=SCORES[score](**learned))


def _run(way: str, score: str, length: int) -> None:
    output = _attend(way, score, *_inputs(score, length))
    output.backward(torch.ones_like(output))


def _forget_peak() -> None:
    """Let the system's record of the highest resident memory start again (Linux)."""
    with contextlib.suppress(
        OSError
    ):  # where refused, it goes back to the start, when less was held than now
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _resident(name: str) -> int:
    """Bytes resident now (VmRSS) or at most so far (VmHWM)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def _in_fresh_process(call: Call) -> float:
    arguments = ["--one", call.way, call.score, str(call.length)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(json.loads(done.stdout))


def _fits(score: str, length: int) -> bool:
    """Whether the plain formula's tensors fit into half the memory that is free."""
    needed = COPIES * HEADS * length**2 * SCORES[score]().width(SIZE) * 4
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return needed < 4 * 2**30
    line = next(
        li for li in meminfo.read_text(encoding="ascii").splitlines() if li.startswith("MemAvailable")
    )
    return needed < int(line.split()[1]) * 1024 / 2


def _rows(score: str, lengths: tuple[int, ...]) -> list[Row]:
    rows, last = [], 0.0
    for length in lengths:
        mine = max(_in_fresh_process(Call("regard", score, length)), 0.01)
        note = f"{mine / last:.2f} x the line above" if last else ""
        case, last = f"{score}/softmax, {length} tokens", mine
        if length <= PEER_LONGEST and _fits(score, length):
            other = _in_fresh_process(Call("formula", score, length))
            rows.append(Row.of(case, "MiB", [mine], PEER, [other], note))
        else:
            rows.append(Row(case, "MiB", Spread.of([mine]), 1, note=note))
        print(f"{case}: {mine:.1f} MiB {note}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--scores", nargs="*", default=list(SCORES), choices=list(SCORES))
    parser.add_argument(
        "--longest",
        type=int,
        default=LENGTHS[-1],
        help=f"leave longer calls than this out (up to {LENGTHS[-1]}; scores that are no product take a minute there)",
    )
    parser.add_argument(
        "--one", nargs=3, metavar=("WAY", "SCORE", "LENGTH"), help="weigh one call, print MiB"
    )
    asked = parser.parse_args()
    if asked.one:
        way, score, length = asked.one
        print(json.dumps(measure(Call(way, score, int(length)))))
        return
    torch.set_num_threads(1)
    machine = Machine.here()
    rows = [
        row
        for score in asked.scores
        for row in _rows(score, tuple(length for length in LENGTHS if length <= asked.longest))
    ]
    Report(
        "memory",
        "Memory",
        f"Peak memory of `regard.attend` forward and backward, beyond its inputs, output and gradients: batch 1, "
        f"{HEADS} heads of {SIZE}, float32, each call once in a fresh process: resident "
        f"memory, with what the allocator keeps for reuse. Linear memory at most doubles from one "
        f"line to the next; {PEER} quadruples, and is left out where it would not fit.",
        "lower",
        command(),
        machine,
        tuple(rows),
    ).publish()


if __name__ == "__main__":
    main()
