"""Softmax and sigmoid by the fused kernel of the CPU: many blocks, scores of every size, and who runs what."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.attention.kernels.judge import BORDERS, Call, everything, judge, normal, scored

import regard
from regard import masks
from regard.attention.kernels import dense_cpu, missing
from regard.attention.mechanism import normalizer_named

if missing("cpu"):
    pytest.skip("needs the package numba", allow_module_level=True)

SCORES = {
    "product": regard.scores.Dot(),
    "distance": regard.scores.Distance(0.5),
    "additive": regard.scores.Additive(normal(4, 6, seed=3)),
}
NORMALIZERS = ["softmax", "sigmoid"]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight queries by 32 keys, so that calls of some dozens have several blocks."""
    for name, size in (("QUERIES", 8), ("KEYS", 32), ("ADDITIVE_KEYS", 32)):
        monkeypatch.setattr(dense_cpu, name, size)


def ask(score: str, normalizer: str, query_len: int, key_len: int, **parts: Any) -> Call:
    query, key = normal(2, 4, query_len, 6, seed=1), normal(2, 2, key_len, 6, seed=2)
    value = normal(2, 2, key_len, 5, seed=4)
    return Call(query, key, value, SCORES[score], normalizer_named(normalizer), **parts)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("score", list(SCORES))
def test_several_blocks(score: str, normalizer: str, dtype: torch.dtype) -> None:
    for query_len, key_len in ((1, 70), (9, 33), (20, 131), (33, 32)):
        for parts in ({}, {"mask": masks.causal()}, {"bias": normal(query_len, key_len, seed=7)}):
            # What an additive score adds to all keys has a gradient that is nothing but rounding.
            judge(ask(score, normalizer, query_len, key_len, **parts), dtype, "dense", floor=0.1)


@pytest.mark.parametrize("key_len", BORDERS)
@pytest.mark.parametrize("query_len", [1, 7, 8, 9, 64, 65])
def test_lengths_around_those_of_blocks(query_len: int, key_len: int) -> None:
    for score in SCORES:
        judge(ask(score, "softmax", query_len, key_len), torch.float64, "dense", floor=0.1)


@pytest.mark.parametrize("score", ["product", "distance"])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 30.0, 1e4])
def test_scores_of_every_size(score: str, scale: float) -> None:
    """Weights are as exact for scores of ten thousand as for scores of one.

    A gradient that should be nothing, as where one key has all the weight, is the rounding of the output times what
    it is multiplied with: queries and keys.
    """
    for rows in (normal(4, 300), torch.zeros(4, 300), torch.arange(300.0).repeat(4, 1)):
        query, key, made = scored(score, rows.double() * scale, 5)
        call = Call(query, key, normal(4, 300, 3), made, normalizer_named("softmax")).to(torch.float32)
        largest = max(float(call.key.detach().abs().max()), 1.0)
        judge(call, torch.float32, "dense", floor=largest)
        for found, exact, own in zip(
            call.attend(backend="dense", return_weights=True),
            call.to(torch.float64).plain(),
            call.plain(),
            strict=True,
        ):
            error, plainly = (float((one - exact).detach().abs().max()) for one in (found, own))
            assert error <= 2 * plainly + 1e-6


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("worst", [torch.nan, torch.inf])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_a_query_that_is_no_number_is_so_alone(normalizer: str, worst: float) -> None:
    call = ask("product", normalizer, 20, 70)
    spoilt = ask("product", normalizer, 20, 70)
    spoilt.query[0, 1, 3] = worst
    one, two = (c.attend(backend="dense", return_weights=True) for c in (call, spoilt))
    for clean, dirty in zip(one, two, strict=True):
        rest = torch.ones(2, 4, 20, dtype=torch.bool)
        rest[0, 1, 3] = False
        assert torch.equal(clean[rest], dirty[rest])
    if normalizer == "softmax":
        assert two[0][0, 1, 3].isnan().all()


@pytest.mark.parametrize("temperature", [0.1, 3.0])
def test_temperature_and_shift(temperature: float) -> None:
    for normalizer in (regard.normalizers.Softmax(temperature), regard.normalizers.Sigmoid(temperature - 4)):
        for score in SCORES:
            call = ask(score, "softmax", 9, 40)
            judge(
                Call(call.query, call.key, call.value, call.score, normalizer),
                torch.float64,
                "dense",
                floor=0.1,
            )


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("score", list(SCORES))
def test_dropout_is_that_of_the_plain_path(score: str) -> None:
    """Drawn by seed, query and key, whatever the blocks: weights are kept or not, and the mean is that without."""
    call = ask(score, "softmax", 20, 70)
    value = torch.eye(70, dtype=torch.float64).expand(2, 2, -1, -1)
    torch.manual_seed(0)
    dropped, weights = regard.attend(
        call.query, call.key, value, score=call.score, dropout=0.3, return_weights=True, backend="dense"
    )
    share = dropped / weights
    assert bool(((share.abs() < 1e-9) | ((share - 1 / 0.7).abs() < 1e-9)).all())
    assert abs(float((share > 0).double().mean()) - 0.7) < 0.01
    torch.manual_seed(0)
    leaf = call.value.clone().requires_grad_()
    output = regard.attend(call.query, call.key, leaf, score=call.score, dropout=0.3, backend="dense")
    (grad,) = torch.autograd.grad(output.sum(), leaf)
    expected = dropped.sum(2).unflatten(1, (2, 2)).sum(2)
    torch.testing.assert_close(grad, expected[..., None].expand_as(grad), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("heads", [1, 3])
def test_threads_change_no_more_than_rounding(heads: int) -> None:
    found = []
    before = torch.get_num_threads()
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        try:
            query, key = (normal(1, heads, 200, 6, seed=n).requires_grad_() for n in (1, 2))
            call = Call(query, key, key, regard.scores.Dot(), normalizer_named("softmax"))
            found.append(everything(call, call.attend(backend="dense", return_weights=True)))
        finally:
            torch.set_num_threads(before)
    for other in found[1:]:
        for name, expected in found[0].items():
            torch.testing.assert_close(other[name], expected, atol=1e-12, rtol=1e-12)


def test_who_runs_what() -> None:
    many, few = torch.randn(1, 8, 400, 8), torch.randn(1, 8, 40, 8)
    chosen = {
        "dense": [
            (many, {}),
            (few, {"normalizer": "sigmoid"}),
            (few, {"score": "distance"}),
            (few, {"dropout": 0.1}),
        ],
        "sdpa": [(few, {}), (many[:, :, :4], {})],
        "additive": [(few[:, :, :4], {"score": "additive"})],
    }
    for name, calls in chosen.items():
        for query, settings in calls:
            found = regard.explain(
                query, many if query is not few else few, many if query is not few else few, **settings
            )
            assert found.backend == name, (name, settings)
    assert "'dense' takes less time" in regard.explain(many, many, many).refused["sdpa"][0]
    assert regard.explain(many, many, many, backend="sdpa").backend == "sdpa"
