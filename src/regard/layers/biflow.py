"""Attention of two sequences over each other."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from regard.attention.masks import dense, padding
from regard.attention.mechanism import Mechanism
from regard.attention.operator import attend
from regard.attention.scores import Linear
from regard.layers.checks import check_batch, check_lengths, check_sequence, check_sizes
from regard.layers.learned import learned_normalizer, learned_score, uniform, visible

__all__ = ["BidirectionalAttentionFlow"]


class BidirectionalAttentionFlow(nn.Module):
    r"""A text beside what it finds in a question, and what the question finds in it.

    $$g_t = [h_t;\ \tilde u_t;\ h_t \odot \tilde u_t;\ h_t \odot \tilde h], \qquad
    s_{tj} = w^\top [h_t;\ u_j;\ h_t \odot u_j] + b$$

    $$\tilde u_t = \sum_j \mathrm{softmax}_j(s_{tj})\, u_j, \qquad
    \tilde h = \sum_t \mathrm{softmax}_t\bigl(\max_j s_{tj}\bigr)\, h_t$$

    Neither the `(context_len, query_len, 3 * size)` features nor, on long texts, all the scores are ever held: memory
    grows linearly with both lengths. Places past a length are neither looked at nor looked for: $g$ is zero there. An
    empty question finds nothing and is found nowhere: $\tilde u$ and $\tilde h$ are zero.

    *Shape:* context ($h$) `(batch, context_len, size)`, query ($u$) `(batch, query_len, size)`, both lengths `(batch,)`
    -> `(batch, context_len, 4 * size)`.

    Raises `ValueError` unless `size` is at least 1, and for a mechanism that does not exist, that has a mask, a bias or
    rotary positions, or whose queries do not stand by themselves (`monotonic`).

    Example:
        >>> import torch
        >>> flow = BidirectionalAttentionFlow(8)
        >>> context, query = torch.randn(2, 7, 8), torch.randn(2, 3, 8)
        >>> output, _ = flow(context, torch.tensor([7, 4]), query, torch.tensor([3, 2]))
        >>> output.shape
        torch.Size([2, 7, 32])

    Seo et al. 2017, section 2, "Attention flow layer", equations 1 and 2, without the bias, which softmax cannot see.
    allennlp builds it from its `LinearMatrixAttention`, which holds all scores, and masks by adding to them.
    """

    def __init__(self, size: int, mechanism: str | Mechanism = "linear/softmax") -> None:
        super().__init__()
        check_sizes(size=size)
        given = mechanism if isinstance(mechanism, Mechanism) else Mechanism.parse(mechanism)
        if given.normalizer.coupled or given.over_memory() is not given:
            raise ValueError(
                f"the mechanism of attention flow must be score/normalizer without mask, bias and rotary positions, "
                f"each place by itself, it is {given.spelling!r}"
            )
        self.size = size
        score = given.score
        if isinstance(score, Linear) and score.weight is None:  # as the paper has it: one weight, no bias
            score = Linear(uniform(1 / (3 * size), 3 * size))
        self.score = learned_score(score, 1, size)
        self.normalizer = learned_normalizer(given.normalizer, 1)

    def forward(
        self,
        context: Tensor,
        context_lengths: Tensor,
        query: Tensor,
        query_lengths: Tensor,
        *,
        return_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The text with what it finds and, when asked for, where each place looks in the question.

        *Shape:* the flow `(batch, context_len, 4 * size)`, weights `(batch, context_len, query_len)`. Raises
        `TypeError` or `ValueError` for tensors of other shapes than the class says.
        """
        check_sequence("context", context, self.size, ("batch", "context_len"))
        check_sequence("query", query, self.size, ("batch", "query_len"))
        check_batch("query", query, "context", context.shape[0])
        check_lengths("context_lengths", context_lengths, context.shape[0])
        check_lengths("query_lengths", query_lengths, context.shape[0])
        context_lengths, query_lengths = context_lengths.to(context.device), query_lengths.to(context.device)
        score, words, places = self.score(), padding(query_lengths), padding(context_lengths)
        normalizer = self.normalizer() if self.training else self.normalizer().settled()
        text, asked = context.unsqueeze(1), query.unsqueeze(1)  # one head
        how = {"score": score, "mask": words}
        looked = attend(text, asked, asked, normalizer=normalizer, return_weights=return_weights, **how)
        found, weights = looked if isinstance(looked, tuple) else (looked, None)
        best = cast(Tensor, attend(text, asked, asked, normalizer="hardmax", **how))
        # The score of each place with its best word is the largest of its scores, and has that one's gradient.
        each = [
            side.transpose(1, 2).unsqueeze(-2) for side in (text, best)
        ]  # (batch, context_len, 1, 1, size)
        largest = score.compare(*score.prepare(*each)).flatten(2).unsqueeze(1)
        one = torch.ones_like(largest[:, :, :1])
        # Where there is no question, no place is the best answer to it.
        some = dense((query_lengths > 0)[:, None, None, None])
        whole = attend(one, largest, text, score="dot", normalizer=normalizer, mask=places & some)
        found, whole = found.squeeze(1), cast(Tensor, whole).squeeze(1)
        weights = None if weights is None else weights.squeeze(1)
        inside = visible(context_lengths, context)[:, 0, 0]
        flow = torch.cat([context, found, context * found, context * whole], dim=-1)
        return flow.masked_fill(~inside.unsqueeze(-1), 0.0), weights
