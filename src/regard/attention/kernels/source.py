"""What the kernels are compiled from, as a number: Numba's cache asks only for the file of the function it keeps."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["STAMP"]

STAMP = int.from_bytes(
    hashlib.sha256(
        b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.rglob("*.py")))
    ).digest()[:6]
)
"""A hash of every file of this folder, and of those in it."""
