"""Score functions and their modifiers: the formulas, their derivatives, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import regard
from regard.attention import reference
from regard.attention.backends import BACKENDS, blockwise
from regard.attention.call import AttentionCall
from regard.attention.mechanism import score_named
from regard.attention.parts import named_tensors, tensors_of, with_tensors
from regard.attention.scores import (
    SCORES,
    Additive,
    Concat,
    Dot,
    Function,
    LeakyReLU,
    Linear,
    Location,
    LocationSensitive,
    QKNorm,
    ScaledDot,
    Score,
    SoftCap,
)

BATCH, HEADS, KEY_HEADS, QUERY_LEN, KEY_LEN, SIZE = 2, 4, 2, 3, 5, 3


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@dataclass
class Case:
    """A score with tensors of its own, the name of its formula, and how many numbers a query and a key have."""

    score: Score
    formula: str
    sizes: tuple[int, int] = (SIZE, SIZE)

    @property
    def query(self) -> Tensor:
        return normal(BATCH, HEADS, QUERY_LEN, self.sizes[0], seed=100)

    @property
    def key(self) -> Tensor:
        return normal(BATCH, KEY_HEADS, KEY_LEN, self.sizes[1], seed=101)

    def parameters(self, batch: int, head: int) -> dict[str, Any]:
        """The arguments of the formula for one head: a tensor with an axis of heads has one entry for each."""
        found: dict[str, Any] = {}
        for name, value in vars(self.score).items():
            if name == "alignment":
                found[name] = value[batch, head].numpy()
            elif isinstance(value, Tensor):
                shared = name == "filters" or value.ndim == 0 or value.shape[0] != HEADS
                found[name] = (value if shared else value[head]).numpy()
            elif name == "activation":
                found[name] = value
        return found


def cases() -> dict[str, Case]:
    t = normal
    return {
        "linear": Case(Linear(t(HEADS, 9), t(HEADS, seed=1)), "linear"),
        "linear, shared": Case(Linear(t(9), t(seed=1)), "linear"),
        "linear, no product": Case(Linear(t(HEADS, 6)), "linear"),
        "linear, two sizes": Case(Linear(t(HEADS, 5)), "linear", (3, 2)),
        "linear, two sizes, shared": Case(Linear(t(5)), "linear", (3, 2)),
        "location": Case(Location(weight=t(HEADS, 7, SIZE)), "location"),
        "location, shared": Case(Location(weight=t(7, SIZE)), "location", (3, 2)),
        "additive, leaky": Case(Additive(t(HEADS, SIZE), t(SIZE, seed=1), "leaky_relu"), "additive"),
        "additive, relu": Case(Additive(t(SIZE), t(HEADS, SIZE, seed=1), activation="relu"), "additive"),
        "concat": Case(Concat(t(HEADS, 2, 6), t(HEADS, 2, seed=1), t(HEADS, 2, seed=2)), "concat"),
        "concat, shared": Case(Concat(t(2, 6), t(2, seed=1), activation="leaky_relu"), "concat"),
        "concat, two sizes": Case(Concat(t(HEADS, 2, 5)), "concat", (3, 2)),
        "location-sensitive": Case(
            LocationSensitive(
                t(BATCH, HEADS, KEY_LEN, seed=1), t(2, 1, 3), t(HEADS, SIZE, 2), t(HEADS, SIZE), t(SIZE, seed=2)
            ),
            "location_sensitive",
        ),
        "location-sensitive, two channels": Case(
            LocationSensitive(t(BATCH, HEADS, 2, KEY_LEN, seed=1), t(2, 2, 5), t(SIZE, 2)), "location_sensitive"
        ),
    }  # fmt: skip


CASES = cases()


def compared(score: Score, query: Tensor, key: Tensor) -> Tensor:
    """All the scores. *Shape:* `(..., query_heads, query_len, key_len)`."""
    score.check(query, key)
    query, key = score.prepare(query, key)
    if query.ndim > 2 and key.shape[-3] != query.shape[-3]:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
    return score.compare(query, key)


def by_formula(formula: Callable[..., Any], case: Case, query: Tensor, key: Tensor) -> np.ndarray:
    found = np.empty((BATCH, HEADS, QUERY_LEN, KEY_LEN))
    for b, h, q in np.ndindex(BATCH, HEADS, QUERY_LEN):
        keys = key[b, h // (HEADS // KEY_HEADS)].numpy()
        found[b, h, q] = formula(query[b, h, q].numpy(), keys, **case.parameters(b, h))
    return found


@pytest.mark.parametrize("name", list(CASES))
def test_scores_are_those_of_the_formula(name: str) -> None:
    case = CASES[name]
    expected = by_formula(reference.SCORES[case.formula], case, case.query, case.key)
    np.testing.assert_allclose(compared(case.score, case.query, case.key).numpy(), expected, atol=1e-12)


def test_scores_by_hand() -> None:
    query, key = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    tensor = torch.tensor

    def check(score: Score, expected: list[float], **parameters: Any) -> None:
        torch.testing.assert_close(compared(score, query, key), tensor([expected]))
        arrays = {name: np.asarray(value, dtype=np.float64) for name, value in parameters.items()}
        found = reference.SCORES[score.name](query[0].double().numpy(), key.double().numpy(), **arrays)
        np.testing.assert_allclose(found, expected, rtol=1e-12)

    # w_q.q = 3 + 2 * 4, w_k.k = 5 and 2 * 6, w_m.(q * k) = 7 * 3 and 8 * 8, the bias 100
    weight = [1.0, 2.0, 5.0, 6.0, 7.0, 8.0]
    check(Linear(tensor(weight), tensor(100.0)), [137.0, 187.0], weight=weight, bias=100.0)
    check(Linear(tensor(weight[:4])), [16.0, 23.0], weight=weight[:4])
    places = [[1.0, 0.0], [0.0, -1.0], [9.0, 9.0]]
    check(Location(weight=tensor(places)), [3.0, -4.0], weight=places)
    # W [q; k] = q_1 + k_2 and q_2 - k_1
    hidden, vector = [[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, -1.0, 0.0]], [1.0, 2.0]
    t = math.tanh
    check(
        Concat(tensor(hidden), tensor(vector)),
        [t(3) + 2 * t(3), t(5) + 2 * t(4)],
        weight=hidden, vector=vector,
    )  # fmt: skip
    # The filter gives each place the sum of itself and twice the next one: 0.25 + 2 * 0.75 and 0.75
    alignment, filters, projection = [0.25, 0.75], [[[0.0, 1.0, 2.0]]], [[-2.0], [0.0]]
    check(
        LocationSensitive(tensor(alignment), tensor(filters), tensor(projection)),
        [t(3 + 1 - 3.5) + t(4), t(3 - 1.5) + t(6)],
        alignment=alignment, filters=filters, projection=projection,
    )  # fmt: skip


def test_a_product_is_the_product_of_what_is_prepared() -> None:
    for case in [*CASES.values(), Case(QKNorm(ScaledDot()), "")]:
        if case.score.product:
            query, key = case.score.prepare(case.query, case.key)
            key = key.repeat_interleave(HEADS // key.shape[1], dim=1)
            expected = case.score.factor(key.shape[-1]) * torch.einsum("bhqd,bhkd->bhqk", query, key)
            torch.testing.assert_close(case.score.compare(query, key), expected)


def test_an_additive_score_is_location_sensitive_without_an_alignment() -> None:
    query, key, weight = normal(2, 3), normal(5, 3, seed=1), normal(3, seed=2)
    expected = compared(Additive(weight), query, key)
    assert torch.equal(compared(LocationSensitive(weight=weight), query, key), expected)
    silent = LocationSensitive(torch.zeros(5), torch.ones(1, 1, 3), torch.ones(3, 1), weight)
    assert torch.equal(compared(silent, query, key), expected)


def test_there_may_be_no_keys_to_be_sensitive_to() -> None:
    score = LocationSensitive(torch.ones(2, 0), torch.ones(1, 1, 31), torch.ones(3, 1))
    assert compared(score, torch.ones(2, 4, 3), torch.ones(2, 0, 3)).shape == (2, 4, 0)


def test_additive_score_knows_the_place_next_to_where_it_looked() -> None:
    """Moving the alignment by a place moves the scores of equal keys by one, until it meets the end."""
    query, key, filters = normal(1, 3), torch.ones(9, 3, dtype=torch.float64), normal(4, 1, 3, seed=1)
    projection = normal(3, 4, seed=2)
    at = [
        compared(LocationSensitive(torch.eye(9)[place], filters, projection), query, key) for place in (3, 4)
    ]
    torch.testing.assert_close(at[0][:, :-1], at[1][:, 1:])
    assert (at[0] - at[0][:, :1]).abs().gt(1e-6).nonzero()[:, 1].tolist() == [2, 3, 4]


MODIFIED = {
    "softcap": (lambda score: SoftCap(score, 2), lambda score: reference.MODIFIERS["softcap"](score, 2)),
    "leaky": (LeakyReLU, reference.MODIFIERS["leaky"]),
    "qknorm": (
        lambda score: QKNorm(score, 0.5, 2.0 + normal(SIZE), 2.0 + normal(SIZE, seed=9)),
        lambda score: reference.MODIFIERS["qknorm"](
            score, 0.5, 2.0 + normal(SIZE).numpy(), 2.0 + normal(SIZE, seed=9).numpy()
        ),
    ),
}
"""Modifiers of scores and of formulas."""


@pytest.mark.parametrize("outer", list(MODIFIED))
@pytest.mark.parametrize("inner", list(MODIFIED))
@pytest.mark.parametrize("name", ["linear", "concat", "location-sensitive"])
def test_modifiers_compose_with_any_score_and_each_other(name: str, inner: str, outer: str) -> None:
    case = CASES[name]
    (within, formula_within), (around, formula_around) = MODIFIED[inner], MODIFIED[outer]
    formula = formula_around(formula_within(reference.SCORES[case.formula]))
    expected = by_formula(formula, case, case.query, case.key)
    score = around(within(case.score))
    np.testing.assert_allclose(compared(score, case.query, case.key).numpy(), expected, atol=1e-12)
    assert score.product == (case.score.product and inner == outer == "qknorm")


def test_a_norm_per_head_is_that_of_the_query_heads() -> None:
    query, key = normal(4, 2, 3), normal(2, 5, 3, seed=1)
    scales = normal(4, 3, seed=2), normal(4, 3, seed=3)
    found = compared(QKNorm(Dot(), 1e-6, *scales), query, key)
    for head in range(4):
        one = QKNorm(Dot(), 1e-6, scales[0][head], scales[1][head])
        torch.testing.assert_close(found[head], compared(one, query[head], key[head // 2]))


def test_a_norm_does_not_overflow_in_half_precision() -> None:
    query = torch.full((1, 4), 1000.0, dtype=torch.float16)
    prepared, _ = QKNorm(ScaledDot()).prepare(query, query)
    assert torch.equal(prepared, torch.ones_like(query))


def test_spellings_lead_back_to_the_score() -> None:
    for spelling in [
        "scaled_dot-0.25",
        "cosine-5",
        "distance-1",
        "location-200",
        "location",
        "linear+leaky",
        "concat+leaky-0.05",
        "scaled_dot+qknorm+softcap-30",
        "scaled_dot+softcap+qknorm-0.00001",
    ]:
        assert score_named(spelling).spelling == spelling
    assert score_named("dot+softcap-50").spelling == "dot+softcap"
    inner_first = score_named("dot+qknorm+softcap-30")
    assert isinstance(inner_first, SoftCap)
    assert isinstance(inner_first.score, QKNorm)


def leaves_of(case: Case) -> list[Tensor]:
    return [t.requires_grad_() for t in (case.query, case.key, *(t.clone() for t in tensors_of(case.score)))]


@pytest.mark.parametrize("name", [*CASES, "every modifier"])
def test_derivatives_of_scores(name: str) -> None:
    """First, second, forward-mode and batched, by every tensor, with heads that share their keys."""
    case = CASES.get(name) or Case(
        SoftCap(
            LeakyReLU(QKNorm(CASES["linear"].score, 0.1, normal(HEADS, SIZE), normal(SIZE, seed=5))), 3.0
        ),
        "",
    )

    def run(query: Tensor, key: Tensor, *tensors: Tensor) -> Tensor:
        return compared(with_tensors(case.score, tensors), query, key)

    leaves = leaves_of(case)
    assert torch.autograd.gradcheck(
        run, leaves, check_forward_ad=True, check_batched_grad=True, fast_mode=True
    )
    assert torch.autograd.gradgradcheck(run, leaves, fast_mode=True)


@pytest.mark.parametrize("name", list(CASES))
def test_every_backend_attends_by_the_formula(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Output and gradients of a call in many blocks are those of the formula written out."""
    monkeypatch.setattr(blockwise, "BLOCK_BYTES", 100)
    case = CASES[name]
    leaves = [*leaves_of(case), normal(BATCH, KEY_HEADS, KEY_LEN, case.sizes[0], seed=50).requires_grad_()]

    def outcome(attend: Callable[[Tensor, Tensor, Tensor, Score], Tensor]) -> list[Tensor]:
        query, key, *tensors, value = leaves
        output = attend(query, key, value, with_tensors(case.score, tensors))
        found = torch.autograd.grad(output.sin().sum(), leaves, allow_unused=True, materialize_grads=True)
        return [output, *found]

    def plain(query: Tensor, key: Tensor, value: Tensor, score: Score) -> Tensor:
        weights = torch.softmax(compared(score, query, key), -1)
        return weights @ value.repeat_interleave(HEADS // KEY_HEADS, dim=1)

    expected = outcome(plain)
    for backend, one in BACKENDS.items():
        query, key, *_, value = leaves
        if not one.unsupported(AttentionCall.of(query, key, value, case.score)):
            found = outcome(
                lambda query, key, value, score, backend=backend: regard.attend(
                    query, key, value, score=score, backend=backend
                )
            )
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["modified", "module"])
def test_compiled_scores_are_the_same(name: str) -> None:
    torch._dynamo.reset()
    score: Score = {
        "modified": SoftCap(LeakyReLU(QKNorm(Linear(normal(HEADS, 9)), 0.1, normal(SIZE))), 3.0),
        "module": Function(Distance().double()),
    }[name]

    def run(query: Tensor, key: Tensor) -> Tensor:
        return regard.attend(query, key, key, score=score, normalizer="sparsemax")

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    query, key = CASES["linear"].query, CASES["linear"].key
    torch.testing.assert_close(compiled(query, key), run(query, key))


@pytest.mark.parametrize("name", ["linear", "linear, no product", "location", "concat, shared"])
def test_scores_map_over_a_batch(name: str) -> None:
    case = CASES[name]
    found = torch.func.vmap(lambda query, key: compared(case.score, query, key))(case.query, case.key)
    torch.testing.assert_close(found, compared(case.score, case.query, case.key))


@pytest.mark.parametrize("name", [*SCORES, "location_sensitive", "linear+leaky+softcap", "concat+qknorm"])
def test_what_a_layer_learns_fits_and_starts_near_unit_size(name: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = LocationSensitive() if name == "location_sensitive" else score_named(name)
        score = first.learn(4, 64)
        query, key = torch.randn(4, 9, 64), torch.randn(4, 9, 64)
    assert type(score) is type(first)
    for label, tensor in named_tensors(score).items():
        assert tensor.isfinite().all(), label
    scores = compared(score, query, key)
    if name not in ("dot", "cosine"):
        assert 0.3 < float(scores.std()) < 2.0


class Distance(nn.Module):
    """Minus the distance of two projections."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(SIZE, 2)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        return -(self.project(query) - self.project(key)).square().sum(-1) * self.scale


def test_a_function_of_your_own_gets_its_gradients_through_recomputed_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight = normal(HEADS, 1, 1, SIZE, seed=3).requires_grad_()
    query, key = CASES["linear"].query, CASES["linear"].key
    value = normal(BATCH, KEY_HEADS, KEY_LEN, 2)

    def f(query: Tensor, key: Tensor, weight: Tensor) -> Tensor:
        return -((query - key).abs() * weight).sum(-1)

    def gradient(size: int) -> Tensor:
        monkeypatch.setattr(blockwise, "BLOCK_BYTES", size)
        output = regard.attend(query, key, value, score=Function(f, (weight,)))
        return torch.autograd.grad(output.sin().sum(), weight)[0]

    assert gradient(100).abs().min() > 0
    torch.testing.assert_close(gradient(100), gradient(10**9))
    by_hand = -(query[1, 3, 2] - key[1, 1, 4]).abs() @ weight[3, 0, 0]
    torch.testing.assert_close(compared(Function(f, (weight,)), query, key)[1, 3, 2, 4], by_hand)


def test_a_module_as_score_brings_its_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockwise, "BLOCK_BYTES", 100)
    module = Distance().double()
    query, key = CASES["linear"].query, CASES["linear"].key
    value = normal(BATCH, KEY_HEADS, KEY_LEN, 2)
    regard.attend(query, key, value, score=Function(module)).sin().sum().backward()
    repeated = key.repeat_interleave(2, dim=1)
    plain = module(query[..., None, :], repeated[..., None, :, :]).softmax(-1) @ value.repeat_interleave(
        2, dim=1
    )
    expected = torch.autograd.grad(plain.sin().sum(), list(module.parameters()))
    torch.testing.assert_close([p.grad for p in module.parameters()], list(expected))


def test_a_module_computes_in_the_dtype_of_the_call() -> None:
    module = Distance().bfloat16()
    query, key = normal(2, SIZE).float(), normal(4, SIZE, seed=1).float()
    found = compared(Function(module), query, key)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, compared(Function(module.float()), query, key))
    half = regard.attend(query.half(), key.half(), key.half(), score=Function(module))
    assert half.dtype == torch.float16


def test_a_captured_tensor_that_wants_a_gradient_is_refused() -> None:
    weight = normal(SIZE).requires_grad_()
    module = Distance().double()
    query, key = CASES["linear"].query, CASES["linear"].key
    captures = [
        Function(lambda q, k: (q * k * weight).sum(-1)),
        Function(lambda q, k: module(q, k)),
        SoftCap(Function(lambda q, k, other: (q * k * weight * other).sum(-1), (weight,))),
    ]
    for score in captures:
        with pytest.raises(ValueError, match="as a parameter, it has captured one"):
            regard.attend(query, key, key, score=score)
        with torch.no_grad():
            regard.attend(query, key, key, score=score)
    frozen = Function(lambda q, k: (q * k * weight.detach()).sum(-1))
    regard.attend(query.requires_grad_(), key, key, score=frozen).sum().backward()


def test_scores_of_one_key_or_head_are_those_of_all() -> None:
    query, key = CASES["linear"].query, CASES["linear"].key
    score = Function(lambda q, k: k[..., :1, :, :, :].sum(-1))
    found = compared(score, query, key)
    assert found.shape == (BATCH, HEADS, QUERY_LEN, KEY_LEN)
    torch.testing.assert_close(found[1, 3, 2], key[1, 0].sum(-1))


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (Linear(), "'linear' needs its weight"),
        (Concat(), "'concat' needs its weight"),
        (Location(), "'location' needs its weight"),
        (Linear(torch.ones(7)), r"weight of the score 'linear' must be \(9,\) or \(4, 9\), it is \(7,\)"),
        (Linear(torch.ones(9), torch.ones(2)), r"bias of the score 'linear' must be \(\) or \(4,\), it is \(2,\)"),
        (Location(weight=torch.ones(4, SIZE)), "at most the 4 places .* it has 5 .*location-5"),
        (Location(weight=torch.ones(9, 2)), r"weight of the score 'location' must be \(9, 3\)"),
        (Concat(torch.ones(2, 5)), r"weight of the score 'concat' must be \(2, 6\)"),
        (Concat(torch.ones(6)), r"weight of the score 'concat' must be .*, it is \(6,\)"),
        (Concat(torch.ones(2, 6), torch.ones(3)), r"vector of the score 'concat' must be \(2,\)"),
        (LocationSensitive(torch.ones(2, 4, 5)), "'location_sensitive' needs its filters"),
        (LocationSensitive(torch.ones(2, 4, 5), torch.ones(1, 1, 3)), "needs its projection"),
        (LocationSensitive(torch.ones(2, 4, 5), torch.ones(1, 1, 2), torch.ones(3, 1)), "odd kernel"),
        (
            LocationSensitive(torch.ones(2, 4, 6), torch.ones(1, 1, 3), torch.ones(3, 1)),
            r"alignment of the score 'location_sensitive' must be \(2, 4, 5\) or \(2, 4, 1, 5\), it is \(2, 4, 6\)",
        ),
        (LocationSensitive(torch.ones(2, 4, 5), torch.ones(1, 1, 3), torch.ones(2, 1)), "projection .* must be"),
        (QKNorm(Dot(), query_scale=torch.ones(2)), r"query_scale of the score 'qknorm' must be \(3,\)"),
        (QKNorm(Dot(), key_scale=torch.ones(2, 3)), r"key_scale of the score 'qknorm' must be \(3,\) or \(4, 3\)"),
        (SoftCap(Linear()), "'linear' needs its weight"),
        (Function(lambda q, k: (q * k).sum()), r"must give .* = \(2, 4, 1, 1\).* it gave \(\)"),
        (Function(lambda q, k: q * k), r"it gave \(2, 4, 1, 1, 3\)"),
    ],
)  # fmt: skip
def test_unfit_tensors_are_named(score: Score, message: str) -> None:
    query, key = CASES["linear"].query, CASES["linear"].key
    with pytest.raises(ValueError, match=message):
        regard.attend(query, key, key, score=score)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Location(0), ValueError, "max_len .* at least 1, it is 0"),
        (lambda: SoftCap(Dot(), 0), ValueError, "the cap of softcap must be a number above 0, it is 0"),
        (lambda: LeakyReLU(Dot(), -1.0), ValueError, "the slope of leaky must be"),
        (lambda: QKNorm(Dot(), 0.0), ValueError, "epsilon of qknorm must be"),
        (lambda: Additive(activation="gelu"), ValueError, "one of tanh, leaky_relu, relu, it is 'gelu'"),
        (lambda: Function(3), TypeError, "must be a function or a module, it is int"),
        (lambda: Function(torch.dot, [torch.ones(2)]), TypeError, "a tuple of tensors"),
        (lambda: Function(torch.dot, pair_size=0), ValueError, "pair_size must be"),
        (
            lambda: Linear([1.0]).check(torch.ones(1, 2), torch.ones(1, 2)),
            TypeError,
            "must be a tensor, it is list",
        ),
        (
            lambda: compared(Function(lambda q, k: 1.0), torch.ones(1, 2), torch.ones(1, 2)),
            TypeError,
            "must give a tensor, it gave float",
        ),
    ],
)
def test_unfit_values_are_named(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_work_and_room_are_told_as_they_are() -> None:
    assert Linear(torch.ones(12)).operations(4) == 10
    assert Linear(torch.ones(8)).operations(4) == 4
    assert Concat(torch.ones(16, 8)).width(4) == 16
    assert SoftCap(Additive()).width(4) == 4
    assert SoftCap(Dot()).operations(4) == 11
    assert Function(torch.dot, pair_size=9).width(4) == 9
