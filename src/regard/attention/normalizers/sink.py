"""Softmax with somewhere to put the weight that no key deserves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from regard.attention.normalizers.normalizer import Normalizer, check_per_head, per_head

__all__ = ["SinkSoftmax"]


@dataclass(frozen=True, eq=False)
class SinkSoftmax(Normalizer):
    r"""Softmax over the keys and one more score, the sink, whose weight is dropped: a head may look at nothing.

    $$w_i = \frac{e^{s_i}}{e^{b} + \sum_j e^{s_j}}$$

    `sink` $b$ is 0 unless given ("softmax one"), or learned by each head from there. Towards minus infinity it gives
    softmax. The weights sum to less than one. Raises `ValueError` in `regard.attend` for a tensor of another shape.

    *Shape:* scores `(..., heads, query_len, key_len)` -> weights of the same shape; sink a number or a tensor, `()` or
    `(heads,)`.

    Example:
        >>> SinkSoftmax().weigh(torch.tensor([2.0, 0.0, 1.0]))
        tensor([0.6103, 0.0826, 0.2245])

    Miller 2023 ("Attention is off by one") with the sink 0; learned by each head: gpt-oss (OpenAI 2025). Xiao et al.
    2024 (StreamingLLM), section 3.3, learn a first token for the purpose. `torch.nn.MultiheadAttention`'s
    `add_zero_attn=True` and x-transformers' `add_zero_kv` are the sink 0 for products, by a key and a value of zeros.
    """

    sink: float | Tensor = 0.0
    name: ClassVar[str] = "sink"

    def learn(self, heads: int) -> Normalizer:
        """One sink a head, from 0; a sink that was given stays as it is."""
        if isinstance(self.sink, Tensor) or self.sink != 0.0:
            return self
        return replace(self, sink=torch.zeros(heads))

    def check(self, query: Tensor, key: Tensor) -> None:
        check_per_head("the sink", self.sink, query)

    def weigh(self, scores: Tensor) -> Tensor:
        sink = per_head(self.sink, scores) if isinstance(self.sink, Tensor) else self.sink
        # The share of the keys together is a sigmoid: neither factor overflows.
        return torch.softmax(scores, dim=-1) * torch.sigmoid(scores.logsumexp(-1, keepdim=True) - sink)
