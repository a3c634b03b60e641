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
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import regard
from benchmarks import formulas
from benchmarks.harness import Machine, Report, Row, Spread, command
from benchmarks.limits import free_memory
from regard.attention.biases import BIASES
from regard.attention.masks import MASKS, Mask
from regard.attention.normalizers import NORMALIZERS
from regard.attention.scores import MODIFIERS, SCORES
from regard.layers import LearnedMechanism

HEADS, SIZE = 1, 16
LENGTHS = (1024, 4096, 16384)
EDGES = 8
"""How many edges each node of the graph has."""
PEER = "the formula in plain PyTorch"
COPIES = 4
"""How many tensors of its largest size the plain formula holds at once, roughly: to know what cannot fit."""


def mechanisms() -> list[str]:
    """Every score and modifier under softmax; every normaliser with a product, those that do not couple queries with a
    score that is none, too; every mask and bias. A word in capitals stands for a mask made for the length."""
    numbers = {"location": f"location-{LENGTHS[-1]}", "relative": "relative-64"}
    masks = {"window": "window-64", "dilated": "dilated-64-2", "prefix": "prefix-100"}
    scores = [f"{numbers.get(name, name)}/softmax" for name in SCORES]
    modified = [f"scaled_dot+{name}/softmax" for name in MODIFIERS if name != "rotary_2d"]
    weighed = [f"scaled_dot/{name}" for name in NORMALIZERS]
    weighed += [f"dot+softcap/{name}" for name, made in NORMALIZERS.items() if not made().coupled]
    masked = [f"scaled_dot/sparsemax/{masks.get(name, name)}" for name in MASKS if name != "neighbourhood"]
    made = [
        f"scaled_dot/sparsemax/{name}"
        for name in ("PADDING", "DOCUMENTS", "EDGES", "NEIGHBOURHOOD", "BLOCKS")
    ]
    added = [f"scaled_dot/softmax/{numbers.get(name, name)}" for name in BIASES if name != "relative_2d"]
    found = [*scores, "scaled_dot/softmax/causal", *modified, *weighed, *masked, *made, *added]
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Call:
    """One attention call to weigh."""

    way: str
    """"regard" or "formula"."""
    mechanism: str
    length: int


def measure(call: Call) -> float:
    """Run the call in this process, once; return MiB."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    small = Call(call.way, call.mechanism, 16)
    _attend(small, *_inputs(small)).sum().backward()  # loads the code that the call needs
    tensors, look, mask = _inputs(call)
    gradient = torch.randn(1, HEADS, call.length, SIZE)

    def both() -> list[Tensor]:
        output = _attend(call, tensors, look, mask)
        output.backward(gradient)
        return [output, *tensors, *look.parameters()]  # the gradients are as large as their tensors

    return peak(both)


def peak(run: Callable[[], Iterable[Tensor]]) -> float:
    """MiB that this process holds at most while it runs something, above what it held before, less what is returned."""
    _forget_peak()
    before = _resident("VmRSS")
    returned = sum(tensor.numel() * tensor.element_size() for tensor in run())
    return (_resident("VmHWM") - before - returned) / 2**20


def _inputs(call: Call) -> tuple[list[Tensor], LearnedMechanism, Mask | None]:
    tensors = [torch.randn(1, HEADS, call.length, SIZE).requires_grad_() for _ in range(3)]
    parts = call.mechanism.split("/")
    spelt = "/".join(part for part in parts if not part.isupper())
    made = [_mask(part, call.length) for part in parts if part.isupper()]
    return tensors, LearnedMechanism(spelt, heads=HEADS, size=SIZE), made[0] if made else None


def _mask(name: str, length: int) -> Mask:
    """The mask of this name for so many places."""
    generator, side = torch.Generator().manual_seed(0), int(length**0.5)
    offsets = torch.arange(0, length + 1, max(length // 16, 1))
    ends = torch.arange(length).repeat(EDGES)
    starts = torch.randint(length, (EDGES * length,), generator=generator)
    layout = torch.eye(16, dtype=torch.bool)
    made = {
        "PADDING": lambda: regard.masks.padding(torch.tensor([length - length // 4])),
        "DOCUMENTS": lambda: regard.masks.documents(offsets, mask=regard.masks.causal()),
        "EDGES": lambda: regard.masks.edges(torch.stack([starts, ends])),
        "NEIGHBOURHOOD": lambda: regard.masks.neighbourhood(side, length // side, 3),
        "BLOCKS": lambda: regard.masks.blocks(layout, max(length // 16, 1)),
    }
    return made[name]()


def _attend(call: Call, tensors: list[Tensor], look: LearnedMechanism, mask: Mask | None) -> Tensor:
    if call.way == "formula":
        score, normalizer = call.mechanism.split("/")
        learned = dict(look.score.named_parameters())
        return formulas.attend(*tensors, score, normalizer, **learned)
    output, _ = look(*tensors, mask)
    return output


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


def in_fresh_process(module: str, *arguments: str, timeout: float | None = None) -> float:
    """The number that `python -m benchmarks.MODULE --one ARGUMENTS` prints last."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", "--one", *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return max(float(json.loads(done.stdout.splitlines()[-1])), 0.01)


def _in_fresh_process(call: Call) -> float:
    return in_fresh_process("memory", call.way, call.mechanism, str(call.length))


def _fits(mechanism: str, length: int) -> bool:
    """Whether the plain formula's tensors fit into half the memory that is free."""
    width = SCORES[mechanism.split("/")[0]]().width(SIZE)
    return COPIES * HEADS * length**2 * width * 4 < free_memory() / 2


def _rows(mechanism: str, lengths: tuple[int, ...]) -> list[Row]:
    rows, last, score = [], 0.0, mechanism.split("/")[0]
    for length in lengths:
        mine = _in_fresh_process(Call("regard", mechanism, length))
        note = f"{mine / last:.1f} x the line above" if last else ""
        case, last = f"{mechanism}, {length} tokens", mine
        peer = mechanism == f"{score}/softmax" and score in formulas.SCORES
        if peer and length <= LENGTHS[1] and _fits(mechanism, length):
            other = _in_fresh_process(Call("formula", mechanism, length))
            rows.append(Row.of(case, "MiB", [mine], PEER, [other], note))
        else:
            rows.append(Row(case, "MiB", Spread.of([mine]), 1, note=note))
        print(f"{case}: {mine:.1f} MiB {note}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--mechanisms", nargs="*", default=mechanisms())
    parser.add_argument(
        "--longest",
        type=int,
        default=LENGTHS[-1],
        help=f"leave longer calls than this out (up to {LENGTHS[-1]}, where some take minutes)",
    )
    parser.add_argument(
        "--one", nargs=3, metavar=("WAY", "MECHANISM", "LENGTH"), help="weigh one call, print MiB"
    )
    asked = parser.parse_args()
    if asked.one:
        way, mechanism, length = asked.one
        print(json.dumps(measure(Call(way, mechanism, int(length)))))
        return
    torch.set_num_threads(1)
    machine = Machine.here()
    lengths = tuple(length for length in LENGTHS if length <= asked.longest)
    rows = [row for mechanism in asked.mechanisms for row in _rows(mechanism, lengths)]
    Report(
        "memory",
        "Memory",
        f"Peak memory of `regard.attend` forward and backward, beyond its inputs, output and gradients: batch 1, "
        f"{HEADS} head of {SIZE}, float32, each call once in a fresh process: resident memory, with what the allocator "
        f"keeps for reuse. From one line to the next the length is four times as large: linear memory at most "
        f"quadruples, and {PEER} sixteen times as much; it is left out where it would not fit. A word in capitals "
        f"is a mask made for the length: 16 documents, a graph of {EDGES} edges a node, 7 x 7 pixels of an image, 16 "
        f"blocks on the diagonal.",
        "lower",
        command(),
        machine,
        tuple(rows),
    ).publish()


if __name__ == "__main__":
    main()
