"""Biases: the numbers of the literature, whole or in blocks, and the gradients of what they learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import regard
from regard.attention.backends import blockwise
from regard.attention.biases import (
    BIASES,
    T5,
    ALiBi,
    Bias,
    Relative,
    Relative2D,
    alibi,
    as_bias,
    function,
    relative,
    relative_2d,
    t5,
)
from regard.attention.grid import Grid
from regard.attention.parts import named_tensors, tensors_of, with_tensors


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def filled(bias: Bias, seed: int = 0) -> Bias:
    """The bias with numbers in its tables."""
    found = [normal(*tensor.shape, seed=seed + i) for i, tensor in enumerate(tensors_of(bias))]
    return with_tensors(bias, found)


LEARNED: dict[str, Callable[[], Bias]] = {
    "relative": lambda: filled(relative(2, distance=2)),
    "t5": lambda: filled(t5(2, buckets=8, distance=5)),
    "t5 for causal attention": lambda: filled(t5(2, buckets=4, distance=5, bidirectional=False)),
    "relative_2d": lambda: filled(relative_2d(2, height=3, width=2)),
    "function": lambda: function(lambda q, k, slope: slope[:, None, None] * (k - q) ** 2, normal(2)),
    "sum": lambda: filled(relative(2, distance=1) + t5(2, buckets=8, distance=5)),
}


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_every_way_of_asking_gives_the_same_numbers(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["alibi", *LEARNED]))
    bias = ALiBi(normal(2)) if name == "alibi" else LEARNED[name]()
    query_len, key_len = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    if name == "relative_2d":
        query_len = key_len = 6
    grid = Grid(query_len, key_len, 3, torch.device("cpu"))
    whole = bias.at(torch.arange(query_len)[:, None], torch.arange(key_len), grid)
    assert bias.shape(grid) == whole.shape == (2, query_len, key_len)
    assert torch.equal(bias.picture(query_len, key_len), whole)

    start, stop = sorted((data.draw(st.integers(0, query_len)), data.draw(st.integers(0, query_len))))
    low, high = sorted((data.draw(st.integers(0, key_len)), data.draw(st.integers(0, key_len))))
    rows, columns = slice(start, stop), slice(low, high)
    assert torch.equal(bias.cut(rows, columns).block(rows, columns, grid), whole[:, rows, columns])
    chosen = torch.tensor(data.draw(st.lists(st.integers(0, query_len - 1), max_size=5)), dtype=torch.int64)
    assert torch.equal(bias.cut(chosen, columns).block(chosen, columns, grid), whole[:, chosen][..., columns])


def test_alibi_has_the_slopes_of_its_paper() -> None:
    slopes = {
        1: [2.0**-8],
        4: [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8],
        8: [2.0**-i for i in range(1, 9)],
        6: [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3],
        12: [*(2.0**-i for i in range(1, 9)), *(2.0 ** -(i + 0.5) for i in range(4))],
    }
    for heads, expected in slopes.items():
        (found,) = tensors_of(alibi(heads))
        torch.testing.assert_close(found, torch.tensor(expected))


def test_alibi_is_that_of_transformers_where_nobody_sees_the_future() -> None:
    bloom = pytest.importorskip("transformers.models.bloom.modeling_bloom")
    query, key, value = (normal(1, 6, 7, 4, seed=i) for i in range(3))
    theirs = bloom.build_alibi_tensor(torch.ones(1, 7), 6, torch.float64)[None]
    mask = regard.masks.causal()
    found = regard.attend(query, key, value, mask=mask, bias=alibi(6))
    torch.testing.assert_close(
        found, regard.attend(query, key, value, mask=mask, bias=theirs), atol=1e-7, rtol=0
    )


def test_alibi_sees_the_same_distances_with_a_cache() -> None:
    assert torch.equal(alibi(2).picture(2, 5), alibi(2).picture(5, 5)[:, -2:])


@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (8, 20), (64, 1000)])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets_are_those_of_transformers(buckets: int, distance: int, bidirectional: bool) -> None:
    modeling = pytest.importorskip("transformers.models.t5.modeling_t5")
    distances = torch.arange(-3 * distance, 3 * distance)
    theirs = modeling.T5Attention._relative_position_bucket(
        distances, bidirectional=bidirectional, num_buckets=buckets, max_distance=distance
    )
    assert torch.equal(T5(buckets, distance, bidirectional=bidirectional).bucket(distances), theirs)


def test_relative_positions_share_the_number_of_the_furthest() -> None:
    table = torch.arange(5.0)
    assert Relative(2, table=table).picture(2, 5).tolist() == [[0, 0, 1, 2, 3], [0, 0, 0, 1, 2]]


def test_relative_positions_of_images_are_offsets_of_rows_and_columns() -> None:
    height, width = 2, 3
    table = normal(3 * 5).view(3, 5)
    picture = Relative2D(height, width, table=table.flatten()).picture(6, 6)
    for query in range(6):
        for key in range(6):
            (row, column), (key_row, key_column) = divmod(query, width), divmod(key, width)
            assert picture[query, key] == table[row - key_row + 1, column - key_column + 2]


@pytest.fixture(params=[300, 10**9], ids=["many blocks", "one block"])
def block_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockwise, "BLOCK_BYTES", request.param)


@pytest.mark.usefixtures("block_bytes")
@pytest.mark.parametrize("name", list(LEARNED))
def test_what_is_learned_gets_the_gradient_of_the_bias_written_out(name: str) -> None:
    bias = LEARNED[name]()
    query, key, value = (normal(2, 2, 6, 3, seed=i) for i in range(3))
    learned = [tensor.requires_grad_() for tensor in tensors_of(bias)]
    mask = None if name == "relative_2d" else regard.masks.causal()

    def gradients(given: Any) -> tuple[Tensor, ...]:
        output = regard.attend(query, key, value, bias=given, mask=mask, normalizer="sparsemax")
        assert isinstance(output, Tensor)
        return torch.autograd.grad(output.square().sum(), learned)

    written_out = bias.at(torch.arange(6)[:, None], torch.arange(6), Grid(6, 6, 4, query.device))
    for found, expected in zip(gradients(bias), gradients(written_out), strict=True):
        assert expected.abs().max() > 0
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", list(LEARNED))
def test_first_and_second_derivatives(name: str) -> None:
    bias = LEARNED[name]()
    query, key, value = (normal(2, 6, 2, seed=i) for i in range(3))
    learned = [tensor.requires_grad_() for tensor in tensors_of(bias)]

    def attend(*tensors: Tensor) -> Any:
        return regard.attend(query, key, value, bias=with_tensors(bias, tensors))

    assert torch.autograd.gradcheck(attend, learned, check_batched_grad=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(attend, learned)


def test_a_table_may_be_mapped_over() -> None:
    tables = normal(3, 2, 5)
    query, key, value = (normal(2, 6, 4, seed=i) for i in range(3))

    def attend(table: Tensor) -> Any:
        return regard.attend(query, key, value, bias=Relative(2, table=table))

    expected = torch.stack([attend(table) for table in tables])
    torch.testing.assert_close(torch.func.vmap(attend)(tables), expected)


@pytest.mark.parametrize("name", ["alibi", "t5-8-16", "relative-3", "relative_2d-2-3"])
def test_a_layer_fills_in_the_heads_and_learns_all_but_slopes(name: str) -> None:
    assert name.split("-")[0] in BIASES
    bias = regard.Mechanism.parse(f"dot/softmax/{name}").bias
    assert bias is not None
    assert tensors_of(bias) == []
    query = torch.randn(3, 6, 4)
    with pytest.raises(ValueError, match=r"write regard\.biases"):
        regard.attend(query, query, query, bias=bias)
    learned = bias.learn(3)
    assert set(named_tensors(learned)) - learned.fixed == (set() if name == "alibi" else {"table"})
    assert regard.attend(query, query, query, bias=learned).shape == query.shape
    assert {f"first_{one}" for one in learned.fixed} == (learned + torch.zeros(6)).fixed


@pytest.mark.parametrize("name", ["alibi", "relative", "t5", "relative_2d", "function"])
def test_a_compiler_sees_the_same(name: str) -> None:
    bias = alibi(2) if name == "alibi" else LEARNED[name]()
    query, key, value = (normal(2, 6, 4, seed=i) for i in range(3))

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Any:
        return regard.attend(query, key, value, bias=bias, normalizer="sparsemax")

    compiled = torch.compile(attend, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(query, key, value), attend(query, key, value))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: alibi(0), "heads of the bias alibi must be a whole number of at least 1, it is 0"),
        (lambda: relative(2, -1), "distance of the bias relative must be a whole number of at least 0"),
        (lambda: t5(2, buckets=6), "buckets of the bias t5 must be a multiple of 4, they are 6"),
        (
            lambda: t5(2, buckets=32, distance=8),
            "distance of the bias t5 must be a whole number of at least 9",
        ),
        (lambda: relative_2d(2, 0, 3), "height of the bias relative_2d must be"),
    ],
)
def test_a_bias_that_cannot_be_is_refused(make: Callable[[], Bias], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


CAPTURED = torch.ones((), requires_grad=True)


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        (alibi(4), r"slopes of the bias alibi must have the shape \(\) or \(2,\), it has \(4,\)"),
        (
            relative(3, 1),
            r"table of the bias Relative must have the shape \(3,\) or \(2, 3\), it has \(3, 3\)",
        ),
        (
            Relative2D(2, 3, table=torch.zeros(2, 15)),
            "query must have a place for each of the 2 x 3 = 6 pixels",
        ),
        (function(lambda q, k: CAPTURED * k), "learns must be given to it"),
    ],
)
def test_a_bias_that_does_not_fit_is_refused(bias: Bias, message: str) -> None:
    query = torch.ones(2, 5, 4)
    with pytest.raises(ValueError, match=message):
        regard.attend(query, query, query, bias=bias)


@pytest.mark.parametrize(
    "make",
    [
        lambda: function(3),
        lambda: function(lambda q, k: q, 0.5),
        lambda: function(lambda q, k: q > k).picture(2, 2),
        lambda: as_bias(0.5),
        lambda: as_bias(torch.ones(2, dtype=torch.int64)),
    ],
)
def test_a_bias_of_something_else_is_refused(make: Callable[[], Bias]) -> None:
    with pytest.raises(TypeError, match="must"):
        make()
