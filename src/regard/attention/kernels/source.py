"""How kernels are compiled and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import cfunc, types

__all__ = ["STAMP", "compiled"]

STAMP = int.from_bytes(
    hashlib.sha256(
        b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.rglob("*.py")))
    ).digest()[:6]
)
"""A hash of every file of this folder, and of those in it. A kernel that reads it is compiled anew when one changes:
Numba's cache asks only for the file of the function that it keeps."""


def compiled(kernel: Callable[[int], None]) -> Any:
    """A kernel, compiled; from Numba's cache, where there is one."""
    signature = types.void(types.intp)
    try:
        return cfunc(signature, cache=True)(kernel)
    except RuntimeError:
        # No folder for the cache may be written to.
        return cfunc(signature)(kernel)
