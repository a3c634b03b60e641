"""The attention of Luong, Pham and Manning: global, or local around a place."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from regard.attention.mechanism import score_named
from regard.attention.normalizers import Local, Normalizer, Softmax
from regard.attention.numbers import check_number, check_whole
from regard.attention.operator import attend
from regard.attention.scores import Concat, General, Score
from regard.layers.checks import check_batch, check_lengths, check_sequence, check_sizes
from regard.layers.learned import LearnedPart, uniform, visible
from regard.layers.memory import Memory, check_memory

__all__ = ["LuongAttention"]


class LuongAttention(nn.Module):
    r"""A decoder's look at the encoder's states, and the vector it makes of what it saw and of its own state.

    $$\tilde h_t = \tanh(W_c [c_t; h_t]), \qquad c_t = \sum_s w_{ts} \bar h_s, \qquad
    w_t = \mathrm{align}_s\bigl(\mathrm{score}(h_t, \bar h_s)\bigr)$$

    Queries and memory are compared as they are. `score` is `"dot"` (one size for both), `"general"`, `"concat"`,
    `"location-50"` (for at most 50 places), or, where both have one size, any other score that can be spelt. `kind` is

    - `"global"`: align is softmax over the whole memory
    - `"local-m"`: softmax over the `width` $D$ places before and after the query's own, $p_t = t$
    - `"local-p"`: that around a predicted place $p_t = S\, \sigma(v^\top \tanh(W_p h_t))$, $S$ being the length of the
      memory, times $\exp(-(s - p_t)^2 / (2 (D/2)^2))$

    *Shape:* query `(batch, query_len, query_size)`, memory `(batch, memory_len, memory_size)` ->
    `(batch, query_len, output_size)`; `output_size` is `query_size` when not given.

    Raises `ValueError` for a score or kind that does not exist, for sizes that the score cannot compare, and for a
    `width` that is not above 0.

    Example:
        >>> import torch
        >>> look = LuongAttention(6, 8, "general", kind="local-p", width=2)
        >>> memory = look.prepare(torch.randn(2, 7, 8), torch.tensor([7, 3]))
        >>> states, weights = look(torch.randn(2, 4, 6), memory, return_weights=True)
        >>> states.shape, weights.shape
        (torch.Size([2, 4, 6]), torch.Size([2, 1, 4, 7]))

    Luong et al. 2015, section 3 (equation 5), 3.1 (scores; location: equation 8), 3.2 (local: equations 9 and 10);
    places are counted from 0. What they feed to the decoder's next step (section 3.3) is the output. Keras' `Attention`
    is `"dot"` without the rest; `MemoryAttention` projects both sides first and gives the context alone; PyTorch has no
    counterpart.
    """

    def __init__(
        self,
        query_size: int,
        memory_size: int,
        score: str = "general",
        *,
        kind: str = "global",
        width: float = 10,
        output_size: int | None = None,
    ) -> None:
        super().__init__()
        self.query_size, self.memory_size, self.kind, self.width = query_size, memory_size, kind, width
        output_size = query_size if output_size is None else output_size
        check_sizes(query_size=query_size, memory_size=memory_size, output_size=output_size)
        check_number("width", width)
        if kind not in _ALIGNMENTS:
            raise ValueError(f"kind must be one of {', '.join(_ALIGNMENTS)}, it is {kind!r}")
        self.score = LearnedPart(_first(score_named(score), query_size, memory_size))
        self.place = _Place(query_size) if kind == "local-p" else None
        self.output = nn.Linear(memory_size + query_size, output_size, bias=False)

    def prepare(self, memory: Tensor, lengths: Tensor) -> Memory:
        """What `forward` looks at: keys and values are the memory itself.

        *Shape:* memory `(batch, memory_len, memory_size)`, lengths `(batch,)` of whole numbers. Raises `TypeError` or
        `ValueError` for others.
        """
        check_sequence("memory", memory, self.memory_size, ("batch", "memory_len"))
        check_lengths("lengths", lengths, memory.shape[0])
        states = memory.unsqueeze(1)
        return Memory(states, states, visible(lengths, memory))

    def forward(
        self, query: Tensor, memory: Memory, *, position: int = 0, return_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """The attentional vectors, and the weights when asked for.

        `position` is the place of the first query among all: decoding step by step, `"local-m"` must be told.

        *Shape:* query `(batch, query_len, query_size)` -> `(batch, query_len, output_size)`, and weights
        `(batch, 1, query_len, memory_len)`. Raises `TypeError` or `ValueError` for another query.
        """
        check_memory(memory, 1, self.memory_size)
        check_whole("position", position)
        check_sequence("query", query, self.query_size, ("batch", "query_len"))
        check_batch("query", query, "memory", memory.batch)
        found = attend(
            query.unsqueeze(1),
            memory.key,
            memory.value,
            score=self.score(),
            normalizer=_ALIGNMENTS[self.kind](self, query, memory, position),
            mask=memory.mask,
            return_weights=return_weights,
        )
        context, weights = found if isinstance(found, tuple) else (found, None)
        output = torch.tanh(self.output(torch.cat([context.squeeze(1), query], dim=-1)))
        return output, weights

    def _global(self, query: Tensor, memory: Memory, position: int) -> Normalizer:
        return Softmax()

    def _monotonic(self, query: Tensor, memory: Memory, position: int) -> Normalizer:
        places = torch.arange(position, position + query.shape[1], device=query.device)
        # Half precision cannot count a long memory's places.
        return Local(places.to(torch.promote_types(query.dtype, torch.float32)), self.width, gaussian=False)

    def _predicted(self, query: Tensor, memory: Memory, position: int) -> Normalizer:
        assert self.place is not None
        share = self.place(query).transpose(1, 2)
        return Local(memory.mask.sum(-1).to(share) * share, self.width)

    def extra_repr(self) -> str:
        return f"{self.query_size}, {self.memory_size}, kind={self.kind!r}, width={self.width}"


_ALIGNMENTS: dict[str, Callable[[LuongAttention, Tensor, Memory, int], Normalizer]] = {
    "global": LuongAttention._global,
    "local-m": LuongAttention._monotonic,
    "local-p": LuongAttention._predicted,
}
"""How scores become weights, by the `kind` that says so."""


class _Place(nn.Module):
    """Where a query would look, as a share of the memory, in single precision at least.

    *Shape:* `(..., size)` -> `(..., 1)`.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(size, size, bias=False)
        self.vector = nn.Linear(size, 1, bias=False)

    def forward(self, query: Tensor) -> Tensor:
        hidden = torch.tanh(self.hidden(query))
        precise = torch.promote_types(hidden.dtype, torch.float32)
        return torch.sigmoid((hidden.to(precise) * self.vector.weight.to(precise)).sum(-1, keepdim=True))


def _first(score: Score, query_size: int, memory_size: int) -> Score:
    """The score with first values that keep scores near unit size."""
    if query_size == memory_size:
        return score.learn(1, query_size)
    if isinstance(score, General):
        return General(uniform(1 / (query_size * memory_size), 1, query_size, memory_size))
    if isinstance(score, Concat):
        both = query_size + memory_size
        return Concat(
            uniform(1 / both, 1, memory_size, both),
            uniform(1 / memory_size, 1, memory_size),
            torch.zeros(1, memory_size),
        )
    score = score.learn(1, query_size)
    # Raises what `attend` would, before a model is built on it.
    score.check(torch.empty(1, 1, 1, query_size), torch.empty(1, 1, 1, memory_size))
    return score
