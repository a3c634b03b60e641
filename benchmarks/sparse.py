"""Sparse attention (sparsemax, entmax, top-k) on scaled dot products, beside softmax and the `entmax` package."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.contest import Contest
from benchmarks.harness import Plot
from benchmarks.problems import KINDS, Problem
from benchmarks.settings import asked

HEADS, SIZE, LENGTH = 8, 64, 1024
NORMALIZERS = ("sparsemax", "entmax15", "entmax-1.3", "top-8")


def main() -> None:
    settings = asked("sparse", __doc__)
    contest = Contest(settings)
    for gradients in (False, True):
        for length in settings.lengths:
            problem = Problem(
                "scaled_dot", HEADS, length, length, SIZE, SIZE, gradients,
                device=settings.device, dtype=settings.dtype,
            )  # fmt: skip
            contest.run(problem, NORMALIZERS, f"{{}}, {problem.what}")
        if settings.quick and not gradients:
            continue
        some = problem if settings.quick else replace(problem, queries=LENGTH, keys=LENGTH)
        for kind in list(KINDS)[1:]:
            contest.run(replace(some, kind=kind), NORMALIZERS)
        contest.run(replace(some, mask="causal"), NORMALIZERS)
        for size in settings.sizes:
            contest.run(replace(some, size=size, value_size=size), NORMALIZERS)
    plots = tuple(
        Plot(
            file, f"Sparse attention {what}: time against length", tuple(f"{n}, {what}" for n in NORMALIZERS)
        )
        for file, what in (
            ("sparse-forward.svg", "forward"),
            ("sparse-backward.svg", "forward and backward"),
        )
    )
    contest.publish(
        "sparse",
        "Sparse attention",
        f"The time of `regard.attend` with scaled dot products, batch 1, {HEADS} heads. Scores are random (normal), "
        "unless a line says: peaked, eight times as large; all equal, so that every key of sparsemax and entmax gets "
        "weight; one huge, so that a single key gets it. PyTorch's SDPA and FlexAttention compute softmax, another "
        "mechanism, on the same tensors: what one would take without sparsity. The functions of the entmax package are "
        "applied to dense scores (sparsemax, entmax15, and entmax_bisect for alpha 1.3).",
        plots,
    )


if __name__ == "__main__":
    main()
