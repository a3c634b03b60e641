"""Importing regard beside importing torch, in fresh processes."""

from __future__ import annotations

import argparse
import subprocess
import sys
from functools import partial

from benchmarks.harness import Machine, Report, Row, command, in_turns


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.import_time", description=__doc__)
    parser.add_argument("--pairs", type=int, default=15)
    pairs = parser.parse_args().pairs

    def start(module: str, _: int) -> None:
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)

    machine = Machine.here()
    seconds = in_turns({module: partial(start, module) for module in ("regard", "torch")}, pairs)
    Report(
        "import_time",
        "Importing",
        "The time of a fresh process that imports one module and ends.",
        "lower",
        command(),
        machine,
        (Row.of("import", "s", seconds["regard"], "import torch", seconds["torch"]),),
    ).publish()


if __name__ == "__main__":
    main()
