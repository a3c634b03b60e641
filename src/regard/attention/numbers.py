"""Checks of the numbers that parts of a mechanism are given."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "check_any_number",
    "check_device",
    "check_number",
    "check_whole",
    "check_whole_tensor",
    "readable",
]


def check_whole(what: str, value: object, least: int = 0) -> None:
    """Raise `ValueError` unless `value` is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{what} must be a whole number of at least {least}, it is {value!r}")


def check_number(what: str, value: object, above: float = 0.0) -> None:
    """Raise `ValueError` unless `value` is a finite number above `above`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not above < value < math.inf:
        raise ValueError(f"{what} must be a number above {above:g}, it is {value!r}")


def check_device(what: str, tensor: Tensor, query: Tensor) -> None:
    """Raise `ValueError` unless `tensor` is on the device of `query`."""
    if tensor.device != query.device:
        raise ValueError(f"{what} must be on the device of query, {query.device}, it is on {tensor.device}")


def check_any_number(what: str, value: object) -> None:
    """Raise `ValueError` unless `value` is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{what} must be a number, it is {value!r}")


def check_whole_tensor(what: str, value: object) -> None:
    """Raise `TypeError` unless `value` is a tensor of whole numbers."""
    if (
        not isinstance(value, Tensor)
        or value.is_floating_point()
        or value.is_complex()
        or value.dtype == torch.bool
    ):
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{what} must be a tensor of whole numbers, it is {kind}")


def readable(*tensors: Tensor) -> bool:
    """Whether the values of tensors may be read now: not while a compiler traces or a transform maps over them."""
    if torch.compiler.is_compiling():
        return False
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    return not any(tensor.is_meta or wrapped(tensor) for tensor in tensors)
