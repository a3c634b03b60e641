"""Sparse weights by a fused kernel: scores in tiles, a threshold for each query, and after that its support alone.

The kernels are those of `regard.attention.kernels`: Numba's on the CPU, Triton's on a GPU. What the CPU's keeps for the
backward pass is each query's support, which costs little where few keys have weight; where too many have, it is found
again.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from regard.attention.backends import blockwise
from regard.attention.call import AttentionCall
from regard.attention.kernels import missing, operators
from regard.attention.kernels.settings import Settings, kept_keys
from regard.attention.masks import Dense
from regard.attention.parts import tensors_of
from regard.attention.picture import count
from regard.attention.scores.score import for_each_head

LARGEST_PICTURE = 2**22
"""The most elements of a mask or bias that are written out at once; those given as tensors may have any size."""

SCORES = frozenset(("product", "distance", "additive"))
SPARSE = frozenset(("entmax", "top", "hardmax"))


def unsupported(call: AttentionCall) -> list[str]:
    reasons = without_kernel(call, SPARSE, SCORES)
    kernel = call.normalizer.kernel
    if kernel is not None and kernel[0] == "entmax" and not 1.15 <= kernel[1] <= 2.0:
        reasons.append("the kernel of entmax wants an alpha from 1.15 to 2")
    return reasons


def without_kernel(call: AttentionCall, normalizers: frozenset[str], scores: frozenset[str]) -> list[str]:
    """Why no kernel for these scores and normalisers, by the names that kernels have for them, can run a call."""
    reasons = []
    if call.score.kernel not in scores:
        reasons.append(f"there is no kernel for the score {call.score.spelling!r}")
    kernel = call.normalizer.kernel
    device = call.query.device.type
    if kernel is None or kernel[0] not in normalizers:
        reasons.append(f"there is no kernel for the normalizer {call.normalizer.spelling!r}")
    if not (call.query.numel() and call.key.numel() and call.value.numel()):
        reasons.append("query, key or value is empty")
    if call.transformed and not torch.compiler.is_compiling():
        reasons.append("compiled kernels have no function transforms and no forward-mode derivative")
    if torch.compiler.is_compiling() and call.dropout:
        reasons.append("a compiler would draw the same dropout each time")
    if reason := missing(device, load=not reasons):
        reasons.append(reason)
    if device == "cuda" and not reasons:
        from regard.attention.kernels import gpu

        sizes = call.key.shape[-1], call.value.shape[-1]
        reasons += gpu.unsupported(settings_of(call), call.query.dtype, *sizes)
    return reasons


def settings_of(call: AttentionCall) -> Settings:
    """The score and normaliser of a supported call, as kernels know them."""
    score, kernel = call.score.kernel, call.normalizer.kernel
    assert score is not None
    assert kernel is not None
    scale = 1.0
    if score == "distance":
        # Only the differences of queries and keys are exact for near ones: they are not to be scaled before.
        scale = call.score.factor(call.key.shape[-1])
    return Settings(score, *kernel, scale)


def cost(call: AttentionCall) -> str:
    if call.query.device.type == "cuda":
        return "tiles in registers and shared memory, and which blocks have any weight"
    if not call.needs_gradient:
        return "a tile of scores for each thread"
    assert call.normalizer.kernel is not None
    share = kept_keys(*call.normalizer.kernel, call.key.shape[-2])
    held = count(call.query.shape[:-1]) * share * (call.query.element_size() + 4)
    return (
        f"a tile of scores for each thread; the support for the backward pass, at most {held / 2**20:.1f} MiB"
    )


def pairs(call: AttentionCall) -> int:
    grid, heads = call.grid, count(call.query.shape[:-2])
    ranges = call.mask.ranges(grid) if call.mask is not None and call.hides else None
    if ranges is None:
        return heads * grid.query_len * grid.key_len
    shown = (ranges[..., 1] - ranges[..., 0]).clamp(min=0)
    return int(shown.expand(*call.query.shape[:-1]).sum())


def derivatives(call: AttentionCall) -> str:
    return "first: fused, on the support alone; second: exact, memory quadratic in length; forward-mode: by 'blockwise'"


def run(call: AttentionCall) -> tuple[Tensor, Tensor | None]:
    dtype, device = call.query.dtype, call.query.device.type
    if device == "cpu":
        call = blockwise.in_compute_dtype(call)
    query, key, value, net = prepared(call)
    grid = call.grid
    settings = settings_of(call)
    if call.dropout:
        seed = int(torch.randint(2**62, ()))
        settings = settings._replace(dropout=call.dropout, seed=seed, whole=grid.query_len)

    def some(rows: slice, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        ranges = shown = bias = None
        if call.mask is not None and call.hides:
            ranges = call.mask.ranges(grid)
            if ranges is None:
                shown = four_axes(call.mask.block(rows, slice(0, grid.key_len), grid), call.query)
            else:
                ranges = four_axes(ranges if ranges.shape[-2] == 1 else ranges[..., rows, :], call.query)
                ranges = ranges.expand(-1, -1, rows.stop - rows.start, -1)
        if call.bias is not None:
            columns = slice(0, grid.key_len)
            bias = four_axes(
                call.bias.cut(rows, columns).block(rows, columns, grid).to(query.dtype), call.query
            )
        placed = settings._replace(first=rows.start) if call.dropout else settings
        return operators.attention(
            query[..., rows, :],
            key,
            value,
            net,
            ranges,
            shown,
            bias,
            placed,
            call.return_weights,
            call.needs_gradient,
        )

    outputs, weights = [], []
    blocks = blocks_of(call)
    for rows in blocks:
        if len(blocks) > 1 and call.needs_gradient:
            # What masks and biases are written out to is computed again, too: memory stays linear.
            output, weight = checkpoint(some, rows, query, key, value, use_reentrant=False)
        else:
            output, weight = some(rows, query, key, value)
        outputs.append(output)
        weights.append(weight)
    whole = [parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2) for parts in (outputs, weights)]
    output = whole[0].reshape(*call.query.shape[:-1], call.value.shape[-1]).to(dtype)
    if not call.return_weights:
        return output, None
    return output, whole[1].reshape(*call.query.shape[:-1], grid.key_len).to(dtype)


def prepared(call: AttentionCall) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Queries, keys, values and the net of an additive score as kernels take them.

    *Shape:* `(batch, heads, query_len, size)`, `(batch, key_heads, key_len, size or value_size)`, `(heads or 1, size)`.
    """
    query, key = call.score.prepare(call.query, call.key)
    factor = call.score.factor(key.shape[-1])
    if call.score.kernel == "product":
        query = query if factor == 1.0 else query * factor
    value = for_each_head(call.value, key) if key.shape[:-2] != call.value.shape[:-2] else call.value
    net = call.score.net(key.shape[-1], query)
    return heads_apart(query), heads_apart(key), heads_apart(value), net


def heads_apart(tensor: Tensor) -> Tensor:
    """*Shape:* `(..., heads, length, size)` -> `(batch, heads, length, size)`."""
    if tensor.ndim == 4:
        return tensor
    if tensor.ndim < 4:
        return tensor.reshape(*(1,) * (4 - tensor.ndim), *tensor.shape)
    return tensor.flatten(0, -4)


def four_axes(picture: Tensor, query: Tensor) -> Tensor:
    """A mask or bias, or the ranges of one, in four axes.

    *Shape:* broadcastable to `(..., heads, query_len, key_len)` -> `(batch or 1, heads or 1, query_len, key_len or 1)`.
    """
    if query.ndim > 4 and picture.ndim > 3:
        # The axes before the heads are to become one.
        return picture.expand(*query.shape[:-3], *picture.shape[-3:]).flatten(0, -4)
    return picture.reshape(*(1,) * (4 - picture.ndim), *picture.shape)


def blocks_of(call: AttentionCall) -> list[slice]:
    """The blocks of queries whose masks and biases are written out at once: all, where there is none to write out."""
    grid = call.grid
    if torch.compiler.is_compiling():
        return [slice(0, grid.query_len)]
    width = 0
    if (
        call.mask is not None
        and call.hides
        and not isinstance(call.mask, Dense)
        and call.mask.ranges(grid) is None
    ):
        width = count(call.mask.shape(grid)[:-2]) * grid.key_len
    if call.bias is not None:
        learned = any(tensor.requires_grad for tensor in tensors_of(call.bias)) and torch.is_grad_enabled()
        shape = (*call.query.shape[:-2], 1, grid.key_len) if learned else call.bias.shape(grid)
        width = max(width, count(shape[:-2]) * grid.key_len)
    rows = min(max(LARGEST_PICTURE // width, 1), grid.query_len) if width else grid.query_len
    return [slice(start, min(start + rows, grid.query_len)) for start in range(0, grid.query_len, rows)]
