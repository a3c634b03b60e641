"""Label-smoothed cross entropy, projected onto the vocabulary and differentiated a chunk at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 256
"""Positions projected at once: 256 x 10,000 float32 scores are 10 MB, and products run at full speed."""


def smoothed_cross_entropy(
    states: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return the sums over positions of the label-smoothed cross entropy and of the negative log-likelihood.

    With log-probabilities `l = log_softmax(weight @ state + bias)` and V words, a position costs
    `-(1 - smoothing) * l[target] - smoothing / V * sum(l)` (Szegedy et al. 2016, section 7).

    The scores of a chunk of positions and their gradient are computed together in the forward pass and then
    forgotten, so that memory grows with `CHUNK x V` instead of `N x V`, the softmax is taken once, and
    backward only scales (the idea of Liger Kernel, Hsu et al. 2024). The second sum is for reporting and has
    no gradient.

    *Shape*: states `(n, size)`, weight `(vocabulary, size)`, bias `(vocabulary,)`, target `(n,)` int64; both
    sums `()`.

    Example:
        >>> target = torch.tensor([1, 2, 3])
        >>> loss, surprise = smoothed_cross_entropy(torch.zeros(3, 4), torch.zeros(10, 4), None, target)
        >>> round(loss.item(), 4)  # 3 * log(10)
        6.9078
    """
    if not 0.0 <= smoothing < 1.0:
        raise ValueError(f"smoothing must be at least 0 and below 1, got {smoothing}")
    if states.ndim != 2 or target.shape != states.shape[:1]:
        raise ValueError(
            f"states must be (n, size) and target (n,), got {tuple(states.shape)} and {tuple(target.shape)}"
        )
    if torch.is_autocast_enabled(states.device.type):
        states = states.to(torch.get_autocast_dtype(states.device.type))
    inputs = [tensor for tensor in (states, weight, bias) if tensor is not None]
    differentiate = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    return _SmoothedCrossEntropy.apply(states, weight, bias, target, smoothing, differentiate)


class _SmoothedCrossEntropy(torch.autograd.Function):
    """Forward computes value and gradients; backward multiplies them by the incoming gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        smoothing: float,
        differentiate: bool,
    ) -> tuple[Tensor, Tensor]:
        exact = torch.float64 if states.dtype == torch.float64 else torch.float32
        with torch.autocast(states.device.type, enabled=False):
            matrix = weight.to(states.dtype)
            offset = None if bias is None else bias.to(states.dtype)
            # The mean score over the vocabulary is linear in the state: it needs no pass over the scores.
            mean_row = weight.to(exact).mean(0)
            mean_offset = 0.0 if bias is None else bias.to(exact).mean()
            surprise = torch.zeros((), dtype=exact, device=states.device)
            evenness = torch.zeros((), dtype=exact, device=states.device)
            if differentiate:
                states_gradient = torch.empty_like(states, dtype=exact)
                weight_gradient = torch.zeros_like(weight, dtype=exact)
                bias_gradient = None if bias is None else torch.zeros_like(bias, dtype=exact)
            for start in range(0, states.shape[0], CHUNK):
                rows = states[start : start + CHUNK]
                labels = target[start : start + CHUNK, None]
                scores = torch.nn.functional.linear(rows, matrix, offset).to(exact)
                wanted = scores.gather(1, labels)
                highest = scores.amax(1, keepdim=True)
                gradient = torch.softmax(scores, 1)
                # The likeliest word has probability 1 / sum(exp(scores - highest)) >= 1 / V: its log is safe.
                normaliser = highest - gradient.amax(1, keepdim=True).log()
                surprise += (normaliser - wanted).sum()
                evenness += (normaliser[:, 0] - rows.to(exact) @ mean_row - mean_offset).sum()
                if not differentiate:
                    continue
                gradient.scatter_add_(1, labels, gradient.new_full(labels.shape, smoothing - 1.0))
                if bias_gradient is not None:
                    bias_gradient += gradient.sum(0)
                low = gradient.to(states.dtype)
                states_gradient[start : start + CHUNK] = low @ matrix
                if exact == states.dtype:
                    weight_gradient.addmm_(low.T, rows)
                else:
                    weight_gradient += low.T @ rows
            if differentiate:
                if smoothing:  # the even part of the target is the same for every position: added here, once
                    states_gradient -= smoothing * mean_row
                    weight_gradient -= smoothing / weight.shape[0] * states.to(exact).sum(0)
                    if bias_gradient is not None:
                        bias_gradient -= smoothing / weight.shape[0] * states.shape[0]
                ctx.save_for_backward(states_gradient, weight_gradient, bias_gradient)
                ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in (states, weight, bias)]
        loss = (1.0 - smoothing) * surprise + smoothing * evenness
        ctx.mark_non_differentiable(surprise)
        return loss, surprise

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [
            None if gradient is None else (gradient * upstream).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return (*scaled, None, None, None)
