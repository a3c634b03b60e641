"""The attention of Bahdanau, Cho and Bengio."""

from __future__ import annotations

from regard.attention.mechanism import Mechanism
from regard.attention.normalizers import Normalizer
from regard.attention.scores import Additive
from regard.layers.memory import MemoryAttention

__all__ = ["BahdanauAttention"]


class BahdanauAttention(MemoryAttention):
    r"""Additive attention with all three of its learned parts.

    $$c_i = \sum_j w_{ij} h_j, \qquad w_i = \mathrm{softmax}_j(e_{ij}), \qquad
    e_{ij} = v^\top \tanh(W_q s_i + W_k h_j + b)$$

    It is `MemoryAttention("additive/softmax")` by its name: project the memory once with `prepare`, then look with one
    query or many. `normalizer` may be any other, by name or as an object:
    `"sparsemax"`, `"top-8"`, `regard.normalizers.Softmax(0.5)`.

    *Shape:* query `(batch, query_len, query_size)`, memory `(batch, memory_len, memory_size)` ->
    `(batch, query_len, memory_size)`. `attention_size` ($v$, $b$) is `memory_size` when not given.

    Raises `ValueError` for sizes below 1 and for a normaliser that does not exist; `TypeError` for what is none.

    Example:
        >>> import torch
        >>> look = BahdanauAttention(query_size=6, memory_size=8, attention_size=4)
        >>> memory = look.prepare(torch.randn(2, 5, 8), torch.tensor([5, 3]))
        >>> context, weights = look(torch.randn(2, 1, 6), memory, return_weights=True)
        >>> context.shape, weights.shape
        (torch.Size([2, 1, 8]), torch.Size([2, 1, 1, 5]))

    Bahdanau et al. 2015, section 3.1 and appendix A.1.2, where the query is the decoder's state before the step, and
    biases are left out of the formulas. Keras' `AdditiveAttention` has $v$ alone, and expects the rest of its caller;
    allennlp's `AdditiveAttention` has no bias; PyTorch has none of it.
    """

    def __init__(
        self,
        query_size: int,
        memory_size: int,
        attention_size: int | None = None,
        *,
        normalizer: Normalizer | str = "softmax",
        dropout: float = 0.0,
    ) -> None:
        mechanism = (
            Mechanism.parse(f"additive/{normalizer}")
            if isinstance(normalizer, str)
            else Mechanism(Additive(), normalizer)
        )
        super().__init__(mechanism, query_size, memory_size, attention_size=attention_size, dropout=dropout)
