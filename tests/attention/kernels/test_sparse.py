"""Sparse weights by the fused kernel, on scores that are made to be awkward."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from tests.attention.kernels.judge import BORDERS, Call, everything, judge, normal, scored
from torch import Tensor

import regard
from regard import masks
from regard.attention import reference
from regard.attention.kernels import cpu, settings
from regard.attention.mechanism import normalizer_named
from regard.attention.normalizers import Entmax, Entmax15, Normalizer, Sparsemax

ENTMAX: dict[str, tuple[Normalizer, float]] = {
    "sparsemax": (Sparsemax(), 2.0),
    "entmax15": (Entmax15(), 1.5),
    "entmax-1.3": (Entmax(1.3), 1.3),
    "entmax-1.15": (Entmax(1.15), 1.15),
    "entmax-1.8": (Entmax(1.8), 1.8),
}
CHOOSING = ["top-1", "top-3", "top-8", "top-40", "hardmax"]
NAMES = [*ENTMAX, *CHOOSING]
SCORES = ["product", "distance", "additive"]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
WIDE = DTYPES[:2]


def supports(
    sizes: Tensor, key_len: int, alpha: float, gap: float = 1e-3, seed: int = 3
) -> tuple[Tensor, Tensor]:
    """Scores whose entmax has supports of these sizes, the other keys `gap` below the threshold; and the weights.

    Entmax read backwards: a key of weight w has the score w^(alpha - 1) / (alpha - 1).

    *Shape:* sizes `(rows,)` -> `(rows, key_len)`, the same.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(len(sizes), key_len, generator=generator, dtype=torch.float64) + 0.5
    weights = weights * (torch.arange(key_len) < sizes[:, None])
    weights = weights / weights.sum(-1, keepdim=True)
    order = torch.rand(len(sizes), key_len, generator=generator).argsort(-1)
    weights = weights.gather(-1, order)
    return torch.where(weights > 0, weights ** (alpha - 1), -gap) / (alpha - 1), weights


def of_rows(scores: Tensor, value_size: int, normalizer: Normalizer, **more: Tensor | None) -> Call:
    """A call of one head each of whose queries has its own scores, exactly. *Shape:* scores `(rows, key_len)`."""
    rows, key_len = scores.shape
    query, key = torch.eye(rows, dtype=torch.float64)[None], scores.mT.double().contiguous()[None]
    value = normal(1, key_len, value_size, seed=8)
    return Call(query, key, value, regard.scores.Dot(), normalizer, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("key_len", BORDERS)
@pytest.mark.parametrize("name", list(ENTMAX))
def test_supports_of_every_size(name: str, key_len: int) -> None:
    normalizer, alpha = ENTMAX[name]
    sizes = torch.arange(1, key_len + 1)
    if key_len > 100:
        sizes = torch.cat([sizes[:20], sizes[20:-20:9], sizes[-20:]])
    scores, weights = supports(sizes, key_len, alpha)
    for score, query_len in [
        ("product", 6),
        ("product", 1),
        ("distance", 5),
        ("additive", 6),
        ("additive", 2),
    ]:
        query, key, made = scored(score, scores, query_len)
        call = Call(query, key, normal(len(sizes), key_len, 5, seed=9), made, normalizer)
        for dtype in WIDE if key_len not in (17, 65) else DTYPES:
            judge(call, dtype)
        _, found = call.attend(backend="sparse", return_weights=True)
        assert torch.equal((found > 0).sum(-1), sizes[:, None].expand(-1, query_len))
        torch.testing.assert_close(found, weights[:, None].expand_as(found), atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("key_len", [*BORDERS, 600])
@pytest.mark.parametrize("name", NAMES)
def test_equal_scores(name: str, key_len: int) -> None:
    """Entmax shares alike; of equal keys the first are kept."""
    normalizer = normalizer_named(name)
    for score in SCORES:
        for query_len in (1, 9):
            query, key, made = scored(score, torch.full((1, key_len), 0.7), query_len, size=3)
            call = Call(query, key, normal(1, key_len, 4), made, normalizer)
            for dtype in WIDE:
                judge(call, dtype, floor=max(2.0, key_len**0.5 / 4))
            _, found = call.to(torch.float32).attend(backend="sparse", return_weights=True)
            kept = key_len if name in ENTMAX else 1 if name == "hardmax" else int(name[4:])
            expected = (torch.arange(key_len) < kept).float() / min(kept, key_len)
            torch.testing.assert_close(found[0], expected.expand(query_len, -1), atol=0, rtol=3e-6)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("huge", [1e4, 1e30])
@pytest.mark.parametrize("name", NAMES)
def test_one_huge_score(name: str, huge: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    for key_len in (2, 17, 65, 130):
        scores = torch.rand(4, key_len, generator=generator, dtype=torch.float64)
        # One above all, one below all, one of each, two of the same above.
        scores[0, key_len // 2], scores[1, key_len // 2] = huge, -huge
        scores[2, 0], scores[2, -1] = huge, -huge
        scores[3, 0] = scores[3, -1] = huge
        judge(of_rows(scores.float().double(), 5, normalizer_named(name)), dtype)
        bias = scores.float().double()[None]
        quiet = of_rows(torch.zeros_like(scores), 5, normalizer_named(name))
        judge(Call(*list(vars(quiet).values())[:6], bias), dtype)
        # By the weight of a channel that is saturated: tanh 50 is 1.
        query, key = torch.zeros(1, 5, 1).double(), torch.zeros(1, key_len, 1).double()
        key[0, key_len // 2] = 50.0
        made = regard.scores.Additive(torch.tensor([huge]).float().double())
        call = Call(query, key, normal(1, key_len, 4), made, normalizer_named(name))
        _, weights = call.to(dtype).attend(backend="sparse", return_weights=True)
        _, expected = call.plain()
        torch.testing.assert_close(weights.double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("key_len", [1, 2, 16, 33, 64, 65, 100, 129, 257])
def test_of_equal_scores_at_the_border_the_first_keys_win(key_len: int) -> None:
    generator = torch.Generator().manual_seed(key_len)
    # Few values, so that there are ties at every border; and rows that rise and fall.
    scores = torch.randint(0, 3, (7, key_len), generator=generator).double()
    scores = torch.cat([scores, torch.arange(key_len)[None] // 2 / 8, -torch.arange(key_len)[None] // 2 / 8])
    order = np.argsort(-scores.numpy(), axis=-1, kind="stable")
    for k in sorted({1, 2, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, key_len - 1, key_len, key_len + 5} - {0}):
        call = of_rows(scores, 3, regard.normalizers.TopK(k))
        for dtype in WIDE:
            _, weights = call.to(dtype).attend(backend="sparse", return_weights=True)
            for row, best in enumerate(order):
                expected = reference.top(scores[row].numpy(), k)
                assert set(weights[0, row].nonzero().flatten().tolist()) == set(best[:k].tolist())
                np.testing.assert_allclose(weights[0, row].detach().numpy(), expected, rtol=1e-6)
        judge(call, torch.float32)
    hard = of_rows(scores, 3, normalizer_named("hardmax")).attend(backend="sparse", return_weights=True)[1]
    assert torch.equal(hard[0].argmax(-1), torch.from_numpy(order[:, 0]))


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("name", NAMES)
def test_scores_of_very_different_magnitude(name: str, dtype: torch.dtype) -> None:
    """From denormal numbers to nearly the largest, of both signs, all in one row or by row."""
    least = -40 if dtype == torch.float32 else -310
    exponents = torch.linspace(least, 30, 40, dtype=torch.float64)
    by_row = normal(40, 33, seed=4).sign() * 10.0 ** exponents[:, None] * (1 + torch.rand(33).double())
    in_one = normal(5, 40, seed=5).sign() * 10.0**exponents * (1 + torch.rand(40).double())
    for scores in (by_row, in_one, by_row[:3] * 0, by_row[:, :1]):
        judge(of_rows(scores.to(dtype).double(), 4, normalizer_named(name)), dtype)


@pytest.mark.parametrize("name", NAMES)
def test_minus_infinity_in_a_bias_deletes_a_key(name: str) -> None:
    for score in SCORES:
        for query_len in (3, 9):
            scores, _ = supports(torch.tensor([5, 20]), 70, 1.5)
            query, key, made = scored(score, scores, query_len)
            value = normal(2, 70, 4)
            bias = torch.zeros(70, dtype=torch.float64)
            bias[::3], bias[64:] = -torch.inf, -torch.inf
            call = Call(query, key, value, made, normalizer_named(name), bias=bias)
            judge(call, torch.float64)
            judge(call, torch.float32)
            kept = bias == 0
            fewer = Call(query, key[:, kept], value[:, kept], made, call.normalizer)
            for one, two in zip(
                call.attend(backend="sparse", return_weights=True),
                fewer.attend(backend="sparse", return_weights=True),
                strict=True,
            ):
                torch.testing.assert_close(one if one.shape == two.shape else one[..., kept], two)
            output, weights = Call(query, key, value, made, call.normalizer, bias=bias - torch.inf).attend(
                backend="sparse", return_weights=True
            )
            assert not output.any()
            assert not weights.any()


def large_and_small(alpha: float) -> Tensor:
    """Scores of blocks of 32 queries: all supports small, all larger than what is kept, a few of them so, none at all.

    *Shape:* `(rows, key_len)`
    """
    sizes = torch.tensor(
        [1, 2, 3, 250] * 8 + [257, 300, 600, 599] * 8 + [600, 1, 256, 2, 3, 3, 600, 1] * 4 + [255, 256, 1] * 3
    )
    return supports(sizes, 600, alpha, gap=0.05)[0]


@pytest.mark.parametrize("name", ["sparsemax", "entmax15", "entmax-1.3"])
def test_supports_larger_than_what_is_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    normalizer, alpha = ENTMAX[name]
    call = of_rows(large_and_small(alpha), 3, normalizer)
    _, counts = kept_of(call)
    assert (counts == -1).any()
    assert (counts > 256).any(), "a block of small supports has room for a large one"
    for dtype in (torch.float64, torch.float32):
        judge(call, dtype)
    monkeypatch.setattr(cpu, "AGAIN_BYTES", 600 * 12 * 3)  # three queries at a time
    judge(call, torch.float64)


def kept_of(call: Call) -> tuple[Tensor, Tensor]:
    """Output, and how many keys were kept of each query, by the operator itself."""
    kind, parameter = call.normalizer.kernel or ("", 0.0)
    inputs = (t[None].detach() for t in (call.query, call.key, call.value))
    made = settings.Settings("product", kind, parameter)
    found = torch.ops.regard.attention(*inputs, None, None, None, None, *made, False, True)
    return found[0], found[3]


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for three keys of each query, and for two queries at a time where there is none."""
    monkeypatch.setattr(settings, "SUPPORT", 3)
    monkeypatch.setattr(cpu, "AGAIN_BYTES", 300)


@pytest.mark.usefixtures("little_room")
@pytest.mark.parametrize("shown", ["all", "causal", "padding", "tensor", "heads"])
@pytest.mark.parametrize("score", SCORES)
def test_without_room_masks_biases_and_groups_are_found_again(score: str, shown: str) -> None:
    mask = {
        "all": None,
        "causal": masks.causal(),
        "padding": masks.padding(torch.tensor([3, 19])),
        "tensor": torch.rand(2, 1, 40, 23, generator=torch.Generator().manual_seed(2)) > 0.3,
        "heads": torch.rand(4, 1, 23, generator=torch.Generator().manual_seed(2)) > 0.3,
    }[shown]
    scale = {"product": 0.3, "distance": 0.2, "additive": 0.3}[score]
    query, key = normal(2, 4, 40, 6, seed=1) * scale, normal(2, 2, 23, 6, seed=2) * scale
    weight = regard.scores.Additive(normal(4, 6, seed=3))
    made = {"product": regard.scores.Dot(), "distance": regard.scores.Distance(1.0), "additive": weight}[
        score
    ]
    value = normal(2, 2, 23, 5, seed=4)
    for normalizer in (Sparsemax(), Entmax15(), Entmax(1.7), regard.normalizers.TopK(5)):
        for bias in (None, normal(4, 40, 23, seed=6) * 0.1, normal(2, 1, 1, 23, seed=6) * 0.1):
            judge(Call(query, key, value, made, normalizer, mask, bias), torch.float64, tight=1e-11)


@pytest.mark.usefixtures("little_room")
def test_without_room_dropout_is_that_of_the_forward_pass() -> None:
    query, key = normal(2, 4, 11, 6, seed=1) * 0.2, normal(2, 2, 23, 6, seed=2) * 0.2
    query.requires_grad_()
    value = normal(2, 2, 23, 5, seed=4).requires_grad_()
    above = normal(2, 4, 11, 5, seed=5)
    found = []
    for room in (3, 256):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(settings, "SUPPORT", room)
            torch.manual_seed(0)
            output = regard.attend(query, key, value, normalizer="sparsemax", dropout=0.4, backend="sparse")
            found.append([output, *torch.autograd.grad(output, (query, value), above)])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(
    "sizes", [(1, 1), (2, 3), (7, 15), (15, 16), (16, 17), (17, 33), (64, 63), (65, 130), (130, 1)]
)
@pytest.mark.parametrize("score", SCORES)
def test_sizes_of_queries_and_values(score: str, sizes: tuple[int, int]) -> None:
    size, value_size = sizes
    for query_len in (1, 2, 4, 5, 8, 9, 33):
        query, key = (normal(3, n, size, seed=n) / size**0.5 for n in (query_len, 21))
        weight = regard.scores.Additive(normal(size, seed=3))
        made = {"product": regard.scores.Dot(), "distance": regard.scores.Distance(), "additive": weight}[
            score
        ]
        for name in ("sparsemax", "entmax-1.3", "top-3"):
            judge(Call(query, key, normal(3, 21, value_size), made, normalizer_named(name)), torch.float64)


@pytest.mark.parametrize("query_len", [1, 4, 5, 40])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_number_stays_in_its_row(name: str, query_len: int) -> None:
    """A query, a key that some see, a bias; in the output and in the gradients of other queries and values."""
    normalizer = normalizer_named(name)
    for score in SCORES:
        for bad in (torch.nan, torch.inf, -torch.inf):
            query, key, made = scored(score, supports(torch.tensor([4, 9]), 70, 1.5)[0], query_len)
            value = normal(2, 70, 3)
            query, key = query.float(), key.float()
            made = made if score != "additive" else regard.scores.Additive(made.weight.float())  # type: ignore[attr-defined]
            if score == "additive" and bad != torch.nan:
                continue  # the hyperbolic tangent of infinity is a number
            query[1, query_len - 1, 0] = bad
            call = Call(query, key, value.float(), made, normalizer)
            output = call.attend(backend="sparse")
            hurt = torch.zeros(2, query_len, dtype=torch.bool)
            hurt[1, query_len - 1] = True
            if bad == torch.nan or score == "distance":
                expected = call.plain()[0].isnan().any(-1)
                assert torch.equal(output.isnan().any(-1) & ~hurt, torch.zeros_like(hurt))
                assert torch.equal(output.isnan().any(-1), expected), (score, bad)
            else:
                assert not output[~hurt].isnan().any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("query_len", [4, 40])
def test_a_key_that_is_no_number_touches_those_who_see_it(name: str, query_len: int) -> None:
    query, key, value = normal(2, query_len, 8), normal(2, 70, 8, seed=1), normal(2, 70, 3, seed=2)
    query.requires_grad_()
    place = 70 - query_len // 2  # so that under a causal mask some queries see it and some do not
    for score in (regard.scores.Dot(), regard.scores.Distance(), regard.scores.Additive()):
        clean = regard.attend(
            query, key, value, score=score, normalizer=name, mask="causal", backend="sparse"
        )
        for bad in (torch.nan, torch.inf):
            if bad == torch.inf and not isinstance(score, regard.scores.Distance):
                continue
            other = key.clone()
            other[:, place] = bad
            found = regard.attend(
                query, other, value, score=score, normalizer=name, mask="causal", backend="sparse"
            )
            before = place - 70 + query_len
            torch.testing.assert_close(found[:, :before], clean[:, :before])
            if bad != bad:
                assert found[:, before:].isnan().all()
            (grad,) = torch.autograd.grad(found[:, :before].sum(), query)
            assert grad[:, :before].isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_infinite_scores_are_what_the_plain_formula_makes_of_them(name: str) -> None:
    scores = normal(4, 20, seed=3)
    scores[1, 3], scores[2, 5:7], scores[3, 2] = torch.inf, torch.inf, -torch.inf
    bias = scores[None]
    quiet = of_rows(torch.zeros(4, 20), 3, normalizer_named(name))
    call = Call(*list(vars(quiet).values())[:6], bias)
    _, expected = call.plain()
    _, found = call.attend(backend="sparse", return_weights=True)
    torch.testing.assert_close(found, expected, equal_nan=True)


def test_a_seen_value_that_is_no_number_is_seen_where_it_has_weight() -> None:
    scores, weights = supports(torch.tensor([3, 5, 9]), 20, 2.0)
    call = of_rows(scores, 2, Sparsemax())
    call.value[0, 4] = torch.nan
    output = call.attend(backend="sparse")
    assert torch.equal(output[0].isnan().any(-1), weights[:, 4] > 0)


@pytest.mark.parametrize("name", ["sparsemax", "entmax-1.3", "top-3", "hardmax"])
def test_any_layout_in_memory_gives_the_same(name: str) -> None:
    def strided(tensor: Tensor) -> Iterator[Tensor]:
        yield tensor
        yield tensor.transpose(1, 2).contiguous().transpose(1, 2)
        yield tensor.mT.contiguous().mT
        yield torch.stack([tensor, tensor], -1).flatten(-2)[..., ::2]

    tensors = normal(2, 4, 9, 6, seed=1), normal(2, 2, 30, 6, seed=2), normal(2, 2, 30, 5, seed=3)
    bias = normal(2, 4, 9, 30, seed=4)
    shown = normal(2, 4, 9, 30, seed=5) > 0
    results = []
    for parts in zip(*map(strided, (*tensors, bias, shown)), strict=True):
        query, key, value, own, mask = parts
        call = Call(query, key, value, regard.scores.ScaledDot(), normalizer_named(name), mask, own)
        leaves = [t.detach().requires_grad_() for t in (query, key, value, own)]
        call = Call(*leaves[:3], call.score, call.normalizer, mask, leaves[3])  # type: ignore[misc]
        results.append(everything(call, call.attend(backend="sparse", return_weights=True)))
        # A gradient may come in any layout, too.
        output = call.attend(backend="sparse")
        for above in strided(normal(*output.shape, seed=6)):
            grads = torch.autograd.grad(output, leaves, above, retain_graph=True)
            results[-1] |= {f"layout {i}": grad for i, grad in enumerate(grads)}
    for other in results[1:]:
        for what, tensor in other.items():
            torch.testing.assert_close(tensor, results[0][what], atol=0, rtol=0)
