"""`python -m benchmarks [NAME ...]`: run all or some benchmarks, each in a process of its own."""

from __future__ import annotations

import argparse
import subprocess
import sys

from benchmarks.harness import ORDER, PAGE, RESULTS


def main() -> int:
    """Run the benchmarks named on the command line, or all; return how many failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of: {', '.join(ORDER)} (default: all)")
    names = parser.parse_args().names or ORDER
    if unknown := [name for name in names if name not in ORDER]:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(ORDER)}")
    failed = sum(
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode != 0 for name in names
    )
    print(f"rows in {RESULTS}, tables in {PAGE}")
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
