"""Ways of computing attention, in order of preference; each says what it cannot do and why.

A backend is a module with the functions of `Backend`. To add one: copy `blockwise`, which runs every call, into a file
of its own, make it say what it cannot run, and list it in `BACKENDS` before `blockwise`.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from regard.attention.backends import additive, blockwise, edges, flex, packed, sdpa, sparse
from regard.attention.call import AttentionCall

__all__ = ["BACKENDS", "Backend", "choose"]


class Backend(Protocol):
    """One way of computing attention: a module with these functions, such as `blockwise`."""

    @staticmethod
    def unsupported(call: AttentionCall) -> list[str]:
        """Why this backend cannot run `call`; empty when it can."""

    @staticmethod
    def run(call: AttentionCall) -> tuple[Tensor, Tensor | None]:
        """The output and, when asked for, the weights.

        *Shape:* as `regard.attend` says. Never called with a call that is unsupported.
        """

    @staticmethod
    def cost(call: AttentionCall) -> str:
        """What the call holds in memory beyond its inputs and outputs, in words."""

    @staticmethod
    def pairs(call: AttentionCall) -> int:
        """How many pairs of a query and a key are computed, in all heads."""

    @staticmethod
    def derivatives(call: AttentionCall) -> str:
        """Which derivatives are fused and which take the slower exact path, in words."""


BACKENDS: dict[str, Backend] = {
    "packed": packed,  # type: ignore[dict-item]
    "edges": edges,  # type: ignore[dict-item]
    "flex": flex,  # type: ignore[dict-item]
    "sdpa": sdpa,  # type: ignore[dict-item]
    "sparse": sparse,  # type: ignore[dict-item]
    "additive": additive,  # type: ignore[dict-item]
    "blockwise": blockwise,  # type: ignore[dict-item]
}
"""Every backend by its name, the preferred first."""


def choose(call: AttentionCall, backend: str | None = None) -> str:
    """The first backend that supports the call, or the one asked for; `ValueError` where that cannot run it."""
    if backend is None:
        for name, one in BACKENDS.items():
            if not one.unsupported(call):
                return name
    elif backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; there are {', '.join(BACKENDS)}")
    elif reasons := BACKENDS[backend].unsupported(call):
        raise ValueError(f"backend {backend!r} cannot run this call: {'; '.join(reasons)}")
    else:
        return backend
    raise AssertionError("the last backend supports every call")
