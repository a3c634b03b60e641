"""What the installed command `regard` runs: set the process up before PyTorch is loaded, then go to `regard.cli`."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Run the command line; the exit status is that of `regard.cli.main`."""
    # Threads that wait for each other by spinning keep another process from the core they need: beside one busy
    # process a training step takes fifteen times as long. OpenMP reads this once, when PyTorch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from regard.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
