"""The likeliest next tokens of each row, and their log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from regard.attention.kernels import missing

KERNEL = 2**20
"""From so many scores on a compiled kernel looks for the best: to load it takes longer than a few of them."""
CHUNK = 2**18
"""So many scores fit into a processor's own cache."""
GROUP = 64
"""Neighbouring tokens of which only the best is looked at first."""


def likeliest(
    scores: Tensor,
    count: int,
    banned: Sequence[int],
    forced: Sequence[int | None],
    width: int,
    bans: Sequence[tuple[int, int]] = (),
) -> tuple[Tensor, Tensor]:
    """Return the best `count` next tokens of each row (fewer of a small vocabulary): their log-probabilities and
    themselves.

    `banned` tokens have none, nor have those of `bans`, pairs of a row and a token; but all count in the sum to 1.
    Where a sentence, which is `width` rows, is `forced`, the others have none. `scores` may be written over.

    *Shape*: scores `(sentences * width, vocabulary)`, forced `(sentences,)`; both results `(sentences * width, count)`.

    Example:
        >>> scores = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]]).log()
        >>> likely, tokens = likeliest(scores, 2, [0], [None, 1], 1)
        >>> tokens[:, 0].tolist(), likely.exp().tolist()
        ([1, 1], [[0.25, 0.25], [0.25, 0.0]])
    """
    scores = scores.to(torch.float64 if scores.dtype == torch.float64 else torch.float32)
    if not bans and _worth_a_kernel(scores, count):
        from regard.models.leading import leading

        likely, tokens, highest, total = leading(scores, count, banned)
        _force(scores, likely, tokens, forced, width)
        return likely - highest - total.log(), tokens
    highest, share = best_of(scores)
    if bans:
        scores[tuple(torch.tensor(bans, device=scores.device).T)] = -torch.inf
    allow(scores, banned, forced, width)
    likely, tokens = _largest(scores, min(count, scores.shape[1]))
    return likely - highest + share, tokens


def _worth_a_kernel(scores: Tensor, count: int) -> bool:
    return (
        scores.numel() >= KERNEL
        and scores.shape[1] >= 32 * count
        and count <= 32
        and scores.dtype == torch.float32
        and scores.is_contiguous()
        and not missing(scores.device.type, load=True)
        and scores.device.type == "cpu"
    )


def best_of(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best score of each row and its log-probability: `score - best + share` is that of any other.

    *Shape*: scores `(rows, vocabulary)`; both results `(rows, 1)`.
    """
    # A few rows at a time: a softmax as large as all scores would go to memory and back.
    rows = max(CHUNK // max(scores.shape[1], 1), 1)
    shares = [torch.softmax(some, 1).amax(1, keepdim=True) for some in scores.split(rows)]
    return scores.amax(1, keepdim=True), torch.cat(shares).log()


def allow(scores: Tensor, banned: Sequence[int], forced: Sequence[int | None], width: int) -> None:
    """Write minus infinity over the scores of tokens that may not come next, as `likeliest` says."""
    for token in banned:
        scores[:, token] = -torch.inf
    if any(token is not None for token in forced):
        rows, tokens, price = _prices(scores, forced, width)
        scores[rows] = -torch.inf
        scores[rows, tokens] = price


def _force(scores: Tensor, likely: Tensor, tokens: Tensor, forced: Sequence[int | None], width: int) -> None:
    """Write over what was found where a sentence is forced."""
    if any(token is not None for token in forced):
        rows, only, price = _prices(scores, forced, width)
        likely[rows] = -torch.inf
        likely[rows, 0], tokens[rows, 0] = price, only


def _prices(scores: Tensor, forced: Sequence[int | None], width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The rows that are forced, the token of each, and its score."""
    chosen = [(place, token) for place, token in enumerate(forced) if token is not None]
    rows, tokens = torch.tensor(chosen, device=scores.device).unbind(1)
    rows = (rows[:, None] * width + torch.arange(width, device=scores.device)).flatten()
    tokens = tokens.repeat_interleave(width)
    return rows, tokens, scores[rows, tokens]


def _largest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`scores.topk(count)`, faster: the `count` best are in the `count` groups whose best are best."""
    rows, vocabulary = scores.shape
    groups = vocabulary // GROUP
    if groups < 4 * count:
        return scores.topk(count, dim=1)
    whole = groups * GROUP
    grouped = scores[:, :whole].unflatten(1, (groups, GROUP))
    best = grouped.amax(2).topk(count, dim=1).indices
    found = grouped.gather(1, best[:, :, None].expand(-1, -1, GROUP)).flatten(1)
    places = (best[:, :, None] * GROUP + torch.arange(GROUP, device=scores.device)).flatten(1)
    if whole < vocabulary:
        rest = torch.arange(whole, vocabulary, device=scores.device).expand(rows, -1)
        found, places = torch.cat([found, scores[:, whole:]], 1), torch.cat([places, rest], 1)
    largest, where = found.topk(count, dim=1)
    return largest, places.gather(1, where)
