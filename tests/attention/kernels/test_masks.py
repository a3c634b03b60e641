"""Masks under the fused kernels: as ranges of keys, as tensors, and written out a block of queries at a time."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from tests.attention.kernels.judge import Call, everything, judge, normal
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import regard
from regard import biases, masks
from regard.attention.backends import BACKENDS, sparse
from regard.attention.call import AttentionCall
from regard.attention.grid import Grid
from regard.attention.mechanism import normalizer_named
from regard.attention.parts import tensors_of, with_tensors

FUSED = [
    ("sparse", "sparsemax"),
    ("sparse", "entmax-1.3"),
    ("sparse", "top-3"),
    ("sparse", "hardmax"),
    ("dense", "softmax"),
    ("dense", "sigmoid"),
    ("additive", "softmax"),
    ("additive", "sparsemax"),
]
LENGTHS = [(1, 1), (1, 7), (7, 1), (5, 5), (3, 8), (8, 3), (0, 4), (4, 0), (70, 70), (40, 67), (67, 40)]

RANGED: dict[str, Any] = {
    "causal": masks.causal(),
    "window-0": masks.window(0),
    "window-3": masks.window(3),
    "before and after": masks.window(2, 5),
    "before only": masks.window(4, 0),
    "all before": masks.window(None, 2),
    "all after": masks.window(1, None),
    "no limit": masks.window(None, None),
    "far": masks.window(200),
    "prefix-0": masks.prefix(0),
    "prefix-3": masks.prefix(3),
    "long prefix": masks.prefix(100),
    "padding": masks.padding(torch.tensor([0, 2, 100])),
    "padding and causal": masks.padding(torch.tensor([0, 2, 5])) & masks.causal(),
    "window and prefix": masks.window(4) & masks.prefix(2),
    "three": masks.causal() & masks.window(6) & masks.padding(torch.tensor([1, 4, 30])),
}


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", list(RANGED))
def test_ranges_are_the_picture(name: str, lengths: tuple[int, int]) -> None:
    """Also a block of queries at a time, as they are cut."""
    mask, (query_len, key_len) = RANGED[name], lengths
    for axes in (3, 4) if "padding" in name or name == "three" else (2, 3, 4):
        grid = Grid(query_len, key_len, axes, torch.device("cpu"))
        ranges = mask.ranges(grid)
        assert ranges is not None
        assert ranges.dtype == torch.int32
        assert ranges.shape[-2] in (1, query_len)
        places = torch.arange(key_len)
        shown = (places >= ranges[..., :1]) & (places < ranges[..., 1:])
        whole = mask.block(slice(0, query_len), slice(0, key_len), grid)
        shape = torch.broadcast_shapes(shown.shape, whole.shape, (query_len, key_len))
        assert torch.equal(shown.expand(shape), whole.expand(shape))
        assert bool(((ranges >= 0) & (ranges <= key_len)).all())


@pytest.mark.parametrize(
    "mask",
    [
        masks.dilated(2, 2),
        masks.blocks(torch.eye(2, dtype=torch.bool), 3),
        ~masks.causal(),
        masks.window(1) | masks.padding(torch.tensor([1])),
        masks.causal() & torch.ones(5, 5, dtype=torch.bool),
        masks.function(lambda query, key: query >= key),
        masks.documents(torch.tensor([0, 2, 5])),
    ],
)
def test_other_masks_have_no_ranges(mask: Any) -> None:
    assert mask.ranges(Grid(5, 5, 4, torch.device("cpu"))) is None


def ask(backend: str, name: str, query_len: int, key_len: int, mask: Any = None, bias: Any = None) -> Call:
    """A call of three sequences and four heads, that share two of keys."""
    query, key = normal(3, 4, query_len, 6, seed=1), normal(3, 2, key_len, 6, seed=2)
    score = (
        regard.scores.Additive(normal(4, 6, seed=3)) if backend == "additive" else regard.scores.ScaledDot()
    )
    return Call(query, key, normal(3, 2, key_len, 5, seed=4), score, normalizer_named(name), mask, bias)


@pytest.mark.parametrize(("backend", "normalizer"), FUSED)
@pytest.mark.parametrize("name", list(RANGED))
def test_ranges_hide_what_the_mask_hides(name: str, backend: str, normalizer: str) -> None:
    for query_len, key_len in ((5, 5), (3, 37), (37, 3), (40, 40)):
        # A query that sees one key has a gradient that is nothing but rounding.
        call = ask(backend, normalizer, query_len, key_len, RANGED[name])
        judge(call, torch.float64, backend, floor=0.1)


SHAPES = [
    (1,), (13,), (9, 1), (1, 13), (9, 13), (1, 9, 13), (4, 1, 1), (4, 9, 1), (4, 1, 13), (4, 9, 13),
    (3, 1, 1, 1), (3, 1, 1, 13), (3, 1, 9, 1), (3, 4, 1, 13), (1, 4, 9, 13), (3, 1, 9, 13), (3, 4, 9, 13),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_tensors_of_every_shape_that_broadcasts(shape: tuple[int, ...]) -> None:
    shown = normal(*shape, seed=5) > -0.3
    bias = normal(*shape, seed=6)
    for backend, name in FUSED[1:7]:
        judge(ask(backend, name, 9, 13, shown), torch.float64, backend)
        for mask in (shown, masks.causal()):
            # What is added to all keys of a query has a gradient that is nothing but rounding.
            judge(ask(backend, name, 9, 13, mask, bias), torch.float64, backend, floor=0.1)


@pytest.mark.parametrize("axes", [2, 3, 4, 5])
@pytest.mark.parametrize(("backend", "name"), FUSED[:1] + FUSED[-3:])
def test_any_number_of_axes(backend: str, name: str, axes: int) -> None:
    leading = {2: (), 3: (2,), 4: (3, 2), 5: (2, 3, 2)}[axes]
    query, key, value = (normal(*leading, n, 6, seed=n) for n in (5, 7, 8))
    key, value = key[..., :7, :], value[..., :7, :]
    score = regard.scores.Additive() if backend == "additive" else regard.scores.Dot()
    shown: list[Any] = [None, masks.causal(), normal(5, 7) > 0, normal(*leading, 5, 7) > 0]
    if axes > 3:
        shown += [masks.padding(torch.tensor([2, 7, 0][: leading[0]])), normal(*leading[:-1], 1, 1, 7) > 0]
    if axes == 5:
        shown += [masks.padding(torch.tensor([[1, 2, 3], [4, 5, 6]])), normal(3, 1, 5, 7) > 0]
    for mask in shown:
        judge(Call(query, key, value, score, normalizer_named(name), mask), torch.float64, backend)


@pytest.mark.parametrize(("backend", "name"), FUSED)
@pytest.mark.parametrize("junk", [1e6, 1e30, torch.nan, torch.inf])
def test_changing_a_hidden_key_changes_nothing(backend: str, name: str, junk: float) -> None:
    """Output, weights and every gradient; on `sparse` whatever the key and its value are, NaN among it."""
    if backend != "sparse" and not junk < torch.inf:
        pytest.skip(
            "where every key has a weight, a hidden value is multiplied with zero, which is no number here"
        )
    lengths = torch.tensor([4, 33, 17])
    hidden = torch.arange(33) >= lengths[:, None, None]
    for query_len in (3, 33):
        for mask in (masks.padding(lengths), ~hidden[:, :, None, :]):
            clean = ask(backend, name, query_len, 33, mask).to(torch.float64)
            dirty = ask(backend, name, query_len, 33, mask)
            dirty.key.masked_fill_(hidden[..., None], junk)
            dirty.value.masked_fill_(hidden[..., None], junk)
            dirty = dirty.to(torch.float64)
            one, two = (everything(c, c.attend(backend=backend, return_weights=True)) for c in (clean, dirty))
            for what in one:
                # (A large number makes additive scores take another way, whose rounding is another.)
                tolerance = 1e-12 if backend == "additive" else 0.0
                torch.testing.assert_close(two[what], one[what], atol=tolerance, rtol=tolerance)
            assert not two["gradient of key"][hidden.expand(3, 2, 33)].any()
            assert not two["gradient of value"][hidden.expand(3, 2, 33)].any()


@pytest.mark.parametrize(("backend", "name"), FUSED)
def test_no_document_sees_another(backend: str, name: str) -> None:
    offsets = torch.tensor([0, 5, 5, 20])
    for inner in (None, masks.causal()):
        call = ask(backend, name, 20, 20, masks.documents(offsets, offsets, inner)).to(torch.float64)
        output, weights = call.attend(backend=backend, return_weights=True)
        assert not weights[..., :5, 5:].any()
        assert not weights[..., 5:, :5].any()
        grads = torch.autograd.grad(output[..., :5, :].sum(), (call.key, call.value))
        assert not any(grad[..., 5:, :].any() for grad in grads)
        for some in (slice(0, 5), slice(5, 20)):
            alone = Call(
                call.query[..., some, :], call.key[..., some, :], call.value[..., some, :],
                call.score, call.normalizer, inner,
            ).attend(backend=backend)  # fmt: skip
            torch.testing.assert_close(output[..., some, :], alone, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(("backend", "name"), FUSED)
def test_a_query_that_sees_nothing_gets_nothing(backend: str, name: str) -> None:
    """Of output, weights and gradients, by ranges, a tensor or a bias; the others are as ever."""
    blind = torch.tensor([True, False, True] + [False] * 3 + [True] * 6)
    by_bias = torch.zeros(12, 9, dtype=torch.float64).masked_fill_(blind[:, None], -torch.inf)
    everyone = masks.padding(torch.tensor([0, 0, 0]))
    for mask, bias, rows in [
        (~blind[:, None], None, blind),
        (None, by_bias, blind),
        (masks.causal(), None, torch.arange(12) < 3),
        (masks.causal() & ~blind[:, None], None, blind | (torch.arange(12) < 3)),
        (everyone, None, torch.ones(12, dtype=torch.bool)),
        (torch.zeros(1, dtype=torch.bool), None, torch.ones(12, dtype=torch.bool)),
    ]:
        call = ask(backend, name, 12, 9, mask, bias)
        judge(call, torch.float64, backend)
        call = call.to(torch.float32)
        found = everything(call, call.attend(backend=backend, return_weights=True))
        for what in ("output", "weights", "gradient of query"):
            assert not found[what][:, :, rows].any(), what
            assert rows.all() or found["output"][:, :, ~rows].any()
        assert all(t.isfinite().all() for t in found.values())
        if rows.all():
            assert not any(t.any() for t in found.values())


@pytest.mark.parametrize(("backend", "name"), FUSED)
def test_causal_with_a_cache_is_the_end_of_the_whole(backend: str, name: str) -> None:
    whole = ask(backend, name, 40, 40, masks.causal())
    output = whole.attend(backend=backend)
    for count in (1, 2, 3, 5, 9):
        last = Call(whole.query[..., -count:, :], *list(vars(whole).values())[1:])
        torch.testing.assert_close(
            last.attend(backend=backend), output[..., -count:, :], atol=1e-12, rtol=1e-12
        )


def written_out(name: str, key_len: int) -> tuple[Any, Any]:
    """A mask that has no ranges and a bias, to be written out for every query."""
    mask: Any = {
        "mask": masks.dilated(3, 2),
        "mask of each sequence": masks.padding(torch.tensor([4, 9, key_len])) | masks.window(1),
        "bias": None,
        "learned bias": masks.causal(),
        "both": ~masks.window(2),
    }[name]
    slopes = biases.alibi(4)
    slopes = with_tensors(slopes, [t.double() for t in tensors_of(slopes)])
    learned = biases.relative(4, 3)
    learned = with_tensors(learned, [normal(*t.shape, seed=7) for t in tensors_of(learned)])
    bias: Any = {
        "bias": slopes,
        "learned bias": learned,
        "both": learned + normal(key_len, seed=8),
    }.get(name)
    return mask, bias


@pytest.mark.parametrize("normalizer", ["sparsemax", "entmax-1.3", "top-3"])
@pytest.mark.parametrize("name", ["mask", "mask of each sequence", "bias", "learned bias", "both"])
def test_blocks_of_queries_are_the_whole(name: str, normalizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights, without, and their gradients, those of learned biases too; with dropout, which is drawn alike."""
    query, key, value = normal(3, 4, 23, 6, seed=1), normal(3, 2, 29, 6, seed=2), normal(3, 2, 29, 5, seed=3)
    mask, bias = written_out(name, 29)

    def run(**more: Any) -> tuple[list[Tensor], int]:
        own = [] if bias is None else [t.detach().requires_grad_() for t in tensors_of(bias)]
        leaves = [t.detach().requires_grad_() for t in (query, key, value)]
        held = None if bias is None else with_tensors(bias, own)
        settings = {"normalizer": normalizer, "mask": mask, "bias": held, "backend": "sparse", **more}
        call = AttentionCall.of(*leaves, normalizer=normalizer, mask=mask, bias=held)
        torch.manual_seed(0)
        output, weights = regard.attend(*leaves, **settings, return_weights=True)
        torch.manual_seed(0)
        assert torch.equal(regard.attend(*leaves, **settings), output)
        with torch.no_grad():
            # (With other blocks, where what is learned is not written out for every head.)
            torch.manual_seed(0)
            torch.testing.assert_close(regard.attend(*leaves, **settings), output, atol=1e-12, rtol=1e-12)
        loss = (output * normal(*output.shape, seed=4)).sum() + (
            weights * normal(*weights.shape, seed=5)
        ).sum()
        grads = torch.autograd.grad(loss, [*leaves, *own], materialize_grads=True)
        return [output, weights, *grads], len(sparse.blocks_of(call))

    for dropout in (0.0, 0.4):
        expected, one = run(dropout=dropout)
        for size in (1, 29 * 5, 29 * 12 * 5):
            with monkeypatch.context() as patch:
                patch.setattr(sparse, "LARGEST_PICTURE", size)
                found, several = run(dropout=dropout)
            assert one == 1
            assert several > 1 or size > 1000
            for first, second in zip(found, expected, strict=True):
                torch.testing.assert_close(first, second, atol=1e-12, rtol=1e-12)


class Living(TorchDispatchMode):
    """The most bytes of new tensors that are alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else [found]:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.seen and storage.nbytes():
                    self._count(storage)
        return found

    def _count(self, storage: torch.UntypedStorage) -> None:
        place, size = storage.data_ptr(), storage.nbytes()
        self.seen.add(place)
        self.now += size
        self.most = max(self.most, self.now)

        def gone() -> None:
            self.seen.discard(place)
            self.now -= size

        weakref.finalize(storage, gone)


@pytest.mark.parametrize("name", ["mask", "bias", "learned bias", "both", "ranges"])
def test_memory_grows_with_the_length_not_with_its_square(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "LARGEST_PICTURE", 2**14)

    def most(length: int) -> int:
        query, key = (normal(1, 4, length, 8, seed=n).float().requires_grad_() for n in (1, 2))
        mask, bias = written_out(name, length) if name != "ranges" else (masks.window(9), None)
        with Living() as living:
            output = regard.attend(
                query, key, key, normalizer="top-4", mask=mask, bias=bias, backend="sparse"
            )
            torch.autograd.grad(output.sum(), (query, key))
        return living.most

    short, long = most(256), most(1024)
    assert long <= 4.5 * short + 2**18


@pytest.mark.parametrize(("backend", "name"), FUSED)
def test_explain_knows_what_they_cost(backend: str, name: str) -> None:
    call = ask(backend, name, 40, 40).to(torch.float32)
    for mask in (None, masks.causal(), masks.dilated(2, 2)):
        found = regard.explain(
            call.query, call.key, call.value, score=call.score, normalizer=name, mask=mask, backend=backend
        )
        assert found.backend == backend
        assert found.flops > 0
        assert "first: fused" in found.derivatives
    assert (
        list(BACKENDS).index("sparse") < list(BACKENDS).index("additive") < list(BACKENDS).index("blockwise")
    )
