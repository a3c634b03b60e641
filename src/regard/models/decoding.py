"""Writing a target without a teacher: batched greedy and beam search."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from regard.models.sequence import SequenceToSequence


@dataclass(frozen=True)
class Hypothesis:
    """One sentence the search wrote.

    `score` is its log-probability (EOS included) divided by the length penalty; `weights`, *shape*
    `(len(tokens) + 1, source_len)`, tell where the model looked for each token and for EOS, over the
    sentence's own source.
    """

    tokens: list[int]
    score: float
    log_probability: float
    weights: Tensor | None = field(default=None, compare=False, repr=False)


def length_divisor(length: int, penalty: float) -> float:
    """Return `((5 + length) / 6) ** penalty`, the divisor of log-probabilities (Wu et al. 2016, equation 14)."""
    return ((5 + length) / 6) ** penalty


def default_max_length(source_length: int) -> int:
    """Return the most tokens a target may have, unless told otherwise: twice the source's and ten more."""
    return 2 * source_length + 10


@torch.no_grad()
def search(
    model: SequenceToSequence[Any],
    source: Tensor,
    source_lengths: Tensor,
    *,
    beam: int = 1,
    length_penalty: float = 0.6,
    max_length: int | Callable[[int], int] = default_max_length,
    n_best: int = 1,
    forbid: Callable[[Sequence[int]], Iterable[int]] | None = None,
    bos: int = 1,
    eos: int = 2,
    pad: int = 0,
) -> list[list[Hypothesis]]:
    """Write the most probable targets of a batch of sources: greedily with `beam=1`, else by beam search.

    At each step the `2 * beam` best extensions of a sentence's live hypotheses are taken: those among the
    first `beam` that end in EOS are finished, and the first `beam` that do not stay alive. A sentence is done,
    and leaves the batch, when no live one can still enter its `n_best` whatever follows: log-probabilities only
    fall, so dividing a live one by the largest length penalty to come bounds what can become of it. Once `beam`
    hypotheses have finished, it is enough that the best live one would not enter if it ended now. Scores
    are `log_probability / length_divisor(length,
    length_penalty)`, where the length counts EOS. A hypothesis that reaches `max_length` tokens (a number, or
    a function of the source's length) is ended there, EOS at its own price. `forbid` names the tokens that may not come
    next after those written so far, without changing the probability of the others (see `repeats_and_haste`).

    Returns for each source its hypotheses, distinct and best first; `n_best` of them, or fewer where fewer
    exist. The model is used in the mode it is in: call `model.eval()` first.

    *Shape*: source `(batch, source_len)` int64 padded with `pad`, source_lengths `(batch,)`.

    Raises `ValueError` unless `n_best` is between 1 and `beam`, and `max_length` at least 0.

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
    limits = [max_length(length) if callable(max_length) else max_length for length in lengths]
    if any(limit < 0 for limit in limits):
        raise ValueError(f"max_length must be at least 0, got {min(limits)}")
    ends = [_Ends(n_best, beam, limit, length_penalty) for limit in limits]
    trail = _Trail()
    state = model.encode(source, source_lengths)
    device = source.device
    tokens = torch.full((len(lengths),), bos, device=device)
    parents = torch.arange(len(lengths), device=device)
    live = torch.zeros(len(lengths), 1, device=device)  # log-probabilities (sentences, width)
    sentences = list(range(len(lengths)))
    written: list[list[int]] = [
        [] for _ in lengths
    ]  # what each live row holds, kept where `forbid` wants to know
    for length in range(max(limits, default=-1) + 1):  # tokens written so far
        scores, state, weights = model.step(tokens, state)
        trail.append(tokens, parents, weights)
        width = live.shape[1]
        if forbid is not None and length:
            written = [
                [*written[row], token] for row, token in zip(parents.tolist(), tokens.tolist(), strict=True)
            ]
        bans = [] if forbid is None else [(row, id) for row, ids in enumerate(written) for id in forbid(ids)]
        likely, choices = _likeliest(
            scores,
            width,
            [limits[sentence] == length for sentence in sentences],
            2 * beam,
            eos,
            (pad, bos),
            bans,
        )
        totals = (likely.unflatten(0, (-1, width)) + live[:, :, None]).flatten(1)
        best, where = totals.topk(min(2 * beam, totals.shape[1]), dim=1)
        words = choices.view_as(totals).gather(1, where)
        origins = where.div(choices.shape[1], rounding_mode="floor")
        ended = words == eos

        finishing = ended & best.isfinite()
        finishing[:, beam:] = False
        for (number, rank), value in zip(finishing.nonzero().tolist(), best[finishing].tolist(), strict=True):
            row = number * width + int(origins[number, rank])
            ends[sentences[number]].add(value, length, row)

        # The first `beam` that go on: a stable sort moves those that ended behind them, in order.
        going = best.masked_fill(ended, -torch.inf)
        order = ended.to(torch.uint8).sort(dim=1, stable=True).indices[:, :beam]
        going, words, origins = (tensor.gather(1, order) for tensor in (going, words, origins))
        hopes = going[:, 0].tolist()
        kept = [
            number for number, which in enumerate(sentences) if not ends[which].settled(hopes[number], length)
        ]
        if not kept:
            break
        chosen = torch.tensor(kept, device=device)
        parents = (origins + torch.arange(len(sentences), device=device)[:, None] * width)[chosen]
        live, words = going[chosen], words[chosen]
        sentences = [sentences[number] for number in kept]
        state = state.select(parents)
        tokens, parents = words.flatten(), parents.flatten()
    return [
        [trail.follow(end, source_length) for end in found.best()]
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


def _likeliest(
    scores: Tensor,
    width: int,
    closing: list[bool],
    count: int,
    eos: int,
    banned: tuple[int, ...],
    bans: list[tuple[int, int]],
) -> tuple[Tensor, Tensor]:
    """Return the best `count` next tokens of each row: their log-probabilities and themselves.

    Where a sentence is `closing`, EOS is the only one; `bans` are rows and tokens that may not come next there.
    *Shape*: scores `(sentences * width, vocabulary)`, closing `(sentences,)`; both results `(sentences * width,
    count)`.
    """
    # Probabilities are taken of the best few only. The best of all has 1 / sum(exp(scores - highest)).
    highest = scores.amax(1, keepdim=True)
    normaliser = highest - torch.softmax(scores, 1, dtype=_exact(scores)).amax(1, keepdim=True).log()
    allowed = scores.to(normaliser.dtype, copy=True)
    allowed[:, list(banned)] = -torch.inf
    prices = allowed[:, eos].clone()  # an end that is due is not forbidden
    if bans:
        allowed[tuple(torch.tensor(bans, device=scores.device).T)] = -torch.inf
    if any(closing):
        rows = torch.tensor(closing, device=scores.device).repeat_interleave(width)
        allowed[rows] = -torch.inf
        allowed[rows, eos] = prices[rows]
    likely, tokens = allowed.topk(min(count, scores.shape[1]), dim=1)
    return likely - normaliser, tokens


def _exact(scores: Tensor) -> torch.dtype:
    return torch.float64 if scores.dtype == torch.float64 else torch.float32


@dataclass(frozen=True)
class _End:
    """A finished hypothesis: its score, and the step and row at which EOS was written."""

    score: float
    log_probability: float
    step: int
    row: int


class _Ends:
    """The finished hypotheses of one sentence, and whether any other can still matter."""

    def __init__(self, n_best: int, beam: int, limit: int, penalty: float) -> None:
        self.n_best, self.beam, self.limit, self.penalty = n_best, beam, limit, penalty
        self.found: list[_End] = []

    def add(self, log_probability: float, length: int, row: int) -> None:
        score = log_probability / length_divisor(length + 1, self.penalty)
        self.found.append(_End(score, log_probability, length, row))

    def best(self) -> list[_End]:
        return sorted(self.found, key=lambda end: -end.score)[: self.n_best]

    def settled(self, hope: float, length: int) -> bool:
        """Say whether the search is over; `hope` is the best live log-probability, of `length + 1` tokens."""
        if length >= self.limit or hope == -float("inf") or (self.beam == 1 and self.found):
            return True
        if len(self.found) < self.n_best:
            return False
        lengths = (length + 2,) if len(self.found) >= self.beam else (length + 2, self.limit + 1)
        return hope / max(length_divisor(ending, self.penalty) for ending in lengths) <= self.best()[-1].score


class _Trail:
    """What each step fed to the model, from which row, and where it looked: hypotheses are read off it."""

    def __init__(self) -> None:
        self.steps: list[tuple[list[int], list[int], Tensor | None]] = []

    def append(self, tokens: Tensor, parents: Tensor, weights: Tensor | None) -> None:
        self.steps.append((tokens.tolist(), parents.tolist(), weights))

    def follow(self, end: _End, source_length: int) -> Hypothesis:
        tokens: list[int] = []
        looked: list[Tensor] = []
        row = end.row
        for fed, parents, weights in reversed(self.steps[: end.step + 1]):
            tokens.append(fed[row])
            if weights is not None:
                looked.append(weights[row, :source_length])
            row = parents[row]
        tokens.reverse()
        rows = torch.stack(looked[::-1]) if looked else None
        return Hypothesis(tokens[1:], end.score, end.log_probability, rows)
