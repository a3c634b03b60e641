"""Ways of computing attention, in order of preference; each says what it cannot do and why.

A backend is a module with the functions of `Backend`. To add one: copy `blockwise`, which runs every call, into a file
of its own, make it say what it cannot run, and list it in `BACKENDS` before `blockwise`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from regard.attention.backends import additive, blockwise, dense, edges, flex, packed, sdpa, sparse
from regard.attention.call import AttentionCall

__all__ = ["BACKENDS", "Backend", "choose", "refused"]


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
    "dense": dense,  # type: ignore[dict-item]
    "sparse": sparse,  # type: ignore[dict-item]
    "additive": additive,  # type: ignore[dict-item]
    "blockwise": blockwise,  # type: ignore[dict-item]
}
"""Every backend by its name, the preferred first."""


YIELDS: dict[str, Callable[[AttentionCall], list[str]]] = {"sdpa": sdpa.yields, "dense": dense.yields}
"""Which backends leave calls that they could run to a later one, and why they leave a call."""


def refused(call: AttentionCall, name: str) -> list[str]:
    """Why a call that names no backend is not run by this one: it cannot, or a later one is better at it."""
    reasons = BACKENDS[name].unsupported(call)
    return YIELDS[name](call) if not reasons and name in YIELDS else reasons


def choose(call: AttentionCall, backend: str | None = None) -> str:
    """The first backend that supports the call, or the one asked for; `ValueError` where that cannot run it."""
    if backend is None:
        for name in BACKENDS:
            if not refused(call, name):
                return name
    elif backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; there are {', '.join(BACKENDS)}")
    elif reasons := BACKENDS[backend].unsupported(call):
        raise ValueError(f"backend {backend!r} cannot run this call: {'; '.join(reasons)}")
    else:
        return backend
    raise AssertionError("the last backend supports every call")
