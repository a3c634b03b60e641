"""Fused kernels: operators of PyTorch, compiled by Numba on the CPU and by Triton on a GPU when they are first run."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import torch

__all__ = ["missing"]

COMPILERS = {"cpu": "numba", "cuda": "triton"}
"""What compiles the kernels of a device."""
ABSENT = frozenset(package for package in COMPILERS.values() if find_spec(package) is None)
"""Those that are not installed. (Looked for here: a compiler that traces a call could not.)"""


def missing(device: str, load: bool = False) -> str:
    """Why there are no compiled kernels for a type of device; empty where there are.

    With `load` the compiler is imported, too, which tells whether it can be.
    """
    if torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export():
        return "ONNX has no such operator"
    if device not in COMPILERS:
        return f"there are no compiled kernels for the device {device!r}"
    if COMPILERS[device] in ABSENT:
        return f"the package {COMPILERS[device]} is not installed"
    if load and not torch.compiler.is_compiling() and device not in _FAILURES:
        try:
            import_module(COMPILERS[device])
        except Exception as error:
            _FAILURES[device] = f"the package {COMPILERS[device]} cannot be loaded: {error}"
        else:
            _FAILURES[device] = ""
    return _FAILURES.get(device, "")


_FAILURES: dict[str, str] = {}
"""What came of importing a device's compiler; empty where it could be."""
