"""Additive scores by the fused kernel: any size of inputs, and the three ways in which the tangent is computed."""

from __future__ import annotations

import pytest
import torch
from tests.attention.kernels.judge import Call, judge, normal
from torch import Tensor

import regard
from regard import masks
from regard.attention.backends import additive
from regard.attention.kernels import layout, operators, plain
from regard.attention.mechanism import normalizer_named
from regard.attention.normalizers import Softmax

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
WIDE = DTYPES[:2]
BLOCK, FEW = 9, 3
"""Query lengths on either side of where keys are put into panels."""


def call_of(
    query_len: int,
    key_len: int,
    size: int,
    scale: float = 1.0,
    heads: tuple[int, int] = (2, 2),
    weight: str = "heads",
    normalizer: str = "softmax",
) -> Call:
    query, key = normal(1, heads[0], query_len, size, seed=1), normal(1, heads[1], key_len, size, seed=2)
    net = normal(*((heads[0], size) if weight == "heads" else (size,)), seed=3) / size**0.5
    made = regard.scores.Additive(None if weight == "none" else net)
    value = normal(1, heads[1], key_len, 5, seed=4)
    return Call(query * scale, key * scale, value, made, normalizer_named(normalizer))


def both_ways(query: Tensor, key: Tensor, net: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Scores and their gradients by the kernel, and exactly; the gradient above has zeros."""
    leaves = [t.detach().requires_grad_() for t in (query, key, net)]
    exact = [t.detach().double().requires_grad_() for t in (query, key, net)]
    found, expected = operators.additive_scores(*leaves), plain.additive_scores(*exact)
    above = normal(*found.shape, seed=5)
    above[..., :, ::3] = 0
    return [
        (found, expected),
        *zip(
            torch.autograd.grad(found, leaves, above.to(found.dtype)),
            torch.autograd.grad(expected, exact, above.to(found.dtype).double()),
            strict=True,
        ),
    ]


@pytest.mark.parametrize("size", [*range(1, 18), 31, 32, 33, 63, 64, 65, 130])
def test_sizes_of_channels(size: int) -> None:
    for query_len in (1, 2, 3, 4, 5, 8, 17):
        for weight in ("heads", "shared", "none"):
            call = call_of(query_len, 33, size, weight=weight)
            judge(call, torch.float64, "additive")
            if query_len in (FEW, 8) and weight != "none":
                judge(call, torch.float32, "additive", floor=1.0)


@pytest.mark.parametrize("key_len", [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130, 257])
def test_lengths_of_keys(key_len: int) -> None:
    for query_len in (1, 4, 5, 9, 40):
        for normalizer in ("softmax", "sigmoid", "entmax-3"):
            judge(call_of(query_len, key_len, 6, normalizer=normalizer), torch.float64, "additive")
        judge(call_of(query_len, key_len, 6, normalizer="sparsemax"), torch.float64, "sparse")


@pytest.mark.parametrize("heads", [(1, 1), (2, 1), (6, 2), (6, 3)])
@pytest.mark.parametrize("backend", ["additive", "sparse"])
def test_heads_that_share_keys(backend: str, heads: tuple[int, int]) -> None:
    for weight in ("heads", "shared", "none"):
        for query_len in (FEW, BLOCK, 40):
            call = call_of(query_len, 37, 6, heads=heads, weight=weight, normalizer="sparsemax")
            judge(call, torch.float64, backend)
            biased = Call(
                *list(vars(call).values())[:3],
                regard.scores.Additive(call.score.weight, normal(heads[0], 6, seed=7)),  # type: ignore[attr-defined]
                call.normalizer,
                masks.causal(),
                normal(heads[0], query_len, 37, seed=8),
            )
            judge(biased, torch.float64, backend)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-3, 0.02, 0.05, 0.08, 0.2, 0.5, 1.0, 3.0, 8.0, 12.0, 30.0, 100.0, 1e3])
def test_inputs_of_every_size(scale: float, dtype: torch.dtype) -> None:
    for query_len in (FEW, 40):
        for size in (8, 64):
            # Gradients are sums that nearly cancel, of numbers of this size.
            judge(call_of(query_len, 130, size, scale), dtype, "additive", floor=0.01)


@pytest.mark.parametrize("query_len", [FEW, BLOCK])
@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("beyond", [0.0, 60.0])
@pytest.mark.parametrize("apart", [0.1, 1.0, 10.0, 41.9, 43.5, 60.0, 170.0, 348.9, 351.0, 700.0, 1e4, 1e30])
def test_queries_and_keys_of_opposite_sign(
    apart: float, beyond: float, dtype: torch.dtype, query_len: int
) -> None:
    """Sums near zero, and sums of +-60, of large numbers: an error is that of a tangent near one, whatever they are."""
    channels = torch.tensor([apart, -apart]).double().repeat(4)
    query = (normal(1, 2, query_len, 8, seed=1).tanh() + channels).to(dtype)
    key = (normal(1, 2, 33, 8, seed=2).tanh() - channels).to(dtype)
    key[:, :, 3] += beyond
    key[:, :, 4] -= beyond
    net = normal(2, 8, seed=3).to(dtype)
    found = both_ways(query, key, net)
    most = 4 * torch.finfo(dtype).eps * net.abs().sum(-1)[:, None, None].double()
    assert ((found[0][0] - found[0][1]).abs() <= most).all()
    for grad, expected in found[1:]:
        error = float((grad - expected).abs().max())
        assert error <= 32 * torch.finfo(dtype).eps * max(float(expected.abs().max()), 1.0)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("scale", [0.01, 0.1, 0.2, 0.249, 0.3, 0.49, 1.0, 10.0, 42.9, 100.0])
def test_one_outlying_key_or_query_changes_no_other_score(scale: float, dtype: torch.dtype) -> None:
    """It changes the way in which all are computed: the three ways meet."""
    query, key = (
        torch.rand(1, 1, n, 12, generator=torch.Generator().manual_seed(n)) * 2 - 1 for n in (9, 40)
    )
    query, key = (query * scale).to(dtype), (key * scale).to(dtype)
    net = normal(1, 12, seed=3).to(dtype)
    eps = torch.finfo(dtype).eps
    clean = both_ways(query, key, net)
    most = 4 * eps * float(net.abs().sum())
    for outlier in (0.2499, 0.2501, 0.26, 1.0, 42.9, 43.1, 349.9, 350.1, 1e4, 1e30, torch.finfo(dtype).max):
        for what in ("key", "query"):
            other = [query.clone(), key.clone()]
            other[what == "key"][0, 0, 7, 5] = outlier
            found = both_ways(*other, net)
            assert ((found[0][0] - found[0][1]).abs() <= most).all(), (outlier, what)
            seen = torch.ones_like(clean[0][0], dtype=torch.bool)
            seen[..., 7, :] &= what == "key"
            seen[..., :, 7] &= what == "query"
            assert ((found[0][0] - clean[0][0])[seen].abs() <= most).all(), (outlier, what)
            for grad, expected in found[1:]:
                error = float((grad - expected).abs().max())
                assert error <= 32 * eps * max(float(expected.abs().max()), 1.0), (outlier, what)


def test_the_ways_are_taken() -> None:
    """What the tests above mean to meet is there to be met."""
    query, key, net = torch.rand(1, 1, 9, 4), torch.rand(1, 1, 9, 4), torch.ones(1, 4)
    codes = {
        layout.Layout.of(query * scale, key * scale, net, "additive", by_row=False).score
        for scale in (0.1, 1.0, 100.0)
    }
    assert len(codes) == 3


@pytest.mark.parametrize("query_len", [FEW, 40])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("what", ["query", "key"])
def test_what_is_no_number_touches_its_row_or_column_only(what: str, bad: float, query_len: int) -> None:
    query, key = torch.randn(1, 2, query_len, 6), torch.randn(1, 2, 35, 6)
    net = torch.randn(2, 6)
    place = (0, 1, 2, 4)
    (query if what == "query" else key)[place] = bad
    leaves = [t.requires_grad_() for t in (query, key, net)]
    found = operators.additive_scores(*leaves)
    expected = plain.additive_scores(*leaves)
    torch.testing.assert_close(found, expected, equal_nan=True)
    touched = torch.zeros_like(found, dtype=torch.bool)
    touched[0, 1, 2 if what == "query" else slice(None), slice(None) if what == "query" else 2] = True
    assert torch.equal(found.isnan(), touched if bad != bad else torch.zeros_like(touched))
    # Its own gradient is no number; another's is one.
    above = torch.randn_like(found)
    grads = torch.autograd.grad(found, leaves, above)
    plainly = torch.autograd.grad(expected, leaves, above)
    for grad, other in zip(grads, plainly, strict=True):
        torch.testing.assert_close(grad, other, equal_nan=True, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("query_len", [FEW, 9, 40])
@pytest.mark.parametrize("scale", [0.05, 1.0, 100.0])
def test_gradients_of_zero_change_nothing(scale: float, query_len: int) -> None:
    """Whole queries, keys and panels without a gradient: the same as if they were not there."""
    query, key = normal(1, 2, query_len, 7, seed=1) * scale, normal(1, 2, 70, 7, seed=2) * scale
    net, above = normal(2, 7, seed=3), normal(1, 2, query_len, 70, seed=4)
    rows, columns = torch.arange(0, query_len, 2), torch.tensor([0, 5, *range(32, 41), 69])
    inside = torch.zeros_like(above)
    inside[:, :, rows[:, None], columns] = above[:, :, rows[:, None], columns]
    whole = operators_gradients(query, key, net, inside)
    part = operators_gradients(
        query[:, :, rows], key[:, :, columns], net, above[:, :, rows[:, None], columns]
    )
    torch.testing.assert_close(whole[0][:, :, rows], part[0], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(whole[1][:, :, columns], part[1], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(whole[2], part[2], atol=1e-12, rtol=1e-12)
    left = torch.ones(70, dtype=torch.bool)
    left[columns] = False
    assert not whole[0][:, :, 1::2].any()
    assert not whole[1][:, :, left].any()
    for one in operators_gradients(query, key, net, torch.zeros_like(above)):
        assert not one.any()


def operators_gradients(query: Tensor, key: Tensor, net: Tensor, above: Tensor) -> tuple[Tensor, ...]:
    leaves = [t.clone().requires_grad_() for t in (query, key, net)]
    return torch.autograd.grad(operators.additive_scores(*leaves), leaves, above)


@pytest.mark.parametrize("backend", ["additive", "sparse"])
def test_decoding_step_by_step_is_the_whole_at_once(backend: str) -> None:
    call = call_of(20, 20, 16, normalizer="sparsemax")
    whole = regard.attend(
        call.query,
        call.key,
        call.value,
        score=call.score,
        normalizer="sparsemax",
        mask="causal",
        backend=backend,
    )
    for step in (1, 2, 3, 4, 5):
        parts = [
            regard.attend(
                call.query[:, :, start : start + step],
                call.key[:, :, : start + step],
                call.value[:, :, : start + step],
                score=call.score,
                normalizer="sparsemax",
                mask="causal",
                backend=backend,
            )
            for start in range(0, 20, step)
        ]
        torch.testing.assert_close(torch.cat(parts, dim=-2), whole, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", ["additive", "concat", "location_sensitive", "additive+qknorm"])
def test_every_score_with_a_hyperbolic_tangent_is_fused(name: str) -> None:
    """And gives what the same score gives without: outputs, weights and gradients of whatever it learns."""
    from tests.attention import cases

    made = cases.score_of(name)
    query, key = normal(2, 4, 6, 6, seed=1), normal(2, 2, 7, 6, seed=2)
    call = Call(query, key, normal(2, 2, 7, 5, seed=3), made, Softmax())
    assert not additive.unsupported(
        regard.attention.call.AttentionCall.of(query, key, call.value, score=made)
    )
    judge(call, torch.float64, "additive")
    judge(Call(query, key, call.value, made, normalizer_named("sparsemax")), torch.float64, "sparse")


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_another_activation_is_refused(activation: str) -> None:
    call = call_of(5, 5, 4)
    score = regard.scores.Additive(activation=activation)
    with pytest.raises(ValueError, match="backend 'additive' cannot run this call"):
        regard.attend(call.query, call.key, call.value, score=score, backend="additive")
