"""From the scores of starts and ends to answers: the likeliest spans of a text, read window by window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from regard.data.batches import in_length_order
from regard.data.lexicon import Lexicon
from regard.data.passages import Passage, Window
from regard.models.reading import Reader

__all__ = ["Found", "Span", "extract"]

READ_AT_ONCE = 8192
"""Padded words of contexts read at once."""


class Span(NamedTuple):
    """An answer: its text, the logarithm of its probability, its first and its last word."""

    text: str
    score: float
    first: int
    last: int


class Found(NamedTuple):
    """The answers found, the likeliest first, and the logarithm of the probability that there is none."""

    spans: list[Span]
    none: float

    @property
    def margin(self) -> float:
        """How much likelier no answer is than the best one, as a logarithm."""
        return self.none - self.spans[0].score if self.spans else float("inf")


@torch.no_grad()
def extract(
    reader: Reader,
    lexicon: Lexicon,
    asked: Sequence[tuple[tuple[str, ...], Passage]],
    *,
    window: int,
    stride: int,
    longest: int,
    n_best: int = 1,
) -> list[Found]:
    r"""Answer questions, each the words of the question and its passage, by spans of at most `longest` words.

    Passages of more than `window` words are read in windows that begin every `stride` words. The probability of a span
    is that of its start times that of its end, each one among those of all windows:

    $$\log p(a, b) = s_a + e_b - \log \sum_t \exp s_t - \log \sum_t \exp e_t$$

    That there is no answer is as likely as in the window in which it is least likely (Alberti et al. 2019, section 3).
    The reader is left in the mode it was in.
    """
    device = next(reader.parameters()).device
    rows: list[Window] = []
    owners: list[tuple[int, int]] = []
    for number, (question, text) in enumerate(asked):
        words = text.words
        for first, last in text.windows(window, stride):
            rows.append(Window(question, words[first:last]))
            owners.append((number, first))

    def read(index: Sequence[int]) -> list[Tensor]:
        scores, _ = reader.read(lexicon.lay([rows[place] for place in index], index).to(device))
        lengths = [len(rows[place].context) for place in index]
        return [row[:, : length + 1] for row, length in zip(scores.float().cpu(), lengths, strict=True)]

    was_training = reader.training
    reader.eval()
    lengths = [(len(row.context), len(row.question)) for row in rows]
    found: list[list[tuple[int, Tensor]]] = [[] for _ in asked]
    for (number, first), scores in zip(owners, in_length_order(lengths, READ_AT_ONCE, read), strict=True):
        found[number].append((first, scores))
    reader.train(was_training)
    return [_best(text, parts, longest, n_best) for (_, text), parts in zip(asked, found, strict=True)]


def _best(text: Passage, parts: Sequence[tuple[int, Tensor]], longest: int, n_best: int) -> Found:
    """The best spans of a passage by the scores `(2, 1 + words)` of its windows, each with its first word."""
    whole = float(torch.stack([scores.logsumexp(1) for _, scores in parts]).logsumexp(0).sum())
    best: dict[tuple[int, int], float] = {}
    for offset, scores in parts:
        count = scores.shape[1] - 1
        pairs = scores[0, 1:, None] + scores[1, None, 1:]
        barred = torch.ones(count, count, dtype=torch.bool).triu(longest).logical_or(
            torch.ones(count, count, dtype=torch.bool).tril(-1)
        )  # fmt: skip
        pairs = pairs.masked_fill_(barred, -torch.inf).flatten()
        values, places = pairs.topk(min(n_best, len(pairs)))
        for value, place in zip(values.tolist(), places.tolist(), strict=True):
            if value > -torch.inf:
                span = offset + place // count, offset + place % count
                best[span] = max(value, best.get(span, value))
    order = sorted(best.items(), key=lambda pair: (-pair[1], pair[0]))[:n_best]
    spans = [Span(text.between(a, b), value - whole, a, b) for (a, b), value in order]
    return Found(spans, min(float(scores[:, 0].sum()) for _, scores in parts) - whole)
