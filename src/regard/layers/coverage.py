"""Attention that knows what it has covered, and the loss that makes it go on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from regard.attention.normalizers import Normalizer
from regard.attention.scores import Additive, LocationSensitive
from regard.layers.checks import check_sizes
from regard.layers.location import RecallingAttention

__all__ = ["CoverageAttention", "coverage_loss"]


class CoverageAttention(RecallingAttention):
    r"""Additive attention that sees how much weight each place of the memory has had so far.

    $$c_i = \sum_j w_{ij} h_j, \qquad w_i = \mathrm{normalizer}_j(e_{ij}), \qquad
    e_{ij} = v^\top \tanh(W_q s_i + W_k h_j + w_c\, t_{ij} + b), \qquad t_i = \sum_{k < i} w_k$$

    The state is the coverage $t$. `step` takes one query, a call of the layer loops over many, with the same numbers;
    `coverage_loss` of the weights keeps it from looking twice at one place.

    *Shape:* query `(batch, query_len, query_size)`, memory `(batch, memory_len, memory_size)` ->
    `(batch, query_len, memory_size)`; the state `(batch, 1, memory_len)`, whose rows may be reordered for a beam.
    `attention_size` is `memory_size` when not given.

    Raises `ValueError` for sizes below 1 and for a normaliser that does not exist or whose queries do not stand by
    themselves (`monotonic`).

    Example:
        >>> import torch
        >>> look = CoverageAttention(query_size=6, memory_size=8, attention_size=4)
        >>> memory = look.prepare(torch.randn(2, 5, 8), torch.tensor([5, 3]))
        >>> contexts, weights, coverage = look(torch.randn(2, 3, 6), memory)
        >>> contexts.shape, weights.shape, coverage.shape
        (torch.Size([2, 3, 8]), torch.Size([2, 1, 3, 5]), torch.Size([2, 1, 5]))
        >>> torch.allclose(coverage, weights.sum(2))
        True

    See et al. 2017, section 2.3, equations 10 and 11; $w_c$ starts at zero, where the layer is `BahdanauAttention`. Tu
    et al. 2016 divide the coverage by how many words each place will be worth, which they learn ("fertility"), or let a
    recurrent network keep it. OpenNMT-py's `coverage_attn` adds $w_c t$ to the memory itself, values included; PyTorch
    and Keras have no such layer.
    """

    def __init__(
        self,
        query_size: int,
        memory_size: int,
        attention_size: int | None = None,
        *,
        normalizer: Normalizer | str = "softmax",
    ) -> None:
        size = memory_size if attention_size is None else attention_size
        check_sizes(attention_size=size)
        additive = Additive().learn(1, size)
        assert isinstance(additive, Additive)
        score = _Coverage(
            filters=torch.ones(1, 1, 1),
            projection=torch.zeros(1, size, 1),
            weight=additive.weight,
            bias=additive.bias,
        )
        super().__init__(query_size, memory_size, size, score, 1, normalizer)

    def remember(self, state: Tensor, weights: Tensor) -> Tensor:
        return state + weights.unsqueeze(1)


@dataclass(frozen=True, eq=False)
class _Coverage(LocationSensitive):
    """The location-sensitive score with one filter of one place, which is one: it sees each place's own past."""

    @property
    def fixed(self) -> frozenset[str]:
        return frozenset({"alignment", "filters"})


def coverage_loss(weights: Tensor, coverage: Tensor | None = None) -> Tensor:
    r"""How much each query looks where those before it have looked.

    $$\ell_i = \sum_j \min(w_{ij}, t_{ij}), \qquad t_i = t_0 + \sum_{k < i} w_k$$

    It is at least 0 and, for weights that sum to one, at most 1. `coverage` ($t_0$) is the sum of the weights before
    these: zero when absent.

    *Shape:* weights `(..., query_len, key_len)`, coverage `(..., key_len)` -> `(..., query_len)`, in single precision
    at least. Raises `ValueError` for another coverage.

    Example:
        >>> import torch
        >>> coverage_loss(torch.tensor([[1.0, 0.0], [0.25, 0.75], [0.5, 0.5]]))
        tensor([0.0000, 0.2500, 1.0000])

    See et al. 2017, equation 12, which they add with weight 1 after the model is trained without it.
    """
    # A sum in half precision soon stops growing: in bfloat16 at 256 times its parts.
    weights = weights.to(torch.promote_types(weights.dtype, torch.float32))
    before = weights.cumsum(-2) - weights
    if coverage is not None:
        expected = (*weights.shape[:-2], weights.shape[-1])
        if tuple(coverage.shape) != expected:
            raise ValueError(
                f"coverage must be (..., key_len) = {expected}, as weights are, it has shape {tuple(coverage.shape)}"
            )
        before = before + coverage.unsqueeze(-2)
    return torch.minimum(weights, before).sum(-1)
