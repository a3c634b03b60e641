"""Attention whose weights are the answer: pointing at the memory, and copying from it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, pad

from regard.attention.call import unaltered
from regard.attention.numbers import check_whole, check_whole_tensor, readable
from regard.attention.parts import tensors_of, with_tensors
from regard.attention.picture import broadcastable
from regard.attention.scores import Score
from regard.layers.checks import check_sequence, check_sizes
from regard.layers.learned import learned_score
from regard.layers.memory import Memory, Projections

__all__ = ["CopyGate", "PointerAttention"]


class PointerAttention(Projections):
    r"""A pointer network's answer: how probable each place of the memory is.

    $$\log p(j \mid s_i) = e_{ij} - \log \sum_k e^{e_{ik}}, \qquad
    e_{ij} = \mathrm{score}(W_q s_i, W_k h_j) = v^\top \tanh(W_q s_i + W_k h_j + b)$$

    The logarithms are computed from the scores, so that they are finite, with a gradient, where the weight itself
    would be too small for a number, in single precision at least; that of a hidden place is minus infinity. `score` is
    any that can be spelt: `"additive+softcap-10"` keeps scores between -10 and 10, which makes a policy explore.

    *Shape:* query `(batch, query_len, query_size)`, memory `(batch, memory_len, memory_size)` ->
    `(batch, query_len, memory_len)`. `attention_size` is `memory_size` when not given.

    Raises `ValueError` for sizes below 1 and for a score that does not exist.

    Example:
        >>> import torch
        >>> point = PointerAttention(query_size=6, memory_size=8)
        >>> memory = point.prepare(torch.randn(2, 5, 8), torch.tensor([5, 3]))
        >>> free = torch.ones(2, 1, 5, dtype=torch.bool)
        >>> for query in torch.randn(3, 2, 1, 6):  # three different places
        ...     chosen = point(query, memory, mask=free).argmax(-1, keepdim=True)
        ...     free = free.scatter(-1, chosen, False)
        >>> free.sum(-1).tolist()
        [[2], [2]]

    Vinyals et al. 2015, section 2.3, without a bias; Bello et al. 2017, appendices A.1 and A.2, whose
    clipping is $10 \tanh(e)$, where `softcap-10` is $10 \tanh(e / 10)$; their glimpse is a `MemoryAttention` before it.
    PyTorch and Keras have no such layer.
    """

    def __init__(
        self,
        query_size: int,
        memory_size: int,
        attention_size: int | None = None,
        *,
        score: Score | str = "additive",
    ) -> None:
        super().__init__(query_size, memory_size, attention_size)
        self.score = learned_score(score, 1, self.attention_size)

    def forward(self, query: Tensor, memory: Memory, mask: Tensor | None = None) -> Tensor:
        """The logarithms of the probabilities of all places; minus infinity for all, where all are hidden.

        *Shape:* query `(batch, query_len, query_size)`, mask boolean, True where the query may point, broadcastable to
        `(batch, query_len, memory_len)` -> `(batch, query_len, memory_len)`. Raises `TypeError` or `ValueError` for
        others.
        """
        queries, keys, score = self.project(query, memory), memory.key, self.score()
        precise = torch.promote_types(queries.dtype, torch.float32)
        score = with_tensors(score, [tensor.to(precise) for tensor in tensors_of(score)])
        shown = memory.mask.squeeze(1)
        if mask is not None:
            full = (*query.shape[:2], memory.key.shape[2])
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
                kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
                raise TypeError(f"mask must be boolean, True where the query may point, it is {kind}")
            if not broadcastable(tuple(mask.shape), full):
                raise ValueError(
                    f"mask must be broadcastable to (batch, query_len, memory_len) = {full}, "
                    f"it has shape {tuple(mask.shape)}"
                )
            shown = shown & mask
        with unaltered(queries.device):
            queries, keys = queries.to(precise), keys.to(precise)
            score.check(queries, keys)
            scores = score.compare(*score.prepare(queries, keys)).squeeze(1).masked_fill(~shown, -torch.inf)
        blind = ~shown.any(-1, keepdim=True)
        return torch.log_softmax(scores.masked_fill(blind, 0.0), dim=-1).masked_fill(~shown, -torch.inf)


class CopyGate(nn.Module):
    r"""A decoder's choice between writing a word of its vocabulary and copying one from the source.

    $$P(w) = p\, \mathrm{softmax}(z)_w + (1 - p) \sum_{j:\, x_j = w} a_j, \qquad p = \sigma(u^\top f + b)$$

    $z$ are the scores of the vocabulary, $a$ the attention weights over the source $x$, and $f$ is what the gate looks
    at: context, state and input side by side; $p = 1$ where no place has any weight. Words of the source that the
    vocabulary lacks have the numbers after its last, `extra` of them.

    *Shape:* features `(batch, target_len, size)`, scores `(batch, target_len, vocabulary)`, weights
    `(batch, target_len, source_len)`, source `(batch, source_len)` of whole numbers below `vocabulary + extra` ->
    $\log P$, `(batch, target_len, vocabulary + extra)`; minus infinity where a word can be neither written nor copied.

    Raises `ValueError` unless `size` is at least 1.

    Example:
        >>> import torch
        >>> gate = CopyGate(6)
        >>> weights = torch.tensor([[[0.5, 0.25, 0.25, 0.0]]])
        >>> source = torch.tensor([[3, 10, 3, 0]])  # 10 is new to a vocabulary of 10 words
        >>> words = gate(torch.randn(1, 1, 6), torch.randn(1, 1, 10), weights, source, extra=1)
        >>> words.shape, round(words.exp().sum().item(), 4)
        (torch.Size([1, 1, 11]), 1.0)

    See et al. 2017, section 2.2, equations 8 and 9. Here the result is a logarithm, ready for `nll_loss`; a word whose
    weights are all zero counts as one that cannot be copied, and its weights get no gradient. OpenNMT-py's
    `CopyGenerator` gives the two parts side by side, to be added up by a loss of its own; PyTorch and Keras have no
    such layer.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        check_sizes(size=size)
        self.size = size
        self.gate = nn.Linear(size, 1)

    def forward(
        self, features: Tensor, scores: Tensor, weights: Tensor, source: Tensor, *, extra: int = 0
    ) -> Tensor:
        """The logarithms of the probabilities of all words; raises `TypeError` or `ValueError` for other shapes."""
        check_sequence("features", features, self.size, ("batch", "target_len"))
        check_whole_tensor("source", source)
        check_whole("extra", extra)
        for name, tensor, last in (
            ("scores", scores, scores.shape[-1]),
            ("weights", weights, source.shape[-1]),
        ):
            expected = (*features.shape[:2], last)
            if tuple(tensor.shape) != expected:
                raise ValueError(f"{name} must be {expected}, they have shape {tuple(tensor.shape)}")
        if tuple(source.shape) != (features.shape[0], weights.shape[-1]):
            raise ValueError(
                f"source must be {(features.shape[0], weights.shape[-1])}, it has shape {tuple(source.shape)}"
            )
        words = scores.shape[-1] + extra
        if readable(source) and source.numel() and not 0 <= int(source.min()) <= int(source.max()) < words:
            worst = int(source.min()) if int(source.min()) < 0 else int(source.max())
            raise ValueError(f"source must hold words below {words}, it holds {worst}")
        gate = self._gate(features, weights)
        written = pad(torch.log_softmax(scores, dim=-1), (0, extra), value=-torch.inf)
        places = source.unsqueeze(1).expand_as(weights).to(torch.int64)
        copied = torch.zeros_like(written).scatter_add(-1, places, weights.to(written.dtype))
        return _mixed(gate, written, copied)

    def of_words(
        self, features: Tensor, scores: Tensor, weights: Tensor, source: Tensor, words: Tensor
    ) -> Tensor:
        """What a call of the layer gives, but only for one known word of the vocabulary at each place, as a loss needs.

        The weight of the source's places is added up where they hold that word, so that no further tensor has the
        vocabulary's size.

        *Shape:* features `(n, size)`, scores `(n, vocabulary)`, weights and source `(n, source_len)`, words `(n,)`
        int64 -> `(n,)`.
        """
        precise = torch.promote_types(scores.dtype, torch.float32)
        scores = scores.to(precise)
        written = scores.gather(-1, words.unsqueeze(-1)).squeeze(-1) - scores.logsumexp(-1)
        copied = (weights.to(precise) * (source == words.unsqueeze(-1))).sum(-1)
        return _mixed(self._gate(features, weights).squeeze(-1), written, copied)

    def _gate(self, features: Tensor, weights: Tensor) -> Tensor:
        """The choice before its sigmoid: infinite, which is to write, where no place has any weight."""
        gate: Tensor = self.gate(features)
        return gate.masked_fill((weights == 0).all(-1, keepdim=True), torch.inf)


def _mixed(gate: Tensor, written: Tensor, copied: Tensor) -> Tensor:
    """`log(p * exp(written) + (1 - p) * copied)`, where `gate` is p before its sigmoid."""
    written = written + logsigmoid(gate)
    nowhere = copied == 0
    chosen = copied.masked_fill(nowhere, 1.0).log() + logsigmoid(-gate).masked_fill(nowhere, 0.0)
    # The logarithm of zero, and its infinite gradient, are never taken.
    return torch.where(nowhere, written, torch.logaddexp(written, chosen))
