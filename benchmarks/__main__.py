"""`python -m benchmarks [NAME ...]`: run all or some benchmarks, each in a process of its own."""

from __future__ import annotations

import argparse
import subprocess
import sys

from benchmarks.harness import ORDER, PAGE, RESULTS

QUICK = ("additive", "sparse", "dense", "decoding", "graph", "memory_of_peers")
"""The benchmarks that have a quick way."""


def main() -> int:
    """Run the benchmarks named on the command line, or all; return how many failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of: {', '.join(ORDER)} (default: all)")
    parser.add_argument(
        "--quick", action="store_true", help=f"only {', '.join(QUICK)}, few cases, into results/quick"
    )
    asked = parser.parse_args()
    known = QUICK if asked.quick else ORDER
    names = asked.names or known
    if unknown := [name for name in names if name not in known]:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(known)}")
    how = ["--quick"] if asked.quick else []
    failed = sum(
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *how]).returncode != 0 for name in names
    )
    print(f"rows in {RESULTS / 'quick'}" if asked.quick else f"rows in {RESULTS}, tables in {PAGE}")
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
