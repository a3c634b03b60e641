"""The contract every sequence-to-sequence model keeps, so that one loop trains and one search decodes all."""

from __future__ import annotations

import abc
from typing import Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from regard.layers.linear import linear
from regard.models.loss import smoothed_cross_entropy


class State(Protocol):
    """Everything a model needs to continue a batch of half-written targets."""

    def select(self, rows: Tensor) -> Self:
        """Reorder, repeat or drop rows of the batch.

        *Shape*: rows `(sentences,)`, or `(sentences, width)`, whose entries in one row must continue the same
        source: they then share what was read of it instead of copying it, and `step` takes `sentences *
        width` tokens.
        """
        ...


def sentences_to_select(rows: Tensor, batch: int, width: int) -> Tensor | None:
    """Return which sentences the `rows` of `State.select` keep, or None if all of them in order.

    *Shape*: rows as there, of a `batch` with `width` rows for each sentence; the result `(sentences,)`.
    """
    first = rows[:, 0] if rows.ndim == 2 else rows
    sentences = first.div(width, rounding_mode="floor")
    everyone = torch.arange(batch // width, device=rows.device)
    return None if torch.equal(sentences, everyone) else sentences


S = TypeVar("S", bound=State)


class SequenceToSequence(nn.Module, abc.ABC, Generic[S]):
    """A model that reads a source sentence and writes a target sentence, token by token.

    Sources and targets are int64 ids padded with 0; padding never changes a result. `forward` returns the
    states *before* the projection onto the vocabulary, so that the loss can project them a chunk at a time.
    """

    @property
    @abc.abstractmethod
    def output_weight(self) -> Tensor:
        """The projection onto the target vocabulary.  *Shape*: `(vocabulary, size)`."""

    @property
    @abc.abstractmethod
    def output_bias(self) -> Tensor | None:
        """The bias of that projection.  *Shape*: `(vocabulary,)`."""

    @abc.abstractmethod
    def encode(self, source: Tensor, source_lengths: Tensor) -> S:
        """Read the sources.  *Shape*: source `(batch, source_len)`, source_lengths `(batch,)`."""

    @abc.abstractmethod
    def forward(self, source: Tensor, source_lengths: Tensor, target_input: Tensor) -> Tensor:
        """Write the targets under teacher forcing.

        *Shape*: source `(batch, source_len)`, source_lengths `(batch,)`, target_input `(batch, target_len)`;
        the result, the states before `project`, `(batch, target_len, size)`.
        """

    @abc.abstractmethod
    def step(self, tokens: Tensor, state: S) -> tuple[Tensor, S, Tensor | None]:
        """Write one more token.

        *Shape*: tokens (the last ones written) `(batch,)`; the results are the scores of the next token
        `(batch, vocabulary)`, the next state, and where the model looked `(batch, source_len)`: the mean over
        the heads of the last layer that looks at the source, or None without attention.
        """

    @abc.abstractmethod
    def alignment(self, source: Tensor, source_lengths: Tensor, target_input: Tensor) -> Tensor | None:
        """Return the exact attention weights under teacher forcing, or None without attention.

        *Shape*: as `forward`; the result `(batch, layers, heads, target_len, source_len)`.
        """

    def project(self, states: Tensor) -> Tensor:
        """Score every token of the vocabulary.  *Shape*: `(..., size)` -> `(..., vocabulary)`."""
        return linear(states, self.output_weight, self.output_bias)

    def loss(
        self,
        source: Tensor,
        source_lengths: Tensor,
        target: Tensor,
        target_lengths: Tensor,
        smoothing: float = 0.0,
    ) -> tuple[Tensor, Tensor, int]:
        """Return the sums over all tokens of the (label-smoothed) loss and of the negative log-likelihood,
        and their number.

        Padded positions are neither projected nor counted. Only the first sum is differentiable.

        *Shape*: source `(batch, source_len)`, target `(batch, target_len + 1)` from BOS to EOS, both lengths
        `(batch,)`, where a target's length is the number of tokens to predict (EOS included); the sums are
        `()`.
        """
        states = self(source, source_lengths, target[:, :-1])
        positions = torch.arange(target.shape[1] - 1, device=target.device)
        kept = (positions < target_lengths.to(target.device)[:, None]).flatten().nonzero()[:, 0]
        loss, surprise = smoothed_cross_entropy(
            states.flatten(0, 1).index_select(0, kept),
            self.output_weight,
            self.output_bias,
            target[:, 1:].flatten().index_select(0, kept),
            smoothing,
        )
        return loss, surprise, kept.shape[0]
