"""Decoding: one query looks at a cache of keys and values, which is read from memory once."""

from __future__ import annotations

from benchmarks.contest import Contest
from benchmarks.harness import Plot
from benchmarks.problems import Problem
from benchmarks.settings import asked
from benchmarks.tables import number

HEADS, SIZE = 8, 64
LENGTHS = (1024, 2048, 4096, 8192, 16384)
MECHANISMS = (("additive", "softmax"), ("scaled_dot", "sparsemax"))


def cache_rate(problem: Problem, _: str, seconds: float) -> str:
    """How fast the whole cache goes by."""
    cached = 4 * problem.heads * problem.keys * (problem.size + problem.value_size)
    return f"{number(cached / seconds / 1e9)} GB/s"


def main() -> None:
    settings = asked("decoding", __doc__)
    contest = Contest(settings, cache_rate)
    for score, normalizer in MECHANISMS:
        for length in LENGTHS[:1] if settings.quick else LENGTHS:
            problem = Problem(
                score, HEADS, 1, length, SIZE, SIZE, device=settings.device, dtype=settings.dtype
            )
            contest.run(problem, [normalizer], f"{score}/{normalizer}")
    contest.publish(
        "decoding",
        "Decoding",
        f"The time of `regard.attend` for one query and a cache of keys and values, batch 1, {HEADS} heads of {SIZE}: "
        "the gigabytes are those of the cache, a second. Long caches do not fit the processor's own and are as slow as "
        "the memory.",
        (
            Plot(
                "decoding.svg",
                "Decoding: time against the length of the cache",
                tuple("/".join(mechanism) for mechanism in MECHANISMS),
            ),
        ),
    )


if __name__ == "__main__":
    main()
