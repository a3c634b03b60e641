"""What each normaliser promises: its definition, its derivatives, and its conduct at the edges of the numbers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import regard
from regard.attention import reference
from regard.attention.grid import Block, Grid
from regard.attention.mechanism import normalizer_named
from regard.attention.normalizers import (
    NORMALIZERS,
    Entmax,
    Entmax15,
    GumbelSoftmax,
    Hardmax,
    Local,
    Monotonic,
    MonotonicHard,
    Normalizer,
    ReLU,
    Sample,
    Sigmoid,
    SinkSoftmax,
    Softmax,
    Sparsemax,
    Threshold,
    TopK,
    TopP,
)

ALPHAS = [1.0001, 1.05, 1.3, 1.5, 1.9, 2.0, 2.5, 3.0, 5.0]
SETTLED = {
    "softmax": (Softmax(), {}),
    "softmax-0.5": (Softmax(0.5), {"temperature": 0.5}),
    "sparsemax": (Sparsemax(), {}),
    "entmax15": (Entmax15(), {}),
    "entmax-1.3": (Entmax(1.3), {"alpha": 1.3}),
    "entmax-2.5": (Entmax(2.5), {"alpha": 2.5}),
    "sigmoid": (Sigmoid(), {}),
    "relu": (ReLU(), {}),
    "relu-2": (ReLU(2), {"power": 2}),
    "sink": (SinkSoftmax(), {}),
    "sink-1.5": (SinkSoftmax(1.5), {"sink": 1.5}),
    "hardmax": (Hardmax(), {}),
    "top-3": (TopK(3), {"k": 3}),
    "top_p": (TopP(), {}),
    "top_p-0.5": (TopP(0.5), {"p": 0.5}),
    "threshold": (Threshold(), {}),
    "threshold-0.3": (Threshold(0.3), {"threshold": 0.3}),
}
"""The normalisers of one query alone that draw nothing, by their spelling, and their numbers for the reference."""
SMOOTH = [name for name in SETTLED if name != "hardmax"]
EVERY: dict[str, Normalizer] = {
    **{name: part for name, (part, _) in SETTLED.items()},
    "gumbel": GumbelSoftmax(),
    "gumbel_hard": GumbelSoftmax(hard=True),
    "sample": Sample(),
    "monotonic": Monotonic(),
    "monotonic-0.5": Monotonic(0.5),
    "monotonic_hard": MonotonicHard(),
    "local": Local(torch.tensor([0.0, 2.5, 4.0]), width=2),
    "entmax of a tensor": Entmax(torch.tensor([1.5, 2.5])),
    "sink of a tensor": SinkSoftmax(torch.tensor([0.5, -1.0])),
}
LIKE_OTHERS = [
    "softmax-0.5",
    "entmax-1.3",
    "entmax-2.5",
    "relu-2",
    "sink",
    "sink-1.5",
    "top_p-0.5",
    "threshold-0.3",
]
"""Those that run the same lines as another, for tests that are slow."""
HIDDEN = -torch.inf


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def whole(scores: Tensor, seed: int | None = 0) -> Block:
    grid = Grid(scores.shape[-2], scores.shape[-1], scores.ndim, scores.device)
    return Block.of(slice(0, grid.query_len), slice(0, grid.key_len), grid, seed)


def weights_of(normalizer: Normalizer, scores: Tensor, seed: int | None = 0) -> Tensor:
    return normalizer.weights(scores, whole(scores, seed))


def check_derivatives(weigh: Callable[..., Tensor], *inputs: Tensor) -> None:
    """First, second and forward-mode derivatives against finite differences."""
    leaves = tuple(one.detach().requires_grad_() for one in inputs)
    torch.autograd.gradcheck(weigh, leaves, check_forward_ad=True, check_batched_grad=True)
    torch.autograd.gradgradcheck(weigh, leaves)


# The definition


@pytest.mark.parametrize("name", SETTLED)
def test_weights_are_those_of_the_definition(name: str) -> None:
    normalizer, numbers = SETTLED[name]
    for seed, spread in enumerate([0.1, 1.0, 10.0]):
        scores = normal(6, 9, seed=seed) * spread
        scores[normal(6, 9, seed=seed + 10) > 0.8] = HIDDEN
        found = weights_of(normalizer, scores).numpy()
        for row, weights in zip(scores.numpy(), found, strict=True):
            seen = row > -np.inf
            expected = reference.NORMALIZERS[name.partition("-")[0]](row[seen], **numbers)
            # The reference finds the threshold of entmax to a rounding, above alpha = 2 its weights to the root of one.
            np.testing.assert_allclose(weights[seen], expected, atol=3e-8 if name == "entmax-2.5" else 1e-13)
            assert (weights[~seen] == 0).all()


@pytest.mark.parametrize(
    ("normalizer", "scores", "weights"),
    [
        (SinkSoftmax(), [0.0, 0.0], [1 / 3, 1 / 3]),
        (SinkSoftmax(torch.tensor(np.log(2.0))), [0.0, HIDDEN], [1 / 3, 0.0]),
        (ReLU(), [3.0, -1.0, 1.5, HIDDEN], [1.0, 0.0, 0.5, 0.0]),
        (ReLU(2), [3.0, -1.0], [4.5, 0.0]),
        (TopP(0.5), [0.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]),
        (TopP(0.01), [1.0, 2.0, 2.0], [0.0, 1.0, 0.0]),
        (Threshold(0.4), [0.0, np.log(2.0), np.log(2.0)], [0.0, 0.5, 0.5]),
        (Threshold(0.9), [0.0, np.log(3.0), 0.0], [0.0, 1.0, 0.0]),
        (Entmax(3.0), [0.0, -0.25], [0.5 + 0.25, 0.5 - 0.25]),
        (Entmax(1.5), [1.0, 1.0, HIDDEN], [0.5, 0.5, 0.0]),
    ],
)
def test_weights_by_hand(normalizer: Normalizer, scores: list[float], weights: list[float]) -> None:
    """Entmax at alpha 3: roots of 2 s - t, here of t' and t' - 1/2 with the sum 1, so t' = (3/4)^2."""
    found = weights_of(normalizer, torch.tensor([scores], dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([weights], dtype=torch.float64), rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("given", ["number", "tensor"])
def test_entmax_meets_its_conditions(alpha: float, dtype: torch.dtype, given: str) -> None:
    """The weights sum to one, and all follow from that of the best key: `(w ** a - 1) / a - s` is the same for every
    key with weight, and is no less for those without."""
    entmax = Entmax(alpha if given == "number" else torch.tensor(alpha, dtype=torch.float64))
    rounding, order = torch.finfo(dtype).eps, alpha - 1
    for seed, (count, spread) in enumerate(product([1, 2, 5, 200], [0.003, 0.1, 1.0, 5.0, 100.0])):
        scores = normal(40, count, seed=seed, dtype=dtype) * spread
        weights = entmax.weigh(scores)
        assert weights.dtype == dtype
        assert (weights >= 0).all()
        weights, scores = weights.double(), scores.double()
        one = torch.ones(40, dtype=torch.float64)
        torch.testing.assert_close(weights.sum(-1), one, rtol=0, atol=30 * rounding)
        best, place = scores.max(-1, keepdim=True)
        # Written so that small orders keep their digits.
        level = torch.expm1(order * weights.gather(-1, place).log()) / order + (scores - best)
        expected = (order * level).clamp(min=-1).log1p().div(order).exp()
        # Above alpha = 2 a weight near zero moves with the root of a rounding: its power is compared.
        power = max(order, 1.0)
        torch.testing.assert_close(weights**power, expected**power, rtol=0, atol=40 * rounding)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_entmax_is_best_among_points_of_the_simplex(alpha: float) -> None:
    generator = np.random.default_rng(0)
    others = generator.dirichlet(np.full(5, 0.3), size=2000)

    def objective(p: np.ndarray, s: np.ndarray) -> np.ndarray:
        return p @ s + (p - p**alpha).sum(-1) / (alpha * (alpha - 1))

    for spread in (0.2, 1.0, 3.0):
        scores = generator.normal(size=5) * spread
        weights = Entmax(alpha).weigh(torch.tensor(scores)).numpy()
        for rivals in (others, 0.99 * weights + 0.01 * others):
            assert (objective(rivals, scores) <= objective(weights, scores) + 1e-11).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_special_cases_are_equal(dtype: torch.dtype) -> None:
    def same(one: Normalizer, other: Normalizer, tolerance: float) -> None:
        torch.testing.assert_close(one.weigh(scores), other.weigh(scores), rtol=0, atol=tolerance)

    rounding = torch.finfo(dtype).eps
    for spread in (0.1, 1.0, 20.0):
        scores = normal(2, 30, 60, dtype=dtype) * spread
        same(Entmax(2.0), Sparsemax(), 4 * rounding)
        same(Entmax(1.5), Entmax15(), 8 * rounding)
        same(Entmax(torch.tensor([1.5, 1.5])), Entmax15(), 8 * rounding)
        # Entmax is off softmax by the order times about w (log w)^2, which is at most 0.55.
        same(Entmax(1 + 1e-9), Softmax(), 2e-9 + 4 * rounding * (1 + spread))
        same(SinkSoftmax(-torch.inf), Softmax(), rounding)
        same(SinkSoftmax(-1e30), Softmax(), rounding)
        same(TopP(1.0), Softmax(), 0)
        same(Threshold(1e-30), Softmax(), 4 * rounding)
        same(Threshold(1.0), Hardmax(), 0)
        same(GumbelSoftmax(0.5), Softmax(0.5), 0)
        same(GumbelSoftmax(hard=True), Hardmax(), 0)


@pytest.mark.parametrize("alpha", [1.0001, 1.5, 1.95, 2.0, 2.05])
def test_entmax_of_very_many_keys(alpha: float) -> None:
    """The search for the threshold ends however many keys there are, and however they crowd below the best."""
    uniform = torch.rand(20000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    crowds = [normal(20000) * 0.01, normal(20000), -uniform * 0.01, -(uniform**8), -(uniform * 40 - 35).exp()]
    weights = Entmax(alpha).weigh(torch.stack(crowds))
    torch.testing.assert_close(weights.sum(-1), torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", [*SMOOTH, "hardmax"])
def test_invariances(name: str) -> None:
    normalizer, _ = SETTLED[name]
    scores = normal(4, 12) * 3
    weights = normalizer.weigh(scores)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(normalizer.weigh(scores[:, order]), weights[:, order])
    hidden = torch.cat([scores, torch.full((4, 3), HIDDEN, dtype=scores.dtype)], dim=-1)
    torch.testing.assert_close(normalizer.weigh(hidden)[:, :12], weights)
    if name.partition("-")[0] not in ("sigmoid", "relu", "sink"):
        torch.testing.assert_close(normalizer.weigh(scores + 100), weights)
        torch.testing.assert_close(weights.sum(-1), torch.ones(4, dtype=torch.float64))


# Derivatives


@pytest.mark.parametrize("name", SMOOTH)
def test_derivatives(name: str) -> None:
    normalizer, _ = SETTLED[name]
    scores = normal(2, 3, 5, seed=3)
    hidden = torch.zeros(2, 3, 5, dtype=torch.bool)
    hidden[0, 1, 2:4] = hidden[1, 2, :] = True
    check_derivatives(lambda s: weights_of(normalizer, s.masked_fill(hidden, HIDDEN)), scores)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_derivatives_of_entmax(alpha: float) -> None:
    check_derivatives(Entmax(alpha).weigh, normal(3, 5, seed=1))


@pytest.mark.parametrize("alphas", [(1.5, 1.2), (1.05, 2.0001), (3.0, 1.9), (0.7, 1.4)])
def test_derivatives_of_a_learned_alpha(alphas: tuple[float, ...]) -> None:
    alpha = torch.tensor(alphas, dtype=torch.float64)
    check_derivatives(lambda s, a: Entmax(a).weigh(s), normal(2, 2, 4, seed=2), alpha)
    mirrored = Entmax(1 + (alpha - 1).abs()).weigh(normal(2, 2, 4))
    torch.testing.assert_close(Entmax(alpha).weigh(normal(2, 2, 4)), mirrored)


def test_a_learned_alpha_is_never_caught() -> None:
    """At alpha = 1 exactly, and right beside it, weights are finite and so is the gradient, which is not zero."""
    for value in (1.0, 1.0 + 1e-7, 1.0 - 1e-7):
        alpha = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        scores = normal(3, 4)
        weights = Entmax(alpha).weigh(scores)
        torch.testing.assert_close(weights, torch.softmax(scores, -1), rtol=0, atol=1e-4)
        (gradient,) = torch.autograd.grad(weights[:, 0].sum(), alpha)
        assert gradient.isfinite()
        assert value == 1.0 or gradient != 0


def test_derivatives_of_sinks() -> None:
    check_derivatives(
        lambda s, b: SinkSoftmax(b).weigh(s), normal(2, 2, 4), torch.tensor([0.3, -1.0]).double()
    )
    check_derivatives(lambda s, b: SinkSoftmax(b).weigh(s), normal(2, 4), torch.tensor(0.3).double())


def test_learned_numbers_belong_to_heads_and_given_ones_stay() -> None:
    entmax, sink = Entmax().learn(3), SinkSoftmax().learn(2)
    assert isinstance(entmax, Entmax)
    assert isinstance(sink, SinkSoftmax)
    torch.testing.assert_close(entmax.alpha, torch.tensor([1.5, 1.5, 1.5]))
    torch.testing.assert_close(sink.sink, torch.zeros(2))
    given = [Entmax(1.3), SinkSoftmax(2.0)]
    assert [one.learn(3) for one in given] == given
    scores = normal(2, 3, 4)
    both = Entmax(torch.tensor([1.5, 3.0], dtype=torch.float64)).weigh(scores)
    torch.testing.assert_close(both[0], Entmax(1.5).weigh(scores[0]))
    torch.testing.assert_close(both[1], Entmax(3.0).weigh(scores[1]))
    x = normal(2, 3, 4)
    for wrong in (torch.zeros(3), torch.zeros(2, 1)):
        with pytest.raises(ValueError, match="one a head"):
            regard.attend(x, x, x, normalizer=SinkSoftmax(wrong))
        with pytest.raises(ValueError, match="one a head"):
            regard.attend(x, x, x, normalizer=Entmax(wrong))


def test_derivatives_of_local() -> None:
    center = torch.tensor([[0.2, 2.6, 4.9], [1.3, 9.0, 3.3]], dtype=torch.float64)
    check_derivatives(lambda s, c: Local(c, 2.0).weigh(s), normal(2, 3, 5), center)


def test_derivatives_of_monotonic() -> None:
    previous = torch.softmax(normal(2, 5, seed=4), -1)
    hidden = torch.zeros(2, 3, 5, dtype=torch.bool)
    hidden[0, 1, 1:3] = hidden[1, 2, :] = True

    def weigh(scores: Tensor, previous: Tensor) -> Tensor:
        return weights_of(Monotonic(previous=previous), scores.masked_fill(hidden, HIDDEN))

    check_derivatives(weigh, normal(2, 3, 5), previous)


# Draws


def test_gumbel_softmax_is_softmax_of_noisy_scores_and_drawn_by_softmax() -> None:
    scores = torch.tensor([2.0, 0.0, 1.0, HIDDEN], dtype=torch.float64).expand(20000, 4)
    hard = weights_of(GumbelSoftmax(hard=True), scores)
    assert ((hard == 0) | (hard == 1)).all()
    assert (hard.sum(-1) == 1).all()
    # Five deviations of the mean of 20000 draws of a number that is 0 or 1.
    torch.testing.assert_close(hard.mean(0), torch.softmax(scores[0], -1), rtol=0, atol=5 * 0.5 / 20000**0.5)
    soft = weights_of(GumbelSoftmax(0.7), scores)
    torch.testing.assert_close(soft.sum(-1), torch.ones(20000, dtype=torch.float64))
    assert (soft[:, 3] == 0).all()
    torch.testing.assert_close(Hardmax().weigh(soft), hard, rtol=0, atol=0)
    assert not torch.equal(
        weights_of(GumbelSoftmax(), scores, seed=1), weights_of(GumbelSoftmax(), scores, seed=2)
    )


def test_straight_through_has_the_gradient_of_the_soft_weights() -> None:
    scores, rewards = normal(4, 5).requires_grad_(), normal(4, 5, seed=1)
    found = [
        torch.autograd.grad((weights_of(one, scores) * rewards).sum(), scores)[0]
        for one in (GumbelSoftmax(0.7), GumbelSoftmax(0.7, hard=True))
    ]
    torch.testing.assert_close(*found, rtol=0, atol=0)
    check_derivatives(lambda s: weights_of(GumbelSoftmax(0.7), s), normal(2, 3, 4))


def test_sample_carries_the_gradient_of_the_log_probability() -> None:
    scores = normal(6, 4).requires_grad_()
    weights = weights_of(Sample(), scores)
    assert (weights.detach().sum(-1) == 1).all()
    chosen = weights.detach().bool()
    expected = torch.log_softmax(scores, -1)[chosen].sum()
    torch.testing.assert_close(
        torch.autograd.grad(weights.sum(), scores, retain_graph=True)[0],
        torch.autograd.grad(expected, scores)[0],
    )
    (elsewhere,) = torch.autograd.grad(weights[~chosen].sum(), scores)
    assert (elsewhere == 0).all()
    direction = normal(6, 4, seed=1)
    for weigh in (lambda s: weights_of(Sample(), s), lambda s: torch.log_softmax(s, -1) * chosen):
        _, slope = torch.func.jvp(weigh, (scores.detach(),), (direction,))
        torch.testing.assert_close(
            slope, (direction - (torch.softmax(scores, -1) * direction).sum(-1, True)) * chosen
        )


def test_reinforce_is_unbiased_over_all_outcomes() -> None:
    """The mean over every outcome, each weighed by its chance, of the surrogate's first and second derivatives is that
    of the expected reward; which outcome a seed draws is found by drawing."""
    scores, rewards = normal(1, 3).requires_grad_(), torch.tensor([1.0, -2.0, 5.0], dtype=torch.float64)
    exact = (torch.softmax(scores, -1) * rewards).sum()
    first = torch.autograd.grad(exact, scores, create_graph=True)[0]
    second = torch.autograd.grad(first.square().sum(), scores)[0]
    outcomes: dict[int, Tensor] = {}
    for seed in range(200):
        weights = weights_of(Sample(), scores, seed)
        outcomes.setdefault(int(weights.argmax()), weights)
    assert len(outcomes) == 3
    chances = torch.softmax(scores, -1).detach()[0]
    mean = sum(chances[key] * rewards[key] * weights.sum() for key, weights in outcomes.items())
    (found,) = torch.autograd.grad(mean, scores, create_graph=True)  # type: ignore[arg-type]
    torch.testing.assert_close(found, first)
    (again,) = torch.autograd.grad(found.square().sum(), scores, retain_graph=True)
    torch.testing.assert_close(again, second)
    # A baseline that does not know the outcome changes nothing in the mean.
    baseline = sum(chances[key] * (rewards[key] - 7) * weights.sum() for key, weights in outcomes.items())
    torch.testing.assert_close(torch.autograd.grad(baseline, scores)[0], first.detach())  # type: ignore[arg-type]


def test_sample_draws_by_softmax_and_its_output_teaches_values_alone() -> None:
    scores = torch.tensor([2.0, 0.0, 1.0, HIDDEN], dtype=torch.float64).expand(20000, 4)
    drawn = weights_of(Sample(), scores).mean(0)
    torch.testing.assert_close(drawn, torch.softmax(scores[0], -1), rtol=0, atol=5 * 0.5 / 20000**0.5)
    query, key, value = (normal(2, 3, 4, seed=seed).requires_grad_() for seed in range(3))
    output, weights = regard.attend(query, key, value, normalizer="sample", return_weights=True)
    torch.testing.assert_close(output, weights @ value)
    found = torch.autograd.grad(output.sum(), (query, key, value), allow_unused=True, retain_graph=True)
    assert all(gradient is None or not gradient.any() for gradient in found[:2])
    torch.testing.assert_close(found[2], weights.detach().sum(-2)[..., None].expand(2, 3, 4))
    assert torch.autograd.grad(weights.sum(), query)[0].any()


@pytest.mark.parametrize(
    ("drawn", "settled"),
    [
        (GumbelSoftmax(0.5), "softmax-0.5"),
        (GumbelSoftmax(hard=True), "hardmax"),
        (Sample(), "hardmax"),
        (Monotonic(0.3), "monotonic_hard"),
        (Monotonic(), "monotonic_hard"),
    ],
)
def test_what_draws_settles(drawn: Normalizer, settled: str) -> None:
    assert drawn.settled().spelling == settled
    assert drawn.random == (drawn.spelling != "monotonic")
    assert not drawn.settled().random


# Monotonic readers


def paths(stops: np.ndarray, start: int = 0) -> np.ndarray:
    """The weights of monotonic alignment by going through every way in which the queries may stop."""
    queries, keys = stops.shape
    weights = np.zeros((queries, keys))
    for path in product(range(keys + 1), repeat=queries):
        chance, at = 1.0, start
        for query, stop in enumerate(path):
            if at == keys:
                chance *= stop == keys
            elif stop < at:
                chance = 0.0
            else:
                chance *= np.prod(1 - stops[query, at:stop]) * (stops[query, stop] if stop < keys else 1.0)
            at = stop
        for query, stop in enumerate(path):
            if stop < keys:
                weights[query, stop] += chance
    return weights


def test_monotonic_is_the_mean_over_all_paths() -> None:
    scores = normal(3, 4)
    expected = paths(torch.sigmoid(scores).numpy())
    np.testing.assert_allclose(Monotonic().weigh(scores).numpy(), expected, rtol=1e-12)
    previous = torch.tensor([0.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    expected = paths(torch.sigmoid(scores).numpy(), start=2)
    np.testing.assert_allclose(Monotonic(previous=previous).weigh(scores).numpy(), expected, rtol=1e-12)
    scores[1, :] = scores[0, 2] = HIDDEN
    expected = paths(torch.sigmoid(scores).numpy())
    np.testing.assert_allclose(weights_of(Monotonic(), scores).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("key_len", [1, 2, 3, 7, 8, 9, 33])
@pytest.mark.parametrize("hard", [False, True])
def test_monotonic_is_its_definition_and_goes_step_by_step(key_len: int, hard: bool) -> None:
    scores = normal(2, 6, key_len, seed=key_len) * 3
    scores[normal(2, 6, key_len, seed=1) > 1.2] = HIDDEN
    part: Any = MonotonicHard if hard else Monotonic
    weights = weights_of(part(), scores)
    definition = reference.COUPLED[part.name]
    for head in range(2):
        before = np.eye(1, key_len)[0]
        for query in range(6):
            before = definition(scores[head, query].numpy(), before)
            np.testing.assert_allclose(weights[head, query].numpy(), before, rtol=1e-12, atol=1e-300)
    previous = None
    for query in range(6):
        step = weights_of(part(previous=previous), scores[:, query : query + 1])
        torch.testing.assert_close(step, weights[:, query : query + 1], rtol=1e-14, atol=0)
        previous = step[:, 0]


def test_a_reader_at_the_end_stays_there() -> None:
    scores = torch.tensor([[-1.0, 1.0, -1.0], [1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
    expected = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert torch.equal(MonotonicHard().weigh(scores), expected)
    # Certain chances make the expected alignment the hard one.
    torch.testing.assert_close(Monotonic().weigh(scores * 200), expected)


def test_monotonic_neither_overflows_nor_goes_back() -> None:
    scores = normal(4, 2000, dtype=torch.float32) * 3 - 4
    weights = Monotonic().weigh(scores)
    assert weights.isfinite().all()
    assert (weights >= 0).all()
    assert (weights.sum(-1) <= 1 + 1e-5).all()
    assert (weights.cumsum(-1)[1:] <= weights.cumsum(-1)[:-1] + 1e-5).all()
    noisy = weights_of(Monotonic(1.0), normal(4, 50))
    assert not torch.equal(noisy, Monotonic().weigh(normal(4, 50)))
    assert noisy.isfinite().all()


def test_monotonic_through_the_operator() -> None:
    query, key, value = (normal(2, 5, 4, seed=seed) for seed in range(3))
    mask = torch.rand(5, 5, generator=torch.Generator().manual_seed(0)) > 0.4
    for name in ("monotonic", "monotonic_hard"):
        output, weights = regard.attend(query, key, value, normalizer=name, mask=mask, return_weights=True)
        expected = reference.attend(query, key, value, normalizer=name, mask=mask)
        np.testing.assert_allclose(output.numpy(), expected[0], atol=1e-12)
        np.testing.assert_allclose(weights.numpy(), expected[1], atol=1e-12)
    with pytest.raises(ValueError, match="previous alignment"):
        regard.attend(query, key, value, normalizer=Monotonic(previous=torch.zeros(3, 5)))


# Local


def test_local_by_the_definition() -> None:
    scores, center = normal(2, 3, 7), torch.tensor([[0.0, 2.5, 6.0], [-9.0, 5.2, 3.0]], dtype=torch.float64)
    soft, window = Local(center, 2).weigh(scores), Local(center, 2, gaussian=False).weigh(scores)
    for head, query in product(range(2), range(3)):
        middle = float(center[head, query])
        near = [key for key in range(7) if abs(key - middle) <= 2]
        total = sum(np.exp(float(scores[head, query, key])) for key in near)
        for key in range(7):
            plain = np.exp(float(scores[head, query, key])) / total if key in near else 0.0
            assert float(window[head, query, key]) == pytest.approx(plain, abs=1e-14)
            bell = np.exp(-((key - middle) ** 2) / (2 * (2 / 2) ** 2))
            assert float(soft[head, query, key]) == pytest.approx(plain * bell, abs=1e-14)


def test_local_knows_which_queries_and_keys_a_block_has(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = (normal(2, 9, 4, seed=seed) for seed in range(3))
    local = Local(torch.linspace(0, 8, 9, dtype=torch.float64).expand(2, 9), 1.5)
    mask = regard.masks.window(4)
    together = regard.attend(query, key, value, normalizer=local, mask=mask)
    monkeypatch.setattr("regard.attention.backends.blockwise.BLOCK_BYTES", 300)
    torch.testing.assert_close(regard.attend(query, key, value, normalizer=local, mask=mask), together)
    some = regard.weights(query, key, normalizer=local, mask=mask, rows=[7, 2])
    _, every = regard.attend(query, key, value, normalizer=local, mask=mask, return_weights=True)
    torch.testing.assert_close(some, every[:, [7, 2]])
    with pytest.raises(ValueError, match="center of local"):
        regard.attend(query, key, value, normalizer=Local(torch.zeros(2, 8), 1))


# The edges


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", EVERY)
def test_nothing_is_nan_for_extreme_scores(name: str, dtype: torch.dtype) -> None:
    """A row that may see nothing, huge, equal and denormal scores: weights and gradients are finite, in every dtype."""
    tiny = torch.finfo(dtype).smallest_normal / 8
    rows = [
        [1e4, -1e4, 9e3, HIDDEN, 1e4],
        [1e30, -1e30, 1e30, 0.0, 1.0],
        [-1e30, -1e30, -1e30, -1e30, HIDDEN],
        [tiny, -tiny, 0.0, 2 * tiny, HIDDEN],
        [HIDDEN, HIDDEN, HIDDEN, HIDDEN, HIDDEN],
        [HIDDEN, HIDDEN, 5.0, HIDDEN, HIDDEN],
    ]
    if name == "relu-2":
        rows[1] = [1e15, -1e30, 1e15, 0.0, 1.0]
    scores = torch.tensor(rows, dtype=dtype).reshape(2, 3, 5).requires_grad_()
    weights = weights_of(EVERY[name], scores)
    assert weights.dtype == dtype
    assert weights.isfinite().all()
    assert (weights >= 0).all()
    assert (weights[scores == HIDDEN] == 0).all()
    (gradient,) = torch.autograd.grad((weights * normal(2, 3, 5, dtype=dtype)).sum(), scores)
    assert gradient.isfinite().all()
    assert (gradient[scores == HIDDEN] == 0).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", EVERY)
def test_nan_and_infinity_stay_in_their_row(name: str, bad: float) -> None:
    """Readers carry it to the rows after; those that weigh each key on its own keep it to the key."""
    normalizer = EVERY[name]
    good = normal(2, 3, 5, dtype=torch.float32)
    scores = good.clone()
    scores[0, 1, 2] = bad
    weights, usual = weights_of(normalizer, scores), weights_of(normalizer, good)
    assert torch.equal(weights[1], usual[1])
    assert torch.equal(weights[0, 0], usual[0, 0])
    if not normalizer.coupled:
        assert torch.equal(weights[0, 2], usual[0, 2])
    row = weights[0, 1]
    if bad == torch.inf and name in ("sigmoid", "hardmax", "monotonic_hard"):
        assert float(row[2]) in (0.0, 1.0)
        assert row.isfinite().all()
    elif name.startswith(("sigmoid", "relu")):
        assert not row[2].isfinite()
        assert row[[0, 1, 3, 4]].isfinite().all()
    elif not normalizer.coupled:
        assert row.isnan().all() or (name == "local" and row.isnan().any())
    elif bad is torch.nan:
        assert row.isnan().any()


@pytest.mark.parametrize("name", [name for name in EVERY if name != "local"])
def test_one_key_and_no_queries(name: str) -> None:
    one = weights_of(EVERY[name], torch.full((2, 3, 1), 0.7, dtype=torch.float64))
    assert one.shape == (2, 3, 1)
    if name.partition("-")[0] not in ("sigmoid", "relu", "sink", "sink of a tensor", "monotonic"):
        assert (one == 1).all()
    assert weights_of(EVERY[name], torch.zeros(2, 0, 4)).shape == (2, 0, 4)
    x, nothing = torch.zeros(2, 3, 4), torch.zeros(2, 0, 4)
    assert not regard.attend(x, nothing, nothing, normalizer=EVERY[name]).any()


@pytest.mark.parametrize("name", EVERY)
def test_function_transforms(name: str) -> None:
    normalizer = EVERY[name]
    scores = normal(4, 2, 3, 5, dtype=torch.float32)

    def weigh(one: Tensor) -> Tensor:
        return weights_of(normalizer, one)

    if not normalizer.random:
        each = torch.stack([weigh(one) for one in scores])
        torch.testing.assert_close(torch.func.vmap(weigh)(scores), each)
        value, slope = torch.func.jvp(weigh, (scores[0],), (torch.ones_like(scores[0]),))
        torch.testing.assert_close(value, each[0])
        assert slope.isfinite().all()
    else:
        found = torch.func.vmap(lambda one: weights_of(normalizer, one, None), randomness="different")(scores)
        assert found.isfinite().all()


@pytest.mark.parametrize("name", [name for name in EVERY if name not in LIKE_OTHERS])
def test_compiles_without_a_break(name: str) -> None:
    torch._dynamo.reset()
    normalizer = EVERY[name]

    def weigh(scores: Tensor) -> Tensor:
        return weights_of(normalizer, scores, None if normalizer.random else 0)

    compiled = torch.compile(weigh, fullgraph=True, backend="aot_eager", dynamic=True)
    for key_len in (5, 7):
        scores = normal(2, 3, key_len, dtype=torch.float32).requires_grad_()
        found = compiled(scores)
        assert found.shape == scores.shape
        if not normalizer.random:
            torch.testing.assert_close(found, weigh(scores))
            (one,) = torch.autograd.grad(found[..., 0].sum(), scores)
            (two,) = torch.autograd.grad(weigh(scores)[..., 0].sum(), scores)
            torch.testing.assert_close(one, two)


# Spelling and errors


@pytest.mark.parametrize(
    "spelling",
    [
        *SETTLED,
        *NORMALIZERS,
        "gumbel-0.5",
        "gumbel_hard-2",
        "monotonic-0.25",
        "entmax-1.0001",
        "softmax-0.00001",
    ],
)
def test_spelling_comes_back(spelling: str) -> None:
    spelt = normalizer_named(spelling).spelling
    assert spelt == ("top-4" if spelling == "top" else spelling)
    assert normalizer_named(spelt).spelling == spelt


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Entmax(1.0), "above 1"),
        (lambda: Entmax(torch.inf), "above 1"),
        (lambda: ReLU(3), "1 or 2"),
        (lambda: TopP(0.0), "above 0 and at most 1"),
        (lambda: TopP(1.5), "above 0 and at most 1"),
        (lambda: Threshold(-0.1), "above 0 and at most 1"),
        (lambda: GumbelSoftmax(0.0), "temperature"),
        (lambda: Softmax(0.0), "temperature"),
        (lambda: Monotonic(-1.0), "at least 0"),
        (lambda: Local(torch.zeros(3), 0), "width"),
    ],
)
def test_bad_numbers_are_refused(make: Callable[[], Normalizer], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
