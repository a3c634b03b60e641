"""Attention along the edges of a random graph, beside gathering and scattering."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.contest import Contest
from benchmarks.problems import Problem
from benchmarks.settings import asked
from benchmarks.tables import number

NODES, EDGES, HEADS, SIZE = 10_000, 8, 4, 64


def per_edge(problem: Problem, _: str, seconds: float) -> str:
    """The time for one edge and head."""
    return f"{number(1e9 * seconds / problem.pairs)} ns an edge and head"


def main() -> None:
    settings = asked("graph", __doc__)
    contest = Contest(settings, per_edge)
    nodes = NODES // 10 if settings.quick else NODES
    for score in ("scaled_dot", "additive"):
        problem = Problem(
            score, HEADS, nodes, nodes, SIZE, SIZE, mask=f"edges-{EDGES}",
            device=settings.device, dtype=settings.dtype,
        )  # fmt: skip
        for gradients in (False, True):
            contest.run(replace(problem, gradients=gradients), ["softmax"])
    contest.publish(
        "graph",
        "Attention along edges",
        f"The time of `regard.attend` with `regard.masks.edges`: a random graph of {nodes:,} nodes and {EDGES} edges a "
        f"node, {HEADS} heads of {SIZE}; the mask is made before. The peer gathers queries, keys and values of all "
        "edges, and scatters maxima, sums and outputs to their targets.",
    )


if __name__ == "__main__":
    main()
