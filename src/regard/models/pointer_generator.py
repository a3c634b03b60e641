"""The pointer-generator: a recurrent encoder-decoder that writes words of its vocabulary or copies the source's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from regard.errors import UserError
from regard.layers import CopyGate, Memory, MemoryAttention, coverage_loss
from regard.layers.dropout import Dropout
from regard.models import checks
from regard.models.embeddings import Embeddings, Tying
from regard.models.recurrent import CELLS, RecurrentEncoder
from regard.models.sequence import SequenceToSequence, sentences_to_select
from regard.models.wiring import Carried, Stack


@dataclass(frozen=True)
class PointerGeneratorSettings:
    """The shape of a pointer-generator; raises `UserError` for a value out of range, naming it."""

    source_vocabulary: int
    target_vocabulary: int
    """The same vocabulary: a word is copied by its number."""
    embedding_size: int = 128
    hidden_size: int = 256
    encoder_layers: int = 1
    decoder_layers: int = 1
    cell: Literal["gru", "lstm"] = "gru"
    bidirectional: bool = True
    attention: str = "additive/softmax"
    """A mechanism spelt `score/normalizer`; its weights say what is copied."""
    attention_size: int = 0
    """The size in which queries and keys are compared; 0 means `hidden_size`."""
    coverage: bool = True
    """Whether the attention sees how much weight each place of the source has had."""
    coverage_loss: float = 0.0
    """The share in the loss of looking again where it has looked before; 0: none. The paper has 1, at the end."""
    dropout: float = 0.2
    tie_embeddings: Tying = "all"
    """Which tables are one: "none", target and "output", or "all"."""

    def __post_init__(self) -> None:
        checks.at_least_one(self, "source_vocabulary", "embedding_size", "hidden_size")
        checks.at_least_one(self, "encoder_layers", "decoder_layers")
        checks.share(self, "dropout")
        checks.one_of(self, "cell", CELLS)
        if self.source_vocabulary != self.target_vocabulary:
            raise UserError(
                "a pointer-generator copies by the number of a word, so that source and target need one vocabulary, "
                f"got {self.source_vocabulary} source and {self.target_vocabulary} target words"
            )
        for name in ("attention_size", "coverage_loss"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.attention == "none":
            raise UserError(
                "attention: a pointer-generator copies by its weights, which 'none' has not; choose the model 'rnn'"
            )
        checks.mechanism("attention", self.attention, over_source=True)


class CoveringLook(MemoryAttention):
    r"""A look at the memory with any mechanism, whose keys know how much weight they have had.

    $$w_i = \mathrm{normalizer}_j\bigl(\mathrm{score}(W_q s_i,\; W_k h_j + w_c\, t_{ij})\bigr), \qquad
    t_i = \sum_{k < i} w_k$$

    For additive scores this is See et al. 2017, equation 11, $v^\top \tanh(W_q s_i + W_k h_j + w_c t_{ij} + b)$; with
    coverage in the key it is defined for every score. $w_c$ starts at zero.
    """

    def __init__(self, mechanism: str, query_size: int, memory_size: int, size: int, sees: bool) -> None:
        super().__init__(mechanism, query_size, memory_size, attention_size=size)
        self.coverage = nn.Parameter(torch.zeros(size)) if sees else None

    def once(self, query: Tensor, memory: Memory, covered: Tensor) -> tuple[Tensor, Tensor]:
        """Look with `width` queries at each sentence, each with a coverage of its own.

        *Shape*: query `(batch, width, query_size)`, covered `(batch, width, source_len)` -> `(batch, width,
        memory_size)` and the weights `(batch, width, source_len)`.
        """
        if self.coverage is None:
            context, weights = self(query, memory, return_weights=True)
            return context, weights.squeeze(1)
        batch, width, length = covered.shape
        queries = self.project(query, memory).transpose(1, 2)  # (batch, width, 1, size)
        keys = memory.key + covered.unsqueeze(-1).to(memory.key.dtype) * self.coverage
        values = memory.value.expand(batch, width, length, -1)
        shown = memory.mask.expand(batch, width, 1, length)
        context, seen = self.look(
            queries.reshape(batch * width, 1, 1, -1),
            keys.reshape(batch * width, 1, length, -1),
            values.reshape(batch * width, 1, length, -1),
            shown.reshape(batch * width, 1, 1, length),
            return_weights=True,
        )
        assert seen is not None
        return context.view(batch, width, -1), seen.view(batch, width, length)


@dataclass(frozen=True)
class PointerState:
    """The source, its prepared memory, what the decoder carries from token to token, and what it has looked at."""

    source: Tensor
    memory: Memory
    carried: Carried
    covered: Tensor
    width: int = 1

    def select(self, rows: Tensor) -> PointerState:
        """Reorder, repeat or drop rows of the batch, as `State.select`."""
        flat = rows.flatten()
        carried = tuple(tuple(part.index_select(0, flat) for part in layer) for layer in self.carried)
        covered = self.covered.index_select(0, flat)
        source, memory = self.source, self.memory
        if (sentences := sentences_to_select(rows, self.covered.shape[0], self.width)) is not None:
            source, memory = source.index_select(0, sentences), memory.select(sentences)
        return PointerState(source, memory, carried, covered, rows.shape[1] if rows.ndim == 2 else 1)


class PointerGenerator(SequenceToSequence[PointerState]):
    r"""A decoder that for every word chooses between writing it and copying it (See, Liu & Manning 2017).

    $$s_t = \mathrm{cell}([y_{t-1}; c_{t-1}], s_{t-1}), \qquad c_t = \sum_j a_{tj} h_j, \qquad
    P(w) = p_t\, \mathrm{softmax}(V [c_t; s_t; y_{t-1}] + b)_w + (1 - p_t) \sum_{j:\, x_j = w} a_{tj}$$

    The weights $a_t$ are those of any mechanism, which sees the coverage (`CoveringLook`); where they need not sum to
    one (`sigmoid`), what is copied is drawn in proportion to them. $p_t$ is `regard.layers.CopyGate`'s. The loss adds
    `coverage_loss` times $\sum_j \min(a_{tj}, t_{tj})$, $t_t$ the sum of the weights before; label smoothing
    spreads over what is written, not what is copied.

    Unlike in the paper, tokens are subwords of one vocabulary, so that every word of a source can be both written and
    copied; the state before the output is a maximum of two projections, as in Bahdanau et al. 2015; and the coverage
    loss, where there is any, is there from the start, which the authors found to be in the way of learning: by default
    there is none, and the search repeats no trigram instead.

    `forward` gives the logarithms of the probabilities themselves, which `project` leaves as they are.

    Example:
        >>> settings = PointerGeneratorSettings(30, 30, embedding_size=8, hidden_size=8, attention="dot/sparsemax")
        >>> model = PointerGenerator(settings).eval()
        >>> source, lengths = torch.tensor([[4, 5, 2]]), torch.tensor([3])
        >>> words = model(source, lengths, torch.tensor([[1, 7]]))
        >>> words.shape, [round(total, 4) for total in words.exp().sum(-1)[0].tolist()]
        (torch.Size([1, 2, 30]), [1.0, 1.0])
    """

    def __init__(self, settings: PointerGeneratorSettings) -> None:
        super().__init__()
        self.settings = settings
        size, embedding = settings.hidden_size, settings.embedding_size
        self.embeddings = Embeddings(
            settings.source_vocabulary,
            settings.target_vocabulary,
            embedding,
            tying=settings.tie_embeddings,
            output_bias=True,
            scale=1.0,
            std=0.1,
        )
        self.encoder = RecurrentEncoder(
            settings.cell,
            embedding,
            size,
            layers=settings.encoder_layers,
            bidirectional=settings.bidirectional,
            dropout=settings.dropout,
        )
        seen = self.encoder.memory_size
        self.look = CoveringLook(
            settings.attention, size, seen, settings.attention_size or size, settings.coverage
        )
        self.stack = Stack(
            settings.cell, embedding, seen, size, seen, settings.decoder_layers, settings.dropout
        )
        self.readout = nn.Linear(seen + size + embedding, 2 * embedding)
        self.copy = CopyGate(seen + size + embedding)
        self.dropout = Dropout(settings.dropout)
        for linear in (self.readout, self.copy.gate):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    @property
    def output_weight(self) -> Tensor:
        return self.embeddings.output_weight

    @property
    def output_bias(self) -> Tensor | None:
        return self.embeddings.output_bias

    def encode(self, source: Tensor, source_lengths: Tensor) -> PointerState:
        embedded = self.dropout(self.embeddings.read_source(source))
        memory, summary = self.encoder(embedded, source_lengths)
        nothing = memory.new_zeros(memory.shape[0], self.encoder.memory_size)
        untouched = memory.new_zeros(source.shape, dtype=torch.promote_types(memory.dtype, torch.float32))
        carried = (*self.stack.bridge(summary), (nothing,))
        return PointerState(source, self.look.prepare(memory, source_lengths), carried, untouched)

    def _unroll(self, tokens: Tensor, state: PointerState) -> tuple[Tensor, Tensor, PointerState]:
        """The features, the weights and the state after.

        *Shape*: tokens `(batch * width, target_len)` -> `(batch * width, target_len, size)` and `(batch * width,
        target_len, source_len)`.
        """
        embedded = self.dropout(self.embeddings.read_target(tokens))
        *layers, (context,) = state.carried
        hidden: Carried = tuple(layers)
        covered, grouped = state.covered, (-1, state.width)
        states, contexts, seen = [], [], []
        for gates in self.stack.gates(embedded):
            hidden = self.stack.step(gates, context, hidden)
            looked, weights = self.look.once(
                hidden[-1][0].unflatten(0, grouped), state.memory, covered.unflatten(0, grouped)
            )
            context, weights = looked.flatten(0, 1), weights.flatten(0, 1)
            covered = covered + weights
            states.append(hidden[-1][0])
            contexts.append(context)
            seen.append(weights)
        features = torch.cat([torch.stack(contexts, 1), torch.stack(states, 1), embedded], -1)
        after = PointerState(state.source, state.memory, (*hidden, (context,)), covered, state.width)
        return features, torch.stack(seen, 1), after

    def _scores(self, features: Tensor) -> Tensor:
        """The scores of writing every word.  *Shape*: `(..., size)` -> `(..., vocabulary)`."""
        readout = self.dropout(torch.maximum(*self.readout(features).chunk(2, dim=-1)))
        return nn.functional.linear(readout, self.output_weight, self.output_bias)

    def forward(self, source: Tensor, source_lengths: Tensor, target_input: Tensor) -> Tensor:
        features, weights, _ = self._unroll(target_input, self.encode(source, source_lengths))
        return self.copy(features, self._scores(features), shares(weights), source)

    def project(self, states: Tensor) -> Tensor:
        """What `forward` gives are scores already.  *Shape*: `(..., vocabulary)` -> the same."""
        return states

    def step(self, tokens: Tensor, state: PointerState) -> tuple[Tensor, PointerState, Tensor]:
        features, weights, after = self._unroll(tokens[:, None], state)
        source = state.source.repeat_interleave(state.width, 0) if state.width > 1 else state.source
        words = self.copy(features, self._scores(features), shares(weights), source)
        return words.squeeze(1), after, weights.squeeze(1)

    def alignment(self, source: Tensor, source_lengths: Tensor, target_input: Tensor) -> Tensor:
        return self._unroll(target_input, self.encode(source, source_lengths))[1][:, None, None]

    def loss(
        self,
        source: Tensor,
        source_lengths: Tensor,
        target: Tensor,
        target_lengths: Tensor,
        smoothing: float = 0.0,
    ) -> tuple[Tensor, Tensor, int]:
        features, weights, _ = self._unroll(target[:, :-1], self.encode(source, source_lengths))
        positions = torch.arange(target.shape[1] - 1, device=target.device)
        kept = (positions < target_lengths.to(target.device)[:, None]).nonzero()
        rows, places = kept.unbind(1)
        features = features[rows, places]
        scores = self._scores(features)
        words = target[rows, places + 1]
        probable = self.copy.of_words(features, scores, shares(weights[rows, places]), source[rows], words)
        surprise = -probable.sum()
        loss = (1.0 - smoothing) * surprise
        if smoothing:
            precise = scores.to(probable.dtype)
            loss = loss + smoothing * (precise.logsumexp(-1) - precise.mean(-1)).sum()
        if self.settings.coverage_loss:
            loss = loss + self.settings.coverage_loss * coverage_loss(weights)[rows, places].sum()
        return loss, surprise.detach(), kept.shape[0]


def shares(weights: Tensor) -> Tensor:
    """The weights as shares of their sum, those that are all zero as they are.  *Shape*: `(..., source_len)`."""
    total = weights.sum(-1, keepdim=True)
    return weights / total.masked_fill(total == 0, 1.0)
