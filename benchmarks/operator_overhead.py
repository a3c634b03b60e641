"""What `regard.attend` costs beside PyTorch's fused attention or, where nothing is fused, beside the plain formula."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import regard
from benchmarks import formulas
from benchmarks.harness import Machine, Report, Row, Spread, command, in_turns
from regard.attention.parts import named_tensors
from regard.attention.scores import SCORES

FUSED = "torch scaled_dot_product_attention"
FORMULA = "the formula in plain PyTorch"


@dataclass(frozen=True)
class Case:
    """One attention call. *Shape*: query, key and value `(1, heads, length, size)`."""

    mechanism: str
    heads: int
    length: int
    size: int
    peer: str
    repeat: int = 1
    backend: str | None = None
    """The backend that regard is told to take; None: its own choice."""

    def __str__(self) -> str:
        by = f" by {self.backend}" if self.backend else ""
        return f"{self.mechanism}{by}, {self.length} tokens, {self.heads} x {self.size}"


CASES = (
    Case("scaled_dot/softmax", 1, 32, 64, FUSED, repeat=200),
    Case("scaled_dot/softmax/causal", 1, 32, 64, FUSED, repeat=200),
    Case("scaled_dot/softmax", 8, 2048, 64, FUSED),
    Case("scaled_dot/softmax", 8, 1024, 64, FORMULA, backend="blockwise"),
    Case("scaled_dot/sparsemax", 8, 512, 64, FORMULA),
    Case("additive/softmax", 4, 256, 32, FORMULA),
    Case("additive/sparsemax", 4, 256, 32, FORMULA),
)


def row(case: Case, *, gradients: bool, rounds: int) -> Row:
    """Measure one case, forward alone or forward and backward."""
    score, normalizer, *causal = case.mechanism.split("/")
    mask = regard.masks.causal() if causal else None
    torch.manual_seed(0)
    inputs = [torch.randn(1, case.heads, case.length, case.size) for _ in range(3)]
    named = SCORES[score]().learn(case.heads, case.size)
    learned = named_tensors(named)
    for tensor in (*inputs, *learned.values()):
        tensor.requires_grad_(gradients)
    gradient = torch.randn_like(inputs[0])

    def ours() -> Tensor:
        return regard.attend(*inputs, score=named, normalizer=normalizer, mask=mask, backend=case.backend)

    def fused() -> Tensor:
        return scaled_dot_product_attention(*inputs, is_causal=mask is not None)

    def formula() -> Tensor:
        return formulas.attend(*inputs, score, normalizer, **learned)

    def run(forward: Callable[[], Tensor]) -> Callable[[int], object]:
        if not gradients:
            return lambda _: forward()
        return lambda _: torch.autograd.grad(forward(), (*inputs, *learned.values()), gradient)

    peer = fused if case.peer == FUSED else formula
    torch.testing.assert_close(ours(), peer(), rtol=1e-3, atol=1e-4)
    seconds = in_turns({"regard": run(ours), "peer": run(peer)}, rounds, warm_up=2, repeat=case.repeat)
    small = case.repeat > 1
    mine, other = (
        [value * (1e6 if small else 1e3) for value in seconds[name]] for name in ("regard", "peer")
    )
    over = Spread.of([one - two for one, two in zip(mine, other, strict=True)]).median
    what = "forward and backward" if gradients else "forward"
    return Row.of(
        f"{case}, {what}", "µs" if small else "ms", mine, case.peer, other, f"{over:+.1f} µs" if small else ""
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operator_overhead", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    machine, rows = Machine.here(), []
    for case in CASES:
        for gradients in (False, True):
            rows.append(row(case, gradients=gradients, rounds=asked.rounds))
            print(f"{rows[-1].case}: {rows[-1].ratio}", flush=True)
    Report(
        "operator_overhead",
        "The operator",
        "The time of `regard.attend`, batch 1, float32. The formula in plain PyTorch writes every intermediate out, "
        "so its memory is quadratic in length where regard's is linear.",
        "lower",
        command(),
        machine,
        tuple(rows),
    ).publish()


if __name__ == "__main__":
    main()
