"""Writing a target by chance: each token drawn from the model's own probabilities, or from the best of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regard.models.hypothesis import Hypothesis, MaxLength, Plan, Trail, default_max_length
from regard.models.likeliest import allow, best_of
from regard.models.sequence import SequenceToSequence


@torch.no_grad()
def sample(
    model: SequenceToSequence[Any],
    source: Tensor,
    source_lengths: Tensor,
    *,
    seeds: Sequence[int],
    count: int = 1,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    max_length: MaxLength = default_max_length,
    prefix: Sequence[Sequence[int]] | None = None,
    bos: int = 1,
    eos: int = 2,
    pad: int = 0,
) -> list[list[Hypothesis]]:
    r"""Draw `count` targets of each source, token by token.

    $$p_i \propto \exp(s_i / \mathrm{temperature})$$

    for the scores $s$ of the `top_k` best tokens (all of them with 0; Fan et al. 2018, section 5.1), and of these
    only the best that together have a share of `top_p` or just more (Holtzman et al. 2020, section 3.1). BOS and
    padding are never drawn. A target that reaches `max_length` tokens is ended there. With `prefix`, the first tokens
    of each target, these are given.

    The draws of a source hang on its seed alone, not on what else is in the batch, and the first targets are the same
    whatever `count` is. Returns the targets in the order in which they were drawn; `score` and `log_probability` are
    both what the model itself gives, before temperature and selection. The model is used in the mode it is in: call
    `model.eval()` first.

    *Shape*: source `(batch, source_len)` int64 padded with `pad`, source_lengths `(batch,)`, one seed a source.

    Raises `ValueError` unless `temperature` is a finite number above 0, `top_k` at least 0, `top_p` above 0 and at most
    1, `count` at least 1, `max_length` at least 0, and there is a seed of at least 0, and a prefix, if any, for each
    source.

    Example:
        >>> from regard.models import build
        >>> model = build({"model": "rnn", "source_vocabulary": 9, "target_vocabulary": 9, "hidden_size": 4}).eval()
        >>> source, lengths = torch.tensor([[5, 6, 2], [7, 2, 0]]), torch.tensor([3, 2])
        >>> drawn = sample(model, source, lengths, seeds=[1, 2], count=3, top_k=5)
        >>> drawn == sample(model, source, lengths, seeds=[1, 2], count=3, top_k=5)
        True
    """
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be a finite number above 0, got {temperature}")
    if top_k < 0 or count < 1:
        raise ValueError(f"top_k must be at least 0 and count at least 1, got {top_k} and {count}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}")
    if len(seeds) != len(source) or any(seed < 0 for seed in seeds):
        raise ValueError(f"seeds must be {len(source)} numbers of at least 0, one a source, got {seeds}")
    lengths = [int(length) for length in source_lengths.tolist()]
    plan = Plan.of(lengths, max_length, prefix, (bos, eos, pad))
    # (target, step): so a longer target, or one more, leaves the draws of the others as they are.
    draws = [
        np.stack([np.random.default_rng([seed, number]).random(limit + 1) for number in range(count)])
        for seed, limit in zip(seeds, plan.limits, strict=True)
    ]
    device = source.device
    trail = Trail()
    written: list[list[Hypothesis | None]] = [[None] * count for _ in lengths]
    sentences = list(range(len(lengths)))
    parents = torch.arange(len(lengths), device=device)[:, None].expand(-1, count)
    state = model.encode(source, source_lengths).select(parents)
    parents = parents.flatten()
    tokens = torch.full((len(parents),), bos, device=device)
    prices = torch.zeros(len(parents), dtype=torch.float64, device=device)
    for length in range(plan.steps):  # tokens written so far
        scores, state, weights = model.step(tokens, state)
        trail.append(tokens, parents, weights)
        scores = scores.to(torch.float64)
        highest, share = best_of(scores)
        allow(scores, (pad, bos), [plan.forced(sentence, length) for sentence in sentences], count)
        chances = np.stack([draws[sentence][:, length] for sentence in sentences]).reshape(-1, 1)
        drawn = _drawn(scores, torch.from_numpy(chances).to(device), temperature, top_k, top_p)
        prices = prices + (scores.gather(1, drawn) - highest + share)[:, 0]
        tokens = drawn[:, 0]

        for row in (tokens == eos).nonzero()[:, 0].tolist():
            number, which = divmod(row, count)
            sentence = sentences[number]
            if written[sentence][which] is None:
                found, looked = trail.follow(length, row, lengths[sentence])
                price = float(prices[row])
                written[sentence][which] = Hypothesis(found, price, price, looked)
        kept = [
            number
            for number, sentence in enumerate(sentences)
            if length < plan.limits[sentence] and None in written[sentence]
        ]
        if not kept:
            break
        rows = torch.arange(len(tokens), device=device).unflatten(0, (-1, count))
        rows = rows[torch.tensor(kept, device=device)]
        state, parents = state.select(rows), rows.flatten()
        tokens, prices = tokens[parents], prices[parents]
        sentences = [sentences[number] for number in kept]
    return [[one for one in targets if one is not None] for targets in written]


def _drawn(scores: Tensor, chances: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """Draw a token of each row, where `chances` are uniform between 0 and 1.

    *Shape*: scores `(rows, vocabulary)` float64, chances `(rows, 1)`; the result `(rows, 1)`.
    """
    shares = torch.softmax((scores - scores.amax(1, keepdim=True)) / temperature, 1)
    if 0 < top_k < shares.shape[1]:
        shares = shares.where(shares >= shares.topk(top_k, dim=1).values[:, -1:], 0.0)
    if top_p < 1:
        # A token stays while those better than it have not reached the share.
        better = shares.sort(dim=1, descending=True).values
        reached = better.cumsum(1)
        last = ((reached - better) < top_p * reached[:, -1:]).sum(1, keepdim=True) - 1
        shares = shares.where(shares >= better.gather(1, last), 0.0)
    reached = shares.cumsum(1)
    return torch.searchsorted(reached, chances * reached[:, -1:], right=True)
