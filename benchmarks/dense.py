"""Softmax of scaled dot products on the CPU, beside PyTorch's own kernels."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.contest import Contest
from benchmarks.harness import Plot
from benchmarks.problems import Problem
from benchmarks.settings import asked

HEADS, SIZE, LENGTH = 8, 64, 1024


def main() -> None:
    settings = asked("dense", __doc__)
    contest = Contest(settings)
    for gradients in (False, True):
        for length in settings.lengths:
            problem = Problem(
                "scaled_dot", HEADS, length, length, SIZE, SIZE, gradients,
                device=settings.device, dtype=settings.dtype,
            )  # fmt: skip
            contest.run(problem, ["softmax"], problem.what)
        some = replace(problem, queries=LENGTH, keys=LENGTH)
        contest.run(replace(some, mask="causal"), ["softmax"])
        for size in settings.sizes:
            contest.run(replace(some, size=size, value_size=size), ["softmax"])
    contest.publish(
        "dense",
        "Softmax attention",
        f"The time of `regard.attend` with scaled dot products under softmax, batch 1, {HEADS} heads, beside PyTorch's "
        "`scaled_dot_product_attention` and FlexAttention. Below a million pairs of queries and keys regard calls the "
        "former itself.",
        (Plot("dense.svg", "Softmax attention: time against length", ("forward", "forward and backward")),),
    )


if __name__ == "__main__":
    main()
