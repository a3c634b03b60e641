"""Additive scores by a fused kernel, under any normaliser: as `blockwise`, without anything as wide as the channels.

Blocks of scores come from the kernel, forward and backward; what is done with them is PyTorch's. The kernels are those
of `regard.attention.kernels`: Numba's on the CPU, Triton's on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from regard.attention.backends import blockwise
from regard.attention.backends.sparse import heads_apart
from regard.attention.call import AttentionCall
from regard.attention.kernels import missing, operators
from regard.attention.scores import Modifier


def unsupported(call: AttentionCall) -> list[str]:
    reasons = []
    if call.score.kernel != "additive":
        reasons.append(f"the score {call.score.spelling!r} is not additive with a hyperbolic tangent")
    if not (call.query.numel() and call.key.numel()):
        reasons.append("query or key is empty")
    if call.transformed and not torch.compiler.is_compiling():
        reasons.append("compiled kernels have no function transforms and no forward-mode derivative")
    if reason := missing(call.query.device.type, load=not reasons):
        reasons.append(reason)
    return reasons


def cost(call: AttentionCall) -> str:
    return blockwise.cost(fused(call))


def pairs(call: AttentionCall) -> int:
    return blockwise.pairs(fused(call))


def derivatives(call: AttentionCall) -> str:
    return "first: fused, block by block; second: exact, memory quadratic in length; forward-mode: by 'blockwise'"


def run(call: AttentionCall) -> tuple[Tensor, Tensor | None]:
    return blockwise.run(fused(call))


def fused(call: AttentionCall) -> AttentionCall:
    """The same call, whose score is compared by the kernel."""
    return replace(call, score=Fused(call.score))


@dataclass(frozen=True, eq=False)
class Fused(Modifier):
    """An additive score that the kernel compares. *Shape:* as the inner score's."""

    name: ClassVar[str] = "fused"

    def width(self, size: int) -> int:
        return 1

    def compare(self, query: Tensor, key: Tensor) -> Tensor:
        net = self.score.net(key.shape[-1], query)
        assert net is not None
        scores = operators.additive_scores(heads_apart(query), heads_apart(key), net)
        return scores.reshape(*query.shape[:-1], key.shape[-2])
