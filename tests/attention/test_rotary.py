"""Rotary positions: turned vectors are complex products, and their scores know distances only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import regard
from regard.attention.rotary import NTK, Linear, Llama3, Scaling, YaRN, frequencies, rotate
from regard.attention.scores import Cosine, Distance, Dot, QKNorm, ScaledDot, Score
from regard.attention.scores.rotary import Rotary, Rotary2D


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def compared(score: Score, query: Tensor, key: Tensor) -> Tensor:
    return score.compare(*score.prepare(query, key))


def test_neighbours_are_turned_as_complex_numbers() -> None:
    x, places = normal(3, 5, 8), torch.tensor([0, 7, 1, 3, 100])
    turns = frequencies(8)
    factors = torch.polar(torch.ones(5, 4, dtype=torch.float64), places[:, None] * turns.double())
    expected = torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (4, 2))) * factors).flatten(-2)
    torch.testing.assert_close(rotate(x, places, turns, interleaved=True), expected)


def test_halves_are_neighbours_after_a_permutation() -> None:
    x, places, turns = normal(5, 8), torch.arange(5), frequencies(8)
    halves = rotate(x.unflatten(-1, (4, 2)).transpose(-1, -2).flatten(-2), places, turns)
    neighbours = rotate(x, places, turns, interleaved=True)
    torch.testing.assert_close(halves.unflatten(-1, (2, 4)).transpose(-1, -2).flatten(-2), neighbours)


@pytest.mark.parametrize("interleaved", [False, True])
def test_the_numbers_past_the_frequencies_stay(interleaved: bool) -> None:
    x, places, turns = normal(5, 8), torch.arange(5), frequencies(4)
    found = rotate(x, places, turns, interleaved, amplitude=2.0)
    assert torch.equal(found[:, 4:], x[:, 4:])
    torch.testing.assert_close(found[:, :4], 2 * rotate(x[:, :4], places, turns, interleaved))


SCALINGS: dict[str, tuple[Scaling | None, dict[str, Any]]] = {
    "none": (None, {"rope_type": "default"}),
    "linear": (Linear(4.0), {"rope_type": "linear", "factor": 4.0}),
    "yarn": (
        YaRN(4.0, original=512),
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
    ),
    "yarn with its own numbers": (
        YaRN(16.0, original=64, fast=8.0, slow=2.0, attention=1.5),
        {
            "rope_type": "yarn",
            "factor": 16.0,
            "original_max_position_embeddings": 64,
            "beta_fast": 8.0,
            "beta_slow": 2.0,
            "attention_factor": 1.5,
        },
    ),
    "llama3": (
        Llama3(8.0, low=1.0, high=4.0, original=256),
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 256,
        },
    ),
}


def llama(settings: dict[str, Any], base: float, head_size: int = 16) -> Any:
    """Transformers' configuration of a Llama with these rotary positions."""
    pytest.importorskip("transformers")
    from transformers import LlamaConfig

    return LlamaConfig(
        hidden_size=2 * head_size,
        num_attention_heads=2,
        num_hidden_layers=1,
        max_position_embeddings=1024,
        rope_parameters={"rope_theta": base, **settings},
    )


@pytest.mark.parametrize("base", [10000.0, 500000.0])
@pytest.mark.parametrize("name", list(SCALINGS))
def test_turned_queries_and_keys_are_those_of_transformers(name: str, base: float) -> None:
    scaling, settings = SCALINGS[name]
    config = llama(settings, base)
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    query, key = normal(2, 4, 9, 16).float(), normal(2, 4, 9, 16, seed=1).float()
    embedding = LlamaRotaryEmbedding(config)
    torch.testing.assert_close(frequencies(16, base, scaling), embedding.inv_freq, rtol=1e-6, atol=0)
    theirs = apply_rotary_pos_emb(query, key, *embedding(query, torch.arange(9)[None]))
    ours = Rotary(Dot(), base, scaling=scaling).prepare(query, key)
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("length", [1024, 4096])
def test_a_larger_base_is_that_of_transformers_at_one_length(length: int) -> None:
    config = llama({"rope_type": "dynamic", "factor": 2.0}, 10000.0)
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    theirs, _ = ROPE_INIT_FUNCTIONS["dynamic"](config, torch.device("cpu"), seq_len=length)
    torch.testing.assert_close(frequencies(16, scaling=NTK(2.0 * length / 1024 - 1.0)), theirs)


def test_a_larger_base_divides_the_lowest_frequency_by_the_factor() -> None:
    plain, scaled = frequencies(16), frequencies(16, scaling=NTK(4.0))
    torch.testing.assert_close(scaled[0], plain[0])
    torch.testing.assert_close(scaled[-1], plain[-1] / 4)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("inner", [ScaledDot(), Cosine(), Distance(), QKNorm(ScaledDot())], ids=str)
def test_scores_depend_on_distances_alone(inner: Score, interleaved: bool) -> None:
    query, key = normal(8).expand(7, 8), normal(8, seed=1).expand(7, 8)
    scores = compared(Rotary(inner, interleaved=interleaved), query, key)
    for distance in range(-6, 7):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    assert (scores[0] - scores[0, 0]).abs()[1:].min() > 1e-4
    torch.testing.assert_close(scores.diagonal(), compared(inner, query, key).diagonal())


def test_a_query_and_key_at_one_place_are_scored_as_if_unturned() -> None:
    query, key = normal(1, 4), normal(1, 4, seed=1)
    torch.testing.assert_close(compared(Rotary(Dot()), query, key), query @ key.T)


@pytest.mark.parametrize("score", ["scaled_dot", "cosine"])
def test_step_by_step_with_a_cache_is_the_whole_at_once(score: str) -> None:
    inner = regard.scores.SCORES[score]()
    rotary = Rotary(inner, scaling=YaRN(4.0, original=16), size=4)
    query, key, value = normal(2, 4, 6, 8), normal(2, 2, 6, 8, seed=1), normal(2, 2, 6, 8, seed=2)
    whole = regard.attend(query, key, value, score=rotary, mask=regard.masks.causal())
    steps = [
        regard.attend(query[..., i : i + 1, :], key[..., : i + 1, :], value[..., : i + 1, :], score=rotary)
        for i in range(6)
    ]
    torch.testing.assert_close(torch.cat(steps, dim=-2), whole)


def test_a_start_is_the_place_of_the_first_query() -> None:
    query, key = normal(2, 8), normal(5, 8, seed=1)
    part = compared(Rotary(Dot(), start=1), query, key)
    padded = torch.cat([normal(1, 8), query, normal(2, 8)])
    torch.testing.assert_close(part, compared(Rotary(Dot()), padded, key)[1:3])


def test_rows_and_columns_of_an_image_are_turned_apart() -> None:
    rows, columns = 2, 3
    query, key = normal(6, 8), normal(6, 8, seed=1)
    scores = compared(Rotary2D(Dot(), rows, columns, base=100.0), query, key)
    for i in range(6):
        for j in range(6):
            down, right = i // columns - j // columns, i % columns - j % columns
            expected = sum(
                rotate(query[i : i + 1, part], torch.tensor([away]), frequencies(4, 100.0, dtype=query.dtype))
                @ key[j, part]
                for part, away in ((slice(0, 4), down), (slice(4, 8), right))
            )
            torch.testing.assert_close(scores[i, j : j + 1], expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_turned_by_exact_angles(dtype: torch.dtype) -> None:
    x = normal(200, 8).to(dtype)
    turned = rotate(x, torch.arange(200), frequencies(8))
    exact = rotate(x.double(), torch.arange(200), frequencies(8))
    assert turned.dtype == dtype
    # Rounded once, but for angles in float32.
    assert (turned.double() - exact).abs().max() <= (exact.to(dtype).double() - exact).abs().max() + 1e-4


def test_turning_has_derivatives() -> None:
    rotary = Rotary(QKNorm(Dot()).learn(2, 4), size=2)
    query, key, value = (normal(2, 3, 4, seed=i).requires_grad_() for i in range(3))

    def attend(*tensors: Tensor) -> Any:
        return regard.attend(*tensors, score=rotary)

    assert torch.autograd.gradcheck(attend, (query, key, value))
    assert torch.autograd.gradgradcheck(attend, (query, key, value))


@pytest.mark.parametrize(
    "score",
    [
        Rotary(ScaledDot(), scaling=YaRN(4.0, original=64)),
        Rotary(ScaledDot(), scaling=NTK(4.0), size=4, interleaved=True),
        Rotary2D(ScaledDot(), 3, 3),
    ],
    ids=["yarn", "ntk, partial", "image"],
)
def test_a_compiler_sees_the_same(score: Score) -> None:
    query, key, value = (normal(2, 9, 8, seed=i) for i in range(3))

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Any:
        return regard.attend(query, key, value, score=score, normalizer="sparsemax")

    compiled = torch.compile(attend, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(query, key, value), attend(query, key, value))


def test_rotary_positions_are_spelt_after_the_score() -> None:
    assert Rotary(ScaledDot()).spelling == "scaled_dot+rotary"
    assert Rotary(Cosine(), 500000.0).spelling == "cosine+rotary-500000"
    assert Rotary2D(ScaledDot(), 14, 14).spelling == "scaled_dot+rotary_2d-14-14"
    assert Rotary2D(ScaledDot(), 14, 14, 100.0).spelling == "scaled_dot+rotary_2d-14-14-100"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: frequencies(3), "size of rotary positions must be even, it is 3"),
        (lambda: frequencies(4, base=1.0), "base of rotary positions must be a number above 1"),
        (lambda: rotate(torch.ones(1, 2), torch.zeros(1), torch.ones(2)), "at most half the size 2 of x"),
        (lambda: Linear(0.0), "factor of a rotary scaling must be a number above 0"),
        (lambda: YaRN(2.0, original=64, fast=1.0), "fast of a rotary scaling must be a number above 1"),
        (lambda: Llama3(low=4.0), "high of a rotary scaling must be a number above 4"),
        (lambda: Rotary(Dot(), size=1), "size of rotary positions must be a whole number of at least 2"),
        (lambda: Rotary(Dot(), start=-1), "start of rotary positions must be a whole number of at least 0"),
        (lambda: Rotary2D(Dot(), 0, 2), "rows of rotary positions must be a whole number of at least 1"),
    ],
)
def test_numbers_that_cannot_be_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("score", "shapes", "message"),
    [
        (Rotary(Dot()), [(3, 5), (3, 5)], "must be even and at most that of query and key, 5, it is 5"),
        (Rotary(Dot(), size=6), [(3, 4), (3, 4)], "at most that of query and key, 4, it is 6"),
        (Rotary(Dot()), [(3, 4), (3, 6)], "query has 4, key has 6"),
        (Rotary2D(Dot(), 2, 2), [(4, 4), (3, 4)], "key must have a place for each of the 2 x 2 = 4 pixels"),
        (
            Rotary2D(Dot(), 2, 2),
            [(4, 6), (4, 6)],
            "multiple of 4 for rotary positions by row and column, it has 6",
        ),
    ],
)
def test_queries_that_do_not_fit_are_refused(
    score: Score, shapes: list[tuple[int, int]], message: str
) -> None:
    query, key = (torch.ones(shape) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        regard.attend(query, key, key, score=score)
