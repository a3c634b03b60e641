"""The oracle itself, held against hand-computed cases and against second, independent formulas."""

import math

import numpy as np
import pytest

from regard.attention import reference

LOG3 = math.log(3)


@pytest.mark.parametrize(
    ("normalizer", "scores", "weights"),
    [
        ("softmax", [0.0, LOG3], [0.25, 0.75]),
        ("sparsemax", [0.0, 0.5], [0.25, 0.75]),
        ("sparsemax", [0.0, 1.0], [0.0, 1.0]),
        ("sparsemax", [0.1, 0.1, 0.1], [1 / 3, 1 / 3, 1 / 3]),
        # (s/2 - t)^2 over both = 1 at t = -0.25: (0.75)^2 + (0.661..)^2, checked below by its defining equation
        ("entmax15", [0.0, 2.0], [0.0, 1.0]),
        ("entmax15", [1.0, 1.0], [0.5, 0.5]),
        ("sigmoid", [0.0, LOG3], [0.5, 0.75]),
        ("hardmax", [1.0, 3.0, 3.0], [0.0, 1.0, 0.0]),
        ("top", [5.0, 0.0, LOG3, -9.0], None),
    ],
)
def test_weights_by_hand(normalizer: str, scores: list[float], weights: list[float] | None) -> None:
    parameters = {"k": 2} if normalizer == "top" else {}
    found = reference.NORMALIZERS[normalizer](np.array(scores), **parameters)
    if weights is None:
        weights = [math.exp(5) / (math.exp(5) + 3), 0.0, 3 / (math.exp(5) + 3), 0.0]
    np.testing.assert_allclose(found, weights, atol=1e-12)


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ("dot", [3.0, 8.0]),
        ("scaled_dot", [3 / math.sqrt(2), 8 / math.sqrt(2)]),
        ("cosine", [3 / (5 * 1), 8 / (5 * 2)]),
        ("general", [3.0, 8.0]),
        ("additive", [math.tanh(4) + math.tanh(4), math.tanh(3) + math.tanh(6)]),
        ("distance", [-(4 + 16) / (2 * math.sqrt(2)), -(9 + 4) / (2 * math.sqrt(2))]),
    ],
)
def test_scores_by_hand(score: str, expected: list[float]) -> None:
    query, keys = np.array([3.0, 4.0]), np.array([[1.0, 0.0], [0.0, 2.0]])
    np.testing.assert_allclose(reference.SCORES[score](query, keys), expected, atol=1e-12)


def test_parameters_by_hand() -> None:
    query, keys = np.array([1.0, 2.0]), np.array([[1.0, 1.0]])
    weight = np.array([[0.0, 1.0], [5.0, 0.0]])
    assert reference.general(query, keys, weight) == pytest.approx([1 * 1 + 10 * 1])
    assert reference.additive(query, keys, np.array([2.0, 0.0]), np.array([1.0, 7.0])) == pytest.approx(
        [2 * math.tanh(3)]
    )
    assert reference.cosine(np.zeros(2), keys) == pytest.approx([0.0])


@pytest.mark.parametrize("normalizer", ["sparsemax", "entmax15"])
def test_entmax_solves_its_optimisation_problem(normalizer: str) -> None:
    """No distribution does better on p.s + H(p): the problem whose solution entmax is (Peters et al. 2019, eq. 8)."""
    generator = np.random.default_rng(0)
    alpha = {"sparsemax": 2.0, "entmax15": 1.5}[normalizer]

    def objective(p: np.ndarray, s: np.ndarray) -> np.ndarray:
        return p @ s + (p - p**alpha).sum(-1) / (alpha * (alpha - 1))

    for _ in range(20):
        scores = generator.normal(size=5) * 2
        weights = reference.NORMALIZERS[normalizer](scores)
        assert weights.sum() == pytest.approx(1)
        others = generator.dirichlet(np.full(5, 0.3), size=2000)
        near = 0.999 * weights + 0.001 * others
        assert (objective(others, scores) <= objective(weights, scores) + 1e-9).all()
        assert (objective(near, scores) <= objective(weights, scores) + 1e-9).all()


def test_softmax_attention_by_a_second_formula() -> None:
    generator = np.random.default_rng(1)
    query, key, value = (
        generator.normal(size=(2, 3, 4)),
        generator.normal(size=(2, 5, 4)),
        generator.normal(size=(2, 5, 6)),
    )
    output, weights = reference.attend(query, key, value)
    powers = np.exp(np.einsum("hqd,hkd->hqk", query, key) / 2)
    expected = powers / powers.sum(-1, keepdims=True)
    np.testing.assert_allclose(weights, expected, rtol=1e-12)
    np.testing.assert_allclose(output, np.einsum("hqk,hkd->hqd", expected, value), rtol=1e-12)


def test_hidden_means_deleted() -> None:
    generator = np.random.default_rng(2)
    query, key, value = (
        generator.normal(size=(3, 4)),
        generator.normal(size=(5, 4)),
        generator.normal(size=(5, 4)),
    )
    mask = np.array([True, False, True, True, False])
    for normalizer in reference.NORMALIZERS:
        output, weights = reference.attend(query, key, value, normalizer=normalizer, mask=mask)
        fewer, _ = reference.attend(query, key[mask], value[mask], normalizer=normalizer)
        np.testing.assert_allclose(output, fewer, rtol=1e-12)
        assert (weights[:, ~mask] == 0).all()
    output, weights = reference.attend(query, key, value, mask=np.zeros(5, dtype=bool))
    assert not output.any()
    assert not weights.any()


def test_grouped_heads_share_their_keys() -> None:
    generator = np.random.default_rng(3)
    query, key, value = (generator.normal(size=(heads, 3, 4)) for heads in (4, 2, 2))
    output, _ = reference.attend(query, key, value)
    for head in range(4):
        one, _ = reference.attend(query[head], key[head // 2], value[head // 2])
        np.testing.assert_allclose(output[head], one, rtol=1e-12)
