"""How a contest is run, from the command line."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch

LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
SIZES = (16, 32, 128, 256)
"""Head sizes beside 64, at which all lengths are measured."""
TOLERANCE = {"float32": 2e-3, "float64": 1e-8, "float16": 2e-2, "bfloat16": 6e-2}
"""How far apart two contestants may be: the Euclidean norm of the difference over that of the result. A score that
rounding moves across the edge of a support changes the gradient of its row, hence not 1e-5."""


@dataclass(frozen=True)
class Settings:
    """Where and how long."""

    quick: bool = False
    threads: int = 1
    device: str = "cpu"
    dtype: str = "float32"
    patience: float = 4.0
    """The longest call that is waited for, in seconds."""
    seconds: float = 3.0
    """About how long all rounds of one problem may take."""
    rounds: int = 15
    """The most rounds."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths to measure."""
        return (128, 512) if self.quick else LENGTHS

    @property
    def sizes(self) -> tuple[int, ...]:
        """The head sizes to measure beside 64."""
        return () if self.quick else SIZES


def asked(name: str, about: str | None) -> Settings:
    """The settings of the command line; PyTorch gets its threads."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    parser.add_argument(
        "--quick", action="store_true", help="few lengths and rounds; into results/quick only"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 ...")
    parser.add_argument("--dtype", default="float32", choices=sorted(TOLERANCE))
    parser.add_argument("--patience", type=float, help="the longest call that is waited for, in seconds")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    always = (given.threads, given.device, given.dtype)
    if given.quick:
        return Settings(True, *always, patience=given.patience or 0.5, seconds=0.5, rounds=5)
    return Settings(False, *always, patience=given.patience or 4.0)
