r"""From scores to weights on the GPU, given what the forward pass found out about a row: its statistic.

| normaliser | first | second | weight | slope |
| --- | --- | --- | --- | --- |
| softmax | best score $m$ | $\log_2 l$ | $2^{(s - m) c - \log_2 l}$, $c = \log_2 e / t$ | $w$ |
| sigmoid | | | $1 / (1 + e^{-(s + b)})$ | $w (1 - w)$ |
| entmax | best score $m$ | threshold $\tau$ | $u^{1 / a}$, $u = (a (s - m) - \tau)_+$, $a = \alpha - 1$ | $w / u$ |
| top | best score $m$ | $\log_2 l$ | that of softmax, where kept | $w$ |
| hardmax | NaN, if a score is | | 1 at the best | |

For top a third number is the threshold: what is above it is kept, and of what equals it the keys up to a last one.
The gradient of a score is slope $\cdot (g - \delta)$ ($/ t$ for softmax) with $g$ the gradient of the weight, and
$\delta$ the mean of $g$ by slope (0 for sigmoid).

Entmax comes in five forms by alpha: `sparsemax` (2), `entmax15` (1.5), `entmax_close` below
1.25, where $\tau + 1$ is kept and weights are $e^{\log(1 + b) / a}$ with $b = u - 1$, `entmax_steep` beyond 2, and
`entmax`.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["form_of", "powers_of", "shrunk", "weights_and_slopes"]

LOG2E = tl.constexpr(1.4426950408889634)


def form_of(normalizer: str, parameter: float) -> str:
    """The normaliser's name in the kernels: that of entmax says which form its alpha takes."""
    if normalizer != "entmax":
        return normalizer
    if parameter in (1.5, 2.0):
        return "entmax15" if parameter == 1.5 else "sparsemax"
    return "entmax_close" if parameter < 1.25 else "entmax" if parameter < 2.0 else "entmax_steep"


@triton.jit
def shrunk(x):
    """1 - exp(-x), exact for small x, too."""
    series = x * (1 - x * (0.5 - x * (1 / 6 - x * (1 / 24 - x * (1 / 120)))))
    return tl.where(tl.abs(x) < 1e-3, series, 1 - tl.exp(-x))


@triton.jit
def powers_of(below, threshold, order, FORM: tl.constexpr):
    """The weights of entmax and their slopes, from $a (s - m)$; NaN stays. *Shape:* `(M, N)`, threshold `(M, 1)`."""
    bases = below - threshold
    if FORM == "entmax_close":
        wholes = 1 + bases
        outside = wholes <= 0
        wholes = tl.where(outside, 1.0, wholes)
        # What rounding took from 1 + base is put back to the logarithm.
        logs = tl.log(wholes) + (bases - (wholes - 1)) / wholes
        weights = tl.where(outside, 0.0, tl.exp(logs / order))
        slopes = weights / wholes
    else:
        outside = bases <= 0
        if FORM == "sparsemax":
            weights = tl.where(outside, 0.0, bases)
            slopes = tl.where(outside, 0.0, 1.0).to(weights.dtype)
        elif FORM == "entmax15":
            slopes = tl.where(outside, 0.0, bases)
            weights = slopes * slopes
        else:
            bases = tl.where(outside, 1.0, bases)
            weights = tl.where(outside, 0.0, tl.exp2(tl.log2(bases) / order))
            slopes = weights / bases
    return weights, slopes


@triton.jit
def weights_and_slopes(
    scores, first, second, third, last_place, column, parameter,
    FORM: tl.constexpr, HALF: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The weights of a tile and their slopes. *Shape:* scores `(M, N)`; the others `(M,)`."""
    places = column + tl.arange(0, BLOCK_N)[None, :]
    if FORM == "softmax":
        scale = LOG2E / parameter
        if HALF:
            weights = tl.exp2(scores * scale - (first * scale + second)[:, None])
        else:
            weights = tl.exp2((scores - first[:, None]) * scale - second[:, None])
        slopes = weights
    elif FORM == "sigmoid":
        weights = 1 / (1 + tl.exp2(-(scores + parameter) * LOG2E))
        slopes = weights * (1 - weights)
    elif FORM == "top":
        kept = (scores > third[:, None]) | ((scores == third[:, None]) & (places <= last_place[:, None]))
        outside = (first == first)[:, None] & ~kept
        weights = tl.where(outside, 0.0, tl.exp2((scores - first[:, None]) * LOG2E - second[:, None]))
        slopes = weights
    elif FORM == "hardmax":
        weights = tl.where(places == last_place[:, None], 1.0, first[:, None] * 0)
        slopes = weights
    else:
        order = parameter - 1
        weights, slopes = powers_of(order * (scores - first[:, None]), second[:, None], order, FORM)
    return weights, slopes
