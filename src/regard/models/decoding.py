"""Writing a target without a teacher: batched greedy and beam search."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from regard.models.hypothesis import Hypothesis, MaxLength, Plan, Trail, default_max_length, length_divisor
from regard.models.likeliest import likeliest
from regard.models.sequence import SequenceToSequence

STAYING = 0.8
"""Sentences that are done leave the batch when no more than this share of it is not: leaving has its price."""


@torch.no_grad()
def search(
    model: SequenceToSequence[Any],
    source: Tensor,
    source_lengths: Tensor,
    *,
    beam: int = 1,
    length_penalty: float = 0.6,
    max_length: MaxLength = default_max_length,
    n_best: int = 1,
    prefix: Sequence[Sequence[int]] | None = None,
    forbid: Callable[[Sequence[int]], Iterable[int]] | None = None,
    bos: int = 1,
    eos: int = 2,
    pad: int = 0,
) -> list[list[Hypothesis]]:
    """Write the most probable targets of a batch of sources: greedily with `beam=1`, else by beam search.

    At each step the `2 * beam` best extensions of a sentence's live hypotheses are taken: those among the
    first `beam` that end in EOS are finished, and the first `beam` that do not stay alive. A sentence is done,
    and soon leaves the batch, when no live one can still enter its `n_best` whatever follows: log-probabilities only
    fall, so dividing a live one by the largest length penalty to come bounds what can become of it. Once `beam`
    hypotheses have finished, it is enough that the best live one would not enter if it ended now. Scores
    are `log_probability / length_divisor(length,
    length_penalty)`, where the length counts EOS. A hypothesis that reaches `max_length` tokens (a number, or
    a function of the source's length) is ended there, EOS at its own price. With `prefix`, the first tokens of
    each target, these are given, and count in its log-probability and length. `forbid` names the tokens that may not
    come next after those written so far, without changing the probability of the others (see `repeats_and_haste`).

    Returns for each source its hypotheses, distinct and best first; `n_best` of them, or fewer where fewer
    exist. The model is used in the mode it is in: call `model.eval()` first.

    *Shape*: source `(batch, source_len)` int64 padded with `pad`, source_lengths `(batch,)`.

    Raises `ValueError` unless `n_best` is between 1 and `beam`, `max_length` at least 0, and there is a prefix
    without BOS, EOS and padding for each source, if for any.

    Example:
        >>> from regard.models import build
        >>> model = build({"model": "rnn", "source_vocabulary": 9, "target_vocabulary": 9, "hidden_size": 4}).eval()
        >>> source, lengths = torch.tensor([[5, 6, 2], [7, 2, 0]]), torch.tensor([3, 2])
        >>> found = search(model, source, lengths, beam=3, n_best=2, max_length=4)
        >>> [len(hypotheses) for hypotheses in found], found[1][0].weights.shape[1]
        ([2, 2], 2)
    """
    if not 1 <= n_best <= beam:
        raise ValueError(f"n_best must be between 1 and beam, got n_best={n_best} with beam={beam}")
    lengths = [int(length) for length in source_lengths.tolist()]
    plan = Plan.of(lengths, max_length, prefix, (bos, eos, pad))
    ends = [_Ends(n_best, beam, limit, length_penalty) for limit in plan.limits]
    trail = Trail()
    state = model.encode(source, source_lengths)
    device = source.device
    tokens = torch.full((len(lengths),), bos, device=device)
    parents = firsts = torch.arange(len(lengths), device=device)
    live = torch.zeros(len(lengths), 1, device=device)  # log-probabilities (sentences, width)
    sentences = list(range(len(lengths)))
    written: list[list[int]] = [[] for _ in lengths]
    for length in range(plan.steps):  # tokens written so far
        scores, state, weights = model.step(tokens, state)
        trail.append(tokens, parents, weights)
        width = live.shape[1]
        forced = [plan.forced(sentence, length) for sentence in sentences]
        bans: list[tuple[int, int]] = []
        if forbid is not None:
            if length:
                pairs = zip(parents.tolist(), tokens.tolist(), strict=True)
                written = [[*written[row], token] for row, token in pairs]
            free = [row for row in range(len(written)) if forced[row // width] is None]
            bans = [(row, token) for row in free for token in forbid(written[row])]
        likely, choices = likeliest(scores, 2 * beam, (pad, bos), forced, width, bans)
        del scores
        totals = (likely.unflatten(0, (-1, width)) + live[:, :, None]).flatten(1)
        best, where = totals.topk(min(2 * beam, totals.shape[1]), dim=1)
        words = choices.view_as(totals).gather(1, where)
        origins = where.div(choices.shape[1], rounding_mode="floor")
        ended = words == eos

        finishing = ended & best.isfinite()
        finishing[:, beam:] = False
        rows = origins + firsts[: len(sentences), None] * width
        found = zip(
            finishing.nonzero().tolist(), best[finishing].tolist(), rows[finishing].tolist(), strict=True
        )
        for (number, _), value, row in found:
            ends[sentences[number]].add(value, length, row)

        # The first `beam` that go on: a stable sort moves those that ended behind them, in order.
        going = best.masked_fill(ended, -torch.inf)
        order = ended.to(torch.uint8).sort(dim=1, stable=True).indices[:, :beam]
        live, words, parents = (tensor.gather(1, order) for tensor in (going, words, rows))
        for which, hope in zip(sentences, live[:, 0].tolist(), strict=True):
            ends[which].settle(hope, length)
        waiting = [number for number, which in enumerate(sentences) if not ends[which].settled]
        if not waiting:
            break
        if len(waiting) <= STAYING * len(sentences):
            chosen = torch.tensor(waiting, device=device)
            live, words, parents = live[chosen], words[chosen], parents[chosen]
            sentences = [sentences[number] for number in waiting]
        state = state.select(parents)
        tokens, parents = words.flatten(), parents.flatten()
    return [
        [end.written(trail, source_length) for end in found.best()]
        for found, source_length in zip(ends, lengths, strict=True)
    ]


def repeats_and_haste(
    size: int = 0, least: int = 0, eos: int = 2
) -> Callable[[Sequence[int]], Iterable[int]]:
    """What `search` may forbid: `size` tokens in a row for the second time (0: none), the end before `least` tokens.

    Example:
        >>> forbid = repeats_and_haste(3, least=2)
        >>> forbid([]), forbid([7, 8, 9, 7, 8])
        ([2], [9])

    Paulus et al. 2018, section 2.5, forbid repeated trigrams.
    """

    def forbid(written: Sequence[int]) -> list[int]:
        banned = [eos] if len(written) < least else []
        if size and len(written) >= size:
            last = list(written[len(written) - size + 1 :])
            starts = range(len(written) - size + 1)
            banned += [written[at + size - 1] for at in starts if list(written[at : at + size - 1]) == last]
        return banned

    return forbid


@dataclass(frozen=True)
class _End:
    """A finished hypothesis: its score, and the step and row at which EOS was written."""

    score: float
    log_probability: float
    step: int
    row: int

    def written(self, trail: Trail, source_length: int) -> Hypothesis:
        tokens, weights = trail.follow(self.step, self.row, source_length)
        return Hypothesis(tokens, self.score, self.log_probability, weights)


class _Ends:
    """The finished hypotheses of one sentence, and whether any other can still matter."""

    def __init__(self, n_best: int, beam: int, limit: int, penalty: float) -> None:
        self.n_best, self.beam, self.limit, self.penalty = n_best, beam, limit, penalty
        self.found: list[_End] = []
        self.settled = False

    def add(self, log_probability: float, length: int, row: int) -> None:
        if self.settled:
            return
        score = log_probability / length_divisor(length + 1, self.penalty)
        self.found.append(_End(score, log_probability, length, row))

    def best(self) -> list[_End]:
        return sorted(self.found, key=lambda end: -end.score)[: self.n_best]

    def settle(self, hope: float, length: int) -> None:
        """Take note whether the search is over; `hope` is the best live log-probability, of `length + 1` tokens."""
        self.settled = self.settled or self._hopeless(hope, length)

    def _hopeless(self, hope: float, length: int) -> bool:
        if length >= self.limit or hope == -float("inf") or (self.beam == 1 and self.found):
            return True
        if len(self.found) < self.n_best:
            return False
        lengths = (length + 2,) if len(self.found) >= self.beam else (length + 2, self.limit + 1)
        return hope / max(length_divisor(ending, self.penalty) for ending in lengths) <= self.best()[-1].score
