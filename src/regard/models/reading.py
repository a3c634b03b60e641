"""What all readers of a question and its context share: words as vectors, and the ends of an answer."""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn
from torch.nn import functional

from regard.data.passages import Questions
from regard.data.vocabulary import UNK
from regard.layers.dropout import Dropout
from regard.layers.learned import visible

__all__ = ["MATCHES", "Ends", "Reader", "WordVectors", "matches"]

MATCHES = 4
"""How many ways there are in which a word of one text may occur in the other (see `matches`)."""


class Reader(nn.Module, abc.ABC):
    """A model that finds the answer to a question in its context.

    `threshold` is how much likelier, as a logarithm, no answer must be than the best answer for there to be none; the
    task sets it by its validation data, and it is saved with the weights.
    """

    threshold: Tensor
    vectors: WordVectors

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.zeros(()))

    @abc.abstractmethod
    def read(self, batch: Questions, *, return_weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """The scores of each place to be an answer's start and end and, when asked for, where the model looked.

        *Shape*: scores `(batch, 2, 1 + context_len)`, of which place 0 is that there is no answer, and minus infinity
        what cannot be; weights `(batch, layers, heads, context_len, question_len)`, of each word of the context over
        those of the question.
        """

    def forward(self, batch: Questions, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
        """The loss, summed over starts and ends, and the sum of the surprise alone, to report.

        Both are cross entropies against all right answers, each by its share; `smoothing` is spread evenly over all
        places that there are.
        """
        scores, _ = self.read(batch)
        chances = scores.float().log_softmax(-1)
        places = torch.stack([batch.starts, batch.ends], 1)
        surprise = -(chances.gather(-1, places) * batch.shares.unsqueeze(1)).sum()
        if not smoothing:
            return surprise, surprise.detach()
        there = torch.isfinite(chances)
        even = -chances.masked_fill(~there, 0.0).sum(-1) / there.sum(-1)
        return (1 - smoothing) * surprise + smoothing * even.sum(), surprise.detach()


def matches(batch: Questions) -> tuple[Tensor, Tensor]:
    """Which words of the context are in the question, and the other way round (Chen et al. 2017, section 3.2).

    The ways to match: the same word; the same but for case; the same beginning; with the next or the last word, both
    without regard to case.

    *Shape*: `(batch, context_len, MATCHES)`, `(batch, question_len, MATCHES)`, of zeros and ones.
    """
    alike = []
    for kind in (None, batch.forms, batch.stems):
        context, question = (side if kind is None else kind[side] for side in (batch.context, batch.question))
        same = context.unsqueeze(2) == question.unsqueeze(1)
        alike.append(same & (batch.context != 0).unsqueeze(2) & (batch.question != 0).unsqueeze(1))
    pairs = alike[1][:, :-1, :-1] & alike[1][:, 1:, 1:]
    pair = functional.pad(pairs, (0, 1, 0, 1)) | functional.pad(pairs, (1, 0, 1, 0))
    every = torch.stack([*alike, pair], -1)
    return every.any(2).float(), every.any(1).float()


class WordVectors(nn.Module):
    r"""A vector for each different word of a batch: its own, and one of its characters, brought together.

    $$x = \mathrm{highway}(\mathrm{highway}(W\,[e;\ \max_t \mathrm{conv}(c)_t])), \qquad
    \mathrm{highway}(x) = g \odot \mathrm{relu}(W_h x) + (1 - g) \odot x, \quad g = \sigma(W_g x)$$

    Then the words of each text, with a number for each way in which they match the other text. In training words are
    replaced by the unknown one at the rate `word_dropout`, so that it too has a meaning; `characters = 0` is without
    those.

    *Shape*: a batch -> context `(batch, context_len, width)`, question `(batch, question_len, width)`.

    Seo et al. 2017, section 2, layers 1 and 2; characters as Kim 2014; Srivastava et al. 2015 (highway).
    """

    def __init__(
        self,
        words: int,
        characters: int,
        *,
        size: int,
        word_size: int,
        character_size: int,
        match: bool,
        dropout: float,
        word_dropout: float,
    ) -> None:
        super().__init__()
        self.words = nn.Parameter(torch.empty(words, word_size).normal_(std=0.1))
        self.characters = (
            nn.Parameter(torch.empty(characters, 16).normal_(std=0.5)) if character_size else None
        )
        self.convolution = nn.Conv1d(16, character_size, 5, padding=4) if character_size else None
        self.project = nn.Linear(word_size + character_size, size)
        self.highway = nn.ModuleList(nn.Linear(size, 2 * size) for _ in range(2))
        # What a match says depends on the word: one of "the" says little.
        self.weigh = nn.Linear(size, MATCHES) if match else None
        self.dropout, self.word_dropout = Dropout(dropout), word_dropout
        self.width = size + (2 * MATCHES if match else 0)

    def forward(self, batch: Questions) -> tuple[Tensor, Tensor]:
        """The vectors of all words of both texts."""
        numbers = batch.words
        if self.training and self.word_dropout:
            dropped = torch.rand(numbers.shape, device=numbers.device) < self.word_dropout
            numbers = numbers.masked_fill(dropped, UNK)
        parts = [functional.embedding(numbers, self.words)]
        if self.characters is not None and self.convolution is not None:
            spelt = functional.embedding(batch.spellings, self.characters)
            spelt = spelt * (batch.spellings != 0).unsqueeze(-1)
            parts.append(self.convolution(spelt.transpose(1, 2)).amax(-1).relu())
        vectors = self.project(self.dropout(torch.cat(parts, -1)))
        for layer in self.highway:
            new, gate = layer(vectors).chunk(2, -1)
            vectors = torch.lerp(vectors, new.relu(), gate.sigmoid())
        vectors = torch.cat([torch.zeros_like(vectors[:1]), vectors[1:]])
        texts = [self.dropout(vectors)[place] for place in (batch.context, batch.question)]
        if self.weigh is None:
            return texts[0], texts[1]
        worth = functional.softplus(self.weigh(vectors))
        found = matches(batch)
        context, question = (
            torch.cat([text, seen, seen * worth[place]], -1)
            for text, seen, place in zip(texts, found, (batch.context, batch.question), strict=True)
        )
        return context, question


class Ends(nn.Module):
    r"""The scores of each place to be where the answer starts, or ends, and of there being none.

    $$a_t = w^\top f_t + b, \qquad a_0 = v^\top \max_t f_t + c$$

    The second where `null` says that a question may have no answer. *Shape*: features for starts and for ends `(batch,
    context_len, size)`, lengths `(batch,)` -> `(batch, 2, 1 + context_len)`.

    Seo et al. 2017, section 2, "Output layer"; a score of its own for no answer as in Levy et al. 2017, there the same
    for every question.
    """

    def __init__(self, size: int, null: bool, dropout: float) -> None:
        super().__init__()
        self.place = nn.ModuleList(nn.Linear(size, 1) for _ in range(2))
        self.null = nn.ModuleList(nn.Linear(size, 1) for _ in range(2 if null else 0))
        self.dropout = Dropout(dropout)

    def forward(self, starts: Tensor, ends: Tensor, lengths: Tensor) -> Tensor:
        """The scores, minus infinity for what cannot be."""
        inside = visible(lengths, starts)[:, 0, 0]
        rows: list[Tensor] = []
        for number, features in enumerate((self.dropout(starts), self.dropout(ends))):
            here = self.place[number](features).squeeze(-1).masked_fill(~inside, -torch.inf)
            if len(self.null):
                most = features.masked_fill(~inside.unsqueeze(-1), -torch.inf).amax(1)
                none = self.null[number](most)
            else:
                none = torch.full_like(here[:, :1], -torch.inf)
            rows.append(torch.cat([none, here], -1))
        return torch.stack(rows, 1)
