"""Masks: what each lets see, in every way that it can be asked."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import regard
from regard.attention.backends import blockwise
from regard.attention.grid import Grid
from regard.attention.masks import (
    MASKS,
    Mask,
    blocks,
    causal,
    dense,
    dilated,
    documents,
    edges,
    function,
    neighbourhood,
    padding,
    prefix,
    segments,
    window,
)

DRAWINGS: dict[str, tuple[Mask, tuple[int, int], str]] = {
    "causal aligns at the end": (causal(), (3, 5), "■■■·· ■■■■· ■■■■■"),
    "causal with more queries than keys": (causal(), (4, 2), "·· ·· ■· ■■"),
    "window": (window(1, 2), (4, 4), "■■■· ■■■■ ·■■■ ··■■"),
    "dilated": (dilated(1, 2), (5, 5), "■·■·· ·■·■· ■·■·■ ·■·■· ··■·■"),
    "dilated to the left": (dilated(2, 2, 0), (2, 6), "■·■·■· ·■·■·■"),
    "dilated without limit": (dilated(None, 3, 0), (2, 6), "·■··■· ··■··■"),
    "prefix": (prefix(2), (4, 4), "■■·· ■■·· ■■■· ■■■■"),
    "prefix in a cache": (prefix(4), (2, 6), "■■■■■· ■■■■■■"),
    "documents": (documents(torch.tensor([0, 1, 1, 3])), (3, 3), "■·· ·■■ ·■■"),
    "documents with keys cut elsewhere": (
        documents(torch.tensor([0, 2, 3]), torch.tensor([0, 1, 4])),
        (3, 4),
        "■··· ■··· ·■■■",
    ),
    "documents, causal inside": (
        documents(torch.tensor([0, 2, 3]), torch.tensor([0, 1, 4]), causal()),
        (3, 4),
        "···· ■··· ·■■■",
    ),
    "documents, prefix inside": (
        documents(torch.tensor([0, 3, 5]), mask=prefix(2)),
        (5, 5),
        "■■··· ■■··· ■■■·· ···■■ ···■■",
    ),
    "segments": (segments(torch.tensor([7, 3]), torch.tensor([3, 7, 7])), (2, 3), "·■■ ■··"),
    "blocks": (
        blocks(torch.tensor([[True, False], [False, True]]), (2, 3)),
        (3, 5),
        "■■■·· ■■■·· ···■■",
    ),
    "neighbourhood": (neighbourhood(2, 3, (1, 0)), (6, 6), "■··■·· ·■··■· ··■··■ ■··■·· ·■··■· ··■··■"),
    "edges lead to the query": (edges(torch.tensor([[2, 0, 2], [0, 1, 0]])), (2, 3), "··■ ■··"),
    "no edges": (edges(torch.zeros(2, 0, dtype=torch.int64)), (1, 2), "··"),
    "function aligns at the end": (function(lambda q, k: k == q), (2, 3), "·■· ··■"),
}


@pytest.mark.parametrize("name", list(DRAWINGS))
def test_a_mask_draws_what_it_should(name: str) -> None:
    mask, lengths, drawing = DRAWINGS[name]
    assert mask.draw(*lengths).split() == drawing.split()


def test_masks_made_for_a_size_draw_themselves_in_it() -> None:
    layout = torch.tensor([[True, False, True]])
    assert str(neighbourhood(2, 2, 0)) == "■···\n·■··\n··■·\n···■"
    assert str(blocks(layout, (1, 2))) == "■■··■■"
    assert str(documents(torch.tensor([0, 1, 2])) & causal()) == "■·\n·■"
    assert str(edges(torch.tensor([[1], [0]]))) == "·■"
    assert str(padding(torch.tensor([1, 2]))) == "■·\n■·\n\n■■\n■■"
    assert str(~dense(layout)) == "·■·\n" * 2 + "·■·"


@st.composite
def some_masks(draw: st.DrawFn, query_len: int, key_len: int, formula: bool = False) -> Mask:
    """Any mask that fits the lengths, combined with others or alone."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    limit = st.one_of(st.none(), st.integers(0, 4))

    def offsets(length: int, count: int) -> Tensor:
        cuts = sorted(draw(st.lists(st.integers(0, length), min_size=count, max_size=count)))
        return torch.tensor([0, *cuts, length], dtype=draw(st.sampled_from([torch.int32, torch.int64])))

    def documented() -> Mask:
        count = draw(st.integers(0, 3))
        inner = draw(st.one_of(st.none(), some_masks(query_len, key_len, formula=True)))
        return documents(offsets(query_len, count), offsets(key_len, count), inner)

    def numbers(length: int) -> Tensor:
        return torch.randint(3, (length,), generator=generator)

    def laid_out() -> Mask:
        size = draw(st.integers(1, 4)), draw(st.integers(1, 4))
        heads = draw(st.sampled_from([(), (1,), (2,)]))
        shape = *heads, -(-query_len // size[0]), -(-key_len // size[1])
        return blocks(torch.rand(shape, generator=generator) > 0.6, size)

    def joined() -> Mask:
        count = draw(st.integers(0, 12))
        pair = [torch.randint(length, (count,), generator=generator) for length in (key_len, query_len)]
        return edges(torch.stack(pair))

    kinds: dict[str, Callable[[], Mask]] = {
        "causal": causal,
        "window": lambda: window(draw(limit), draw(limit)),
        "dilated": lambda: dilated(draw(limit), draw(st.integers(1, 3)), draw(limit)),
        "prefix": lambda: prefix(draw(st.integers(0, key_len + 1))),
        "function": lambda: function(lambda query, key: (query * key) % 3 == 1),
    }
    if not formula:
        kinds |= {
            "documents": documented,
            "segments": lambda: segments(numbers(query_len), numbers(key_len)),
            "blocks": laid_out,
            "edges": joined,
            "dense": lambda: dense(torch.rand(query_len, key_len, generator=generator) > 0.5),
        }
        if query_len == key_len and query_len % 2 == 0:
            radius = st.tuples(st.integers(0, 3), st.integers(0, 3))
            kinds["neighbourhood"] = lambda: neighbourhood(2, key_len // 2, draw(radius))
    mask = kinds[draw(st.sampled_from(list(kinds)))]()
    match draw(st.sampled_from(["alone", "alone", "and", "or", "not"])):
        case "and":
            return mask & draw(some_masks(query_len, key_len, formula))
        case "or":
            return mask | draw(some_masks(query_len, key_len, formula))
        case "not":
            return ~mask
    return mask


LENGTHS = st.one_of(
    st.tuples(st.integers(1, 9), st.integers(1, 9)), st.integers(1, 5).map(lambda n: (2 * n, 2 * n))
)


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_every_way_of_asking_gives_the_same_picture(data: st.DataObject) -> None:
    query_len, key_len = data.draw(LENGTHS)
    mask = data.draw(some_masks(query_len, key_len))
    grid = Grid(query_len, key_len, 2, torch.device("cpu"))
    picture = mask.picture(query_len, key_len)
    mask.check(torch.ones(2, query_len, 1), torch.ones(2, key_len, 1))
    assert picture.dtype == torch.bool
    assert torch.broadcast_shapes(mask.shape(grid), (query_len, key_len)) == picture.shape
    assert mask.hides(grid) or bool(picture.all())

    start, stop = sorted((data.draw(st.integers(0, query_len)), data.draw(st.integers(0, query_len))))
    low, high = sorted((data.draw(st.integers(0, key_len)), data.draw(st.integers(0, key_len))))
    rows, columns = slice(start, stop), slice(low, high)
    part = picture[..., rows, columns]
    assert torch.equal(mask.block(rows, columns, grid).expand(part.shape), part)

    chosen = torch.tensor(data.draw(st.lists(st.integers(0, query_len - 1), max_size=5)), dtype=torch.int64)
    part = picture[..., chosen, columns]
    assert torch.equal(mask.block(chosen, columns, grid).expand(part.shape), part)

    query, key = torch.arange(query_len)[:, None], torch.arange(key_len)
    assert torch.equal(mask.at(query, key, grid).expand(picture.shape), picture)
    pairs = torch.cartesian_prod(torch.arange(query_len), torch.arange(key_len))
    singles = mask.at(pairs[:, :1], pairs[:, 1:], grid)
    assert torch.equal(singles.expand(*picture.shape[:-2], len(pairs), 1), picture.flatten(-2)[..., None])

    few = torch.randint(key_len, (query_len, 3), generator=torch.Generator().manual_seed(start))
    whole = picture.expand(*picture.shape[:-2], query_len, key_len)
    found = mask.at(query, few, grid).expand(*picture.shape[:-2], query_len, 3)
    assert torch.equal(found, whole.gather(-1, few.expand(found.shape)))

    first, last = mask.span(start, stop, grid)
    assert 0 <= first <= last <= key_len
    assert not picture[..., rows, :first].any()
    assert not picture[..., rows, last:].any()


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_masks_obey_the_laws_of_logic(data: st.DataObject) -> None:
    lengths = data.draw(LENGTHS)
    one, two = data.draw(some_masks(*lengths)), data.draw(some_masks(*lengths))

    def same(first: Mask, second: Mask) -> bool:
        return torch.equal(*torch.broadcast_tensors(first.picture(*lengths), second.picture(*lengths)))

    assert same(~(one & two), ~one | ~two)
    assert same(~(one | two), ~one & ~two)
    assert same(~~one, one)
    assert same(one & one, one)
    assert same(one & two, two & one)
    assert same(one & (one | two), one)


@pytest.mark.parametrize(
    ("mask", "lengths", "expected"),
    [
        (causal(), (6, 6), (0, 4)),
        (window(1, 0), (6, 6), (1, 4)),
        (dilated(1, 2, 0), (6, 6), (0, 4)),
        (prefix(5), (6, 6), (0, 5)),
        (documents(torch.tensor([0, 2, 6])), (6, 6), (2, 6)),
        (documents(torch.tensor([0, 2, 6]), mask=causal()), (6, 6), (2, 4)),
        (documents(torch.tensor([0, 3, 6]), mask=window(0)), (6, 6), (2, 4)),
        (blocks(torch.eye(3, dtype=torch.bool), 2), (6, 6), (2, 4)),
        (blocks(torch.stack([torch.eye(3), torch.eye(3).roll(1, 0)]).bool(), 2), (6, 6), (0, 4)),
        (neighbourhood(6, 1, 1), (6, 6), (1, 5)),
        (causal() & window(1, 3), (6, 6), (1, 4)),
        (window(0) | window(1, 0), (6, 6), (1, 4)),
    ],
)
def test_spans_leave_out_what_queries_2_and_3_do_not_see(
    mask: Mask, lengths: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert mask.span(2, 4, Grid(*lengths, 2, torch.device("cpu"))) == expected


@pytest.mark.parametrize("radius", [0, 1, (2, 1), (0, 3)])
def test_neighbours_are_those_within_the_radius(radius: Any) -> None:
    height, width = 3, 4
    rows, columns = radius if isinstance(radius, tuple) else (radius, radius)
    picture = neighbourhood(height, width, radius).picture(12, 12)
    pixels = list(itertools.product(range(height), range(width)))
    for (i, one), (j, two) in itertools.product(enumerate(pixels), enumerate(pixels)):
        near = abs(one[0] - two[0]) <= rows and abs(one[1] - two[1]) <= columns
        assert bool(picture[i, j]) == near
    for start, stop in itertools.combinations(range(13), 2):
        seen = picture[start:stop].any(0).nonzero()
        low, high = neighbourhood(height, width, radius).span(start, stop, Grid(12, 12, 2, picture.device))
        assert low <= int(seen.min())
        assert int(seen.max()) < high


def test_edges_are_a_set_of_places() -> None:
    adjacency = torch.rand(7, 5, generator=torch.Generator().manual_seed(0)) > 0.6
    target, source = adjacency.nonzero(as_tuple=True)
    order = torch.randperm(2 * len(source), generator=torch.Generator().manual_seed(1))
    twice = torch.stack([source, target]).repeat(1, 2)[:, order]
    mask = edges(twice)
    assert torch.equal(mask.picture(7, 5), adjacency)
    assert isinstance(mask, regard.masks.Edges)
    assert torch.equal(torch.stack([mask.query, mask.key]), torch.stack([target, source]))


def tensors(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(3))
    return query, key, value


def test_no_document_sees_another() -> None:
    query, key, value = tensors(2, 4, 9, 4)
    mask = documents(torch.tensor([0, 4, 9]), mask=causal())
    before = regard.attend(query, key, value, mask=mask)
    key[..., 4:, :], value[..., 4:, :] = 100.0, -100.0
    after = regard.attend(query, key, value, mask=mask)
    assert torch.equal(before[..., :4, :], after[..., :4, :])


@pytest.mark.parametrize("normalizer", ["softmax", "sparsemax"])
@pytest.mark.parametrize("inner", [None, causal(), window(1), dilated(1, 2), prefix(2) & window(3)])
def test_packed_documents_are_attended_one_by_one(
    inner: Mask | None, normalizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockwise, "BLOCK_BYTES", 300)
    query, key, value = tensors(2, 11, 4)
    cuts, key_cuts = [0, 3, 3, 7, 8], [0, 2, 4, 9, 11]
    query = query[:, :8]
    mask = documents(torch.tensor(cuts), torch.tensor(key_cuts), inner)
    packed = regard.attend(query, key, value, mask=mask, normalizer=normalizer)
    for start, stop, low, high in zip(cuts, cuts[1:], key_cuts, key_cuts[1:], strict=False):
        alone = regard.attend(
            query[:, start:stop],
            key[:, low:high],
            value[:, low:high],
            mask=inner,
            normalizer=normalizer,
        )
        torch.testing.assert_close(packed[:, start:stop], alone)


def test_segments_are_one_set_for_each_sequence_of_the_batch() -> None:
    query, key, value = tensors(2, 3, 6, 4)
    numbers = torch.tensor([[0, 0, 1, 1, 1, 2], [5, 4, 5, 4, 5, 4]])
    dense_mask = (numbers[:, :, None] == numbers[:, None, :])[:, None]
    found = regard.attend(query, key, value, mask=segments(numbers) & causal())
    torch.testing.assert_close(found, regard.attend(query, key, value, mask=causal() & dense_mask))


def test_a_prefix_may_differ_in_each_sequence_of_the_batch() -> None:
    query, key, value = tensors(2, 3, 6, 4)
    found = regard.attend(query, key, value, mask=prefix(torch.tensor([1, 4])))
    for sequence, length in enumerate((1, 4)):
        alone = regard.attend(query[sequence], key[sequence], value[sequence], mask=prefix(length))
        torch.testing.assert_close(found[sequence], alone)


def test_a_layout_may_differ_in_each_head() -> None:
    query, key, value = tensors(2, 2, 6, 4)
    layout = torch.rand(2, 3, 2, generator=torch.Generator().manual_seed(3)) > 0.4
    written_out = layout.repeat_interleave(2, 1).repeat_interleave(3, 2)
    found = regard.attend(query, key, value, mask=blocks(layout, (2, 3)))
    torch.testing.assert_close(found, regard.attend(query, key, value, mask=written_out))


def test_masks_of_numbers_have_a_spelling() -> None:
    spelt = {
        "causal": causal(),
        "window-2": window(2),
        "dilated-2-3": dilated(2, 3),
        "prefix-4": prefix(4),
        "neighbourhood-2-3-1": neighbourhood(2, 3, 1),
    }
    assert {name.split("-")[0] for name in spelt} == set(MASKS)
    for spelling, mask in spelt.items():
        found = regard.Mechanism.parse(f"dot/softmax/{spelling}").mask
        assert found is not None
        assert torch.equal(found.picture(6, 6), mask.picture(6, 6)), spelling


@pytest.mark.parametrize(
    "mask",
    [
        documents(torch.tensor([0, 4, 9]), mask=causal() & window(2)),
        prefix(3) | dilated(1, 2),
        segments(torch.tensor([0, 1, 0] * 3)) & function(lambda query, key: key != query - 1),
        (blocks(torch.eye(3, dtype=torch.bool), 3) | neighbourhood(3, 3, 1))
        & ~edges(torch.tensor([[1, 2], [2, 2]])),
    ],
    ids=["documents", "formulas", "segments", "blocks, neighbourhood and edges"],
)
def test_a_compiler_sees_the_same(mask: Mask) -> None:
    query, key, value = tensors(2, 2, 9, 4)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = regard.attend(query, key, value, mask=mask, normalizer="sparsemax")
        assert isinstance(output, Tensor)
        return output

    compiled = torch.compile(attend, fullgraph=True, dynamic=True, backend="aot_eager")
    torch.testing.assert_close(compiled(query, key, value), attend(query, key, value))


Q, K = torch.ones(2, 6, 4), torch.ones(2, 8, 4)
LENGTH = torch.tensor([1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dilated(-1, 2), "left of a dilated window must be a whole number of at least 0, it is -1"),
        (lambda: dilated(1, 0), "step of a dilated window must be a whole number of at least 1, it is 0"),
        (lambda: prefix(1.5), "length of a prefix must be a whole number"),
        (lambda: neighbourhood(2, 2, (1, 1, 1)), "radius of a neighbourhood mask must be one number or two"),
        (lambda: blocks(torch.ones(2, dtype=torch.bool), 2), "layout must be .* it has shape"),
        (
            lambda: blocks(torch.ones(2, 2, dtype=torch.bool), (2, 0)),
            "size of a block must be a whole number",
        ),
        (lambda: documents(torch.tensor(3)), "offsets must be"),
        (lambda: documents(torch.tensor([0, 6]), mask=padding(LENGTH)), "mask inside documents"),
        (lambda: documents(torch.tensor([0, 6]), mask=causal() & padding(LENGTH)), "mask inside documents"),
        (lambda: documents(torch.tensor([0, 6]), mask=padding(LENGTH) | causal()), "mask inside documents"),
        (lambda: documents(torch.tensor([0, 6]), mask=~padding(LENGTH)), "mask inside documents"),
        (lambda: edges(torch.ones(3, 2, dtype=torch.int64)), r"index of edges must be \(2, edges\)"),
        (lambda: edges(torch.tensor([[0], [-1]])), "index of edges must be places from 0, it goes from -1"),
        (lambda: segments(torch.tensor(1)), "numbers of the query segments"),
    ],
)
def test_a_mask_that_cannot_be_is_refused(make: Callable[[], Mask], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: documents([0, 3]),
        lambda: documents(torch.tensor([0.0, 3.0])),
        lambda: documents(torch.tensor([0, 3]), mask=torch.ones(3, 3, dtype=torch.bool)),
        lambda: segments(torch.tensor([True])),
        lambda: blocks(torch.ones(2, 2), 2),
        lambda: edges([[0], [1]]),
        lambda: function(3),
        lambda: function(lambda query, key: key - query).picture(2, 2),
        lambda: prefix(torch.tensor([0.5])),
    ],
)
def test_a_mask_of_something_else_is_refused(make: Callable[[], Mask]) -> None:
    with pytest.raises(TypeError, match="must"):
        make()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (documents(torch.tensor([0, 3, 6])), "key_offsets must rise from 0 to the length of key, 8"),
        (documents(torch.tensor([1, 6]), torch.tensor([0, 8])), "offsets must rise from 0 .* of query, 6"),
        (documents(torch.tensor([0, 4, 2, 6]), torch.tensor([0, 1, 2, 8])), r"they are \[0, 4, 2, 6\]"),
        (documents(torch.tensor([0, 6]), torch.tensor([0, 1, 8])), "of as many documents"),
        (segments(torch.zeros(6, dtype=torch.int64)), r"key segments must be .* they have shape \(6,\)"),
        (
            blocks(torch.ones(2, 4, dtype=torch.bool), 2),
            "cover query, which has 6 places: it has 2 blocks of 2",
        ),
        (blocks(torch.ones(3, 3, 4, dtype=torch.bool), 2), "layout must have one head, or as many as query"),
        (neighbourhood(2, 3, 1), "key must have a place for each of the 2 x 3 = 6 pixels"),
        (edges(torch.tensor([[8], [0]])), "places of key, which are 0 to 7: one has 8"),
        (edges(torch.tensor([[0], [6]])), "places of query, which are 0 to 5: one has 6"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask: Mask, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        regard.attend(Q, K, K, mask=mask)
