"""Fused kernels: operators of PyTorch, compiled by Numba on the CPU and by Triton on a GPU when they are first run."""

from __future__ import annotations

from importlib.util import find_spec

import torch

__all__ = ["missing"]

COMPILERS = {"cpu": "numba", "cuda": "triton"}
"""What compiles the kernels of a device."""
ABSENT = frozenset(package for package in COMPILERS.values() if find_spec(package) is None)
"""Those that are not installed. (Looked for here: a compiler that traces a call could not.)"""


def missing(device: str) -> str:
    """Why there are no compiled kernels for a type of device; empty where there are."""
    if torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export():
        return "ONNX has no such operator"
    if device not in COMPILERS:
        return f"there are no compiled kernels for the device {device!r}"
    if COMPILERS[device] in ABSENT:
        return f"the package {COMPILERS[device]} is not installed"
    return ""
