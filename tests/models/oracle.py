"""A made-up language, to search and to draw from."""

from __future__ import annotations

from dataclasses import dataclass

import torch

PAD, BOS, EOS = 0, 1, 2


@dataclass(frozen=True)
class Written:
    """All tokens written so far: enough to continue for a model whose next scores hang on the whole past."""

    source: torch.Tensor
    tokens: torch.Tensor
    width: int = 1

    def select(self, rows):
        flat = rows.flatten()
        return Written(self.source[flat], self.tokens[flat], 1)


class Oracle:
    """A made-up language: the scores of the next token are a fixed random function of source and past."""

    def __init__(self, words, sharpness=2.0):
        self.words, self.sharpness = words, sharpness

    def encode(self, source, source_lengths):
        return Written(source[:, :1], torch.zeros(len(source), 0, dtype=torch.int64))

    def scores(self, source, past):
        seed = source * 7919
        for token in past:
            seed = (seed * 31 + token + 1) % 1_000_003
        generator = torch.Generator().manual_seed(seed)
        return self.sharpness * torch.randn(self.words, generator=generator, dtype=torch.float64)

    def step(self, tokens, state):
        past = torch.cat([state.tokens, tokens[:, None]], 1)
        rows = zip(state.source[:, 0].tolist(), past.tolist(), strict=True)
        scores = torch.stack([self.scores(source, row) for source, row in rows])
        weights = past.sum(1, keepdim=True).expand(-1, 2)  # a mark of the past, to see that weights follow
        return scores, Written(state.source, past), weights

    def price(self, source, tokens):
        total, past = 0.0, [BOS]
        for token in [*tokens, EOS]:
            total += torch.log_softmax(self.scores(source, past), -1)[token].item()
            past.append(token)
        return total


SOURCES = torch.arange(3, 9)[:, None].expand(-1, 2).clone()
LENGTHS = torch.full((6,), 2)
