"""A weight for every key, by a fused kernel: softmax and sigmoid of products, distances and additive scores.

On the CPU the kernel is Numba's and takes less time than PyTorch's own; it has biases that are learnt, too, dropout and
weights. On a GPU it is Triton's.
"""

from __future__ import annotations

import torch

from regard.attention.backends import sparse
from regard.attention.call import AttentionCall

NORMALIZERS = frozenset(("softmax", "sigmoid"))
FEW = 4
"""Up to so many queries, keys are read once: to lay them out anew would take longer."""


def unsupported(call: AttentionCall) -> list[str]:
    return sparse.without_kernel(call, NORMALIZERS, sparse.SCORES)


def yields(call: AttentionCall) -> list[str]:
    # (A compiler's graph is for all lengths: it would be bound to one side of the limit.)
    if call.score.kernel != "additive" or call.query.device.type != "cpu" or torch.compiler.is_compiling():
        return []
    if call.query.shape[-2] <= FEW:
        return [f"'additive' scores up to {FEW} queries on the keys as they lie"]
    return []


def cost(call: AttentionCall) -> str:
    return "tiles of scores for each thread; two numbers a query for the backward pass"


pairs, run = sparse.pairs, sparse.run


def derivatives(call: AttentionCall) -> str:
    return "first: fused; second: exact, memory quadratic in length; forward-mode: by 'blockwise'"
