"""Dropout of sparse weights: drawn by seed, head, query and key, so that every pass and every block draws the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.attention.kernels.judge import normal
from torch import Tensor

import regard
from regard.attention.kernels.settings import Settings
from regard.attention.normalizers import Sparsemax

SCORES = {
    "product": regard.scores.Dot(),
    "distance": regard.scores.Distance(),
    "additive": regard.scores.Additive(normal(4, 6, seed=9)),
}
NORMALIZERS = ["sparsemax", "entmax-1.3", "top-5", "hardmax"]
P = 0.4


def tensors(query_len: int = 11, key_len: int = 13, value_size: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    shapes = ((4, query_len, 6), (2, key_len, 6), (2, key_len, value_size))
    query, key, value = (normal(3, *shape, seed=n).requires_grad_() for n, shape in enumerate(shapes))
    return query, key, value


def attend(seed: int, query: Tensor, key: Tensor, value: Tensor, **settings: Any) -> Any:
    torch.manual_seed(seed)
    return regard.attend(query, key, value, dropout=P, backend="sparse", **settings)


def factors(query_len: int, key_len: int, seed: int, **settings: Any) -> Tensor:
    """What each weight is multiplied with, seen through values that tell keys apart; NaN where there is no weight.

    *Shape:* `(batch, heads, query_len, key_len)`
    """
    query, key, _ = tensors(query_len, key_len)
    value = torch.eye(key_len, dtype=torch.float64).expand(3, 2, -1, -1)
    dropped, weights = attend(seed, query, key, value, return_weights=True, **settings)
    return torch.where(weights > 0, dropped / weights, torch.nan).detach()


@pytest.mark.parametrize("score", list(SCORES))
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_weights_are_kept_whole_or_not_at_all(score: str, normalizer: str) -> None:
    for query_len in (3, 11):
        found = factors(query_len, 13, 0, score=SCORES[score], normalizer=normalizer)
        kept = found[~found.isnan()]
        assert bool(((kept == 0) | ((kept - 1 / (1 - P)).abs() < 1e-12)).all())
        assert 0 < int((kept > 0).sum()) < len(kept)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_the_seed_decides(normalizer: str) -> None:
    query, key, value = tensors()
    first = attend(0, query, key, value, normalizer=normalizer, return_weights=True)
    again = attend(0, query, key, value, normalizer=normalizer, return_weights=True)
    other = attend(1, query, key, value, normalizer=normalizer, return_weights=True)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    # Weights are those before dropout.
    plainly = regard.attend(query, key, value, normalizer=normalizer, return_weights=True, backend="sparse")
    for found in (first, again, other):
        assert torch.equal(found[1], plainly[1])


def test_heads_queries_and_keys_are_drawn_apart() -> None:
    found = factors(40, 33, 0, normalizer="top-33", score=regard.scores.Dot()) > 0
    flat = found.flatten(0, 2).double()
    # Any two rows, and any two columns, agree in about as many places as chance would have it.
    expected = P**2 + (1 - P) ** 2
    for rows in (flat, flat.mT[:, :400]):
        agree = (rows @ rows.mT + (1 - rows) @ (1 - rows).mT) / rows.shape[1]
        agree = agree[~torch.eye(len(rows), dtype=torch.bool)]
        spread = (expected * (1 - expected) / rows.shape[1]) ** 0.5
        assert abs(float(agree.mean()) - expected) < 0.02
        assert float((agree - expected).abs().max()) < 6 * spread


@pytest.mark.parametrize("dropout", [0.05, 0.4, 0.9])
def test_share_and_mean_of_what_is_kept(dropout: float) -> None:
    query, key, _ = (t.detach() for t in tensors(60, 70))
    value = torch.eye(70, dtype=torch.float64).expand(3, 2, -1, -1)
    torch.manual_seed(1)
    dropped, weights = regard.attend(
        query, key, value, normalizer="top-70", dropout=dropout, return_weights=True, backend="sparse"
    )
    count = weights.numel()
    share = float((dropped > 0).double().mean())
    assert abs(share - (1 - dropout)) < 5 * (dropout * (1 - dropout) / count) ** 0.5
    values = normal(3, 2, 70, 5, seed=8)
    outputs = []
    for seed in range(300):
        torch.manual_seed(seed)
        outputs.append(
            regard.attend(
                query[:, :, :2], key, values, normalizer="sparsemax", dropout=dropout, backend="sparse"
            )
        )
    stacked = torch.stack(outputs)
    plainly = regard.attend(query[:, :, :2], key, values, normalizer="sparsemax", backend="sparse")
    off = (stacked.mean(0) - plainly) / (stacked.std(0) / 300**0.5).clamp(min=1e-9)
    assert float(off.abs().max()) < 5
    assert abs(float(off.mean())) < 0.5


@pytest.mark.parametrize("query_len", [3, 11])
@pytest.mark.parametrize("score", list(SCORES))
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_gradients_are_those_of_the_same_draw(score: str, normalizer: str, query_len: int) -> None:
    """First and second, against the plain formula with the factors written out."""
    query, key, value = tensors(query_len)
    settings = {"score": SCORES[score], "normalizer": normalizer, "mask": "causal"}
    kept = factors(query_len, 13, 5, **settings).nan_to_num(0.0)
    weights = regard.attend(query, key, value, **settings, backend="blockwise", return_weights=True)[1]
    plainly = (weights * kept) @ value.repeat_interleave(2, 1)
    fused, own = attend(5, query, key, value, **settings, return_weights=True)
    torch.testing.assert_close(fused, plainly, atol=1e-12, rtol=1e-12)
    above, above_weights = normal(*fused.shape, seed=6), normal(*own.shape, seed=7)
    leaves = (query, key, value)
    firsts = [
        torch.autograd.grad([output, weight], leaves, [above, above_weights], create_graph=True)
        for output, weight in ((fused, own), (plainly, weights))
    ]
    for one, two in zip(*firsts, strict=True):
        torch.testing.assert_close(one, two, atol=1e-11, rtol=1e-11)
    seconds = [
        torch.autograd.grad(sum(g.square().sum() for g in first), leaves, materialize_grads=True)  # type: ignore[union-attr]
        for first in firsts
    ]
    for one, two in zip(*seconds, strict=True):
        torch.testing.assert_close(one, two, atol=1e-9, rtol=1e-9)


def test_derivatives_are_those_of_differences() -> None:
    query, key, value = tensors(4, 6)
    query, key, value = (t[:1, :2].detach().requires_grad_() for t in (query, key, value))

    def run(*leaves: Tensor) -> Any:
        return attend(3, *leaves, normalizer=Sparsemax(), return_weights=True)

    assert torch.autograd.gradcheck(run, (query, key, value))
    assert torch.autograd.gradgradcheck(run, (query, key, value))


def test_a_block_of_queries_draws_what_it_would_among_all() -> None:
    query, key, value = (t.detach() for t in tensors(20))
    settings = Settings("product", "entmax", 2.0, P, 12345, 0, 20)
    from regard.attention.kernels import operators

    whole, _ = operators.attention(query, key, value, None, None, None, None, settings)
    for step in (1, 3, 7, 16):
        parts = [
            operators.attention(
                query[:, :, start : start + step],
                key,
                value,
                None,
                None,
                None,
                None,
                settings._replace(first=start),
            )[0]
            for start in range(0, 20, step)
        ]
        torch.testing.assert_close(torch.cat(parts, 2), whole, atol=1e-12, rtol=1e-12)
