"""Every backend x score x normaliser x mask x bias x dtype x derivative against the definition.

`python -m pytest tests/attention/test_conformance.py --conformance-table docs/conformance.md` also writes down what
each backend ran, and how far from the definition its worst result was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.attention import cases
from tests.attention.cases import BIAS_NAMES, MASK_NAMES, NORMALIZER_NAMES, SCORE_NAMES, Case
from torch import Tensor

import regard
from regard.attention.backends import BACKENDS, blockwise, sdpa
from regard.attention.call import AttentionCall
from regard.attention.kernels import missing

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SMOOTH = [name for name in NORMALIZER_NAMES if name not in ("hardmax", "monotonic_hard")]
# Above alpha = 2 the gradient has no bound where a weight comes to be zero: no finite difference is near it.
DIFFERENCES = [name for name in SMOOTH if name != "entmax-3"]
# What the fused kernels of the CPU know, if there is a compiler for them.
COMPILER = not missing("cpu")
SPARSE = {"sparsemax", "entmax15", "entmax", "entmax-1.2", "hardmax", "top", "top-3"}
ADDITIVE = {"additive", "concat", "location_sensitive"}
UNFUSED = {"function", "dot+softcap-2", "linear+leaky"}
# Where scores are next to equal, rounding decides which keys these keep.
STEPS = {"hardmax", "top", "top-3", "top_p", "threshold", "monotonic_hard"}

Record = Callable[..., None]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks so small that every call is cut into several."""
    monkeypatch.setattr(blockwise, "BLOCK_BYTES", 1500)


def impossible(case: Case) -> bool:
    """Whether a document would hand weights on to the next."""
    return case.normalizer.coupled and isinstance(case.mask, regard.masks.Documents)


def supporting(case: Case) -> list[str]:
    """The backends that can run a case."""
    return [name for name, one in BACKENDS.items() if not one.unsupported(case.call)]


def check(case: Case, record: Record, **kinds: str) -> list[str]:
    """Output and weights on every backend that supports the case; those backends."""
    output, weights = case.expected()
    ran = supporting(case)
    for backend in ran:
        found, found_weights = case.attend(return_weights=True, backend=backend)
        error = max(
            np.abs(found.numpy() - output).max(initial=0),
            np.abs(found_weights.numpy() - weights).max(initial=0),
        )
        assert error <= 1e-10, (backend, error)
        assert torch.equal(case.attend(backend=backend), found), "asking for weights changed the output"
        record(backend=backend, error=error, **kinds)
    assert "blockwise" in ran
    return ran


@pytest.mark.parametrize("mask", MASK_NAMES)
@pytest.mark.parametrize("normalizer", NORMALIZER_NAMES)
@pytest.mark.parametrize("score", SCORE_NAMES)
def test_every_backend_agrees_with_the_definition(
    score: str, normalizer: str, mask: str, record: Record
) -> None:
    case = cases.case(score, normalizer, mask)
    if impossible(case):
        with pytest.raises(ValueError, match="hands its weights on"):
            case.attend()
        return
    ran = check(case, record, score=score, normalizer=normalizer, mask=mask)
    assert ("sdpa" in ran) == (case.score.product and normalizer == "softmax")
    coupled = case.normalizer.coupled
    assert ("edges" in ran) == (mask in ("edges", "causal edges") and not coupled)
    assert ("packed" in ran) == (mask in ("documents", "causal documents") and not coupled)
    assert ("sparse" in ran) == (COMPILER and normalizer in SPARSE and score not in UNFUSED)
    smooth = case.normalizer.kernel is not None and case.normalizer.kernel[0] in ("softmax", "sigmoid")
    assert ("dense" in ran) == (COMPILER and smooth and score not in UNFUSED)
    assert ("additive" in ran) == (COMPILER and score in ADDITIVE)


@pytest.mark.parametrize("bias", BIAS_NAMES[1:])
@pytest.mark.parametrize("mask", ["none", "blind rows", "edges"])
@pytest.mark.parametrize("normalizer", ["softmax", "sparsemax", "sink", "monotonic"])
@pytest.mark.parametrize("score", ["scaled_dot", "additive"])
def test_biases_are_added_on_every_backend(
    score: str, normalizer: str, mask: str, bias: str, record: Record
) -> None:
    check(cases.case(score, normalizer, mask, bias), record, bias=bias)


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("normalizer", SMOOTH)
@pytest.mark.parametrize("score", SCORE_NAMES)
def test_error_is_at_most_twice_the_plain_computation_in_the_same_dtype(
    score: str, normalizer: str, dtype: str, record: Record
) -> None:
    """The rule of docs/design.md: twice the error of the plain composition, plus rounding of the output."""
    kind = DTYPES[dtype]
    case = cases.case(score, normalizer)
    case = case.with_leaves(tuple(leaf.to(kind) for leaf in case.leaves))
    exact, _ = case.expected()
    query, key = case.score.prepare(case.query, case.key)
    key = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3)
    scores = case.score.compare(query, key)
    value = case.value.repeat_interleave(query.shape[-3] // case.value.shape[-3], dim=-3)
    plain = (case.normalizer.weigh(scores).to(kind) @ value).double().numpy()
    worst = np.abs(plain - exact).max()
    for backend in supporting(case):
        found = case.attend(backend=backend)
        assert found.dtype == kind
        error = np.abs(found.double().numpy() - exact).max()
        assert error <= 2 * worst + torch.finfo(kind).eps * np.abs(exact).max(), backend
        record(backend=backend, dtype=dtype, error=error, plain=worst)


def small(score: str, normalizer: str, mask: str, bias: str = "none") -> Case:
    """A case for derivatives, of one batch and two heads."""
    case = cases.case(score, normalizer, mask, bias)
    if mask == "blind rows":
        case.mask = case.mask[:1]
    leaves = [case.query[:1], case.key[:1], case.value[:1], *case.leaves[3:]]
    case = case.with_leaves(tuple(leaves))
    if score == "location_sensitive":
        rest = [case.leaves[3][:1], *case.leaves[4:]]
        case = case.with_leaves((*case.leaves[:3], *rest))
    return case


@pytest.mark.parametrize(
    ("score", "mask"),
    [
        *((score, "none") for score in SCORE_NAMES),
        *((s, m) for s in ("scaled_dot", "additive") for m in ("blind rows", "edges", "causal documents")),
    ],
)
@pytest.mark.parametrize("normalizer", DIFFERENCES)
def test_first_second_and_forward_derivatives(score: str, normalizer: str, mask: str, record: Record) -> None:
    case = small(score, normalizer, mask)
    if not impossible(case):
        check_derivatives(case, record)


@pytest.mark.parametrize("bias", BIAS_NAMES[1:])
@pytest.mark.parametrize("mask", ["none", "edges"])
@pytest.mark.parametrize(
    ("score", "normalizer"), [("scaled_dot", "softmax"), ("scaled_dot", "sparsemax"), ("additive", "softmax")]
)
def test_derivatives_of_biases(score: str, normalizer: str, mask: str, bias: str, record: Record) -> None:
    check_derivatives(small(score, normalizer, mask, bias), record)


def check_derivatives(case: Case, record: Record) -> None:
    leaves = [leaf.clone().requires_grad_() for leaf in case.leaves]

    def run(backend: str | None, with_weights: bool) -> Callable[..., Any]:
        return lambda *leaves: case.with_leaves(leaves).attend(backend=backend, return_weights=with_weights)

    ran = [
        name for name, one in BACKENDS.items() if not one.unsupported(case.with_leaves(tuple(leaves)).call)
    ]
    for backend in ran:
        function = run(backend, True)
        assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)
        record(backend=backend, derivative="first", error=directional_error(function, leaves))
    # Forward mode against reverse mode: u . (J v) = (J' u) . v
    points = tuple(leaf.detach() for leaf in leaves)
    tangents = tuple(cases.normal(*t.shape, seed=i) for i, t in enumerate(points))
    _, forward = torch.func.jvp(run(None, False), points, tangents)
    output = run("blockwise", False)(*leaves)
    grad = cases.normal(*output.shape, seed=1)
    grads = torch.autograd.grad(output, leaves, grad, allow_unused=True)
    reverse = sum(float((g * d).sum()) for g, d in zip(grads, tangents, strict=True) if g is not None)
    error = abs(float((forward * grad).sum()) - reverse)
    assert error <= 1e-9 * max(abs(reverse), 1.0)
    record(backend="blockwise", derivative="forward-mode", error=error)


def directional_error(function: Callable[..., Any], leaves: list[Tensor]) -> float:
    """How far the gradient is from central differences in one direction."""
    output = function(*leaves)[0]
    grad = cases.normal(*output.shape, seed=1)
    grads = torch.autograd.grad(output, leaves, grad, allow_unused=True)
    directions = [cases.normal(*t.shape, seed=i) for i, t in enumerate(leaves)]
    slope = sum(float((g * d).sum()) for g, d in zip(grads, directions, strict=True) if g is not None)
    with torch.no_grad():
        ahead, behind = (
            function(*(t + step * d for t, d in zip(leaves, directions, strict=True)))[0]
            for step in (1e-6, -1e-6)
        )
    return abs(slope - float(((ahead - behind) / 2e-6 * grad).sum()))


def test_minus_infinity_is_a_deleted_column() -> None:
    for score in ("dot", "additive"):
        for normalizer in SMOOTH:
            case = cases.case(score, normalizer)
            bias = torch.zeros(cases.KEY_LEN, dtype=torch.float64)
            bias[2:4] = -torch.inf
            leaves = [t.clone().requires_grad_() for t in (case.query, case.key, case.value)]
            for backend in supporting(case):
                settings = {"score": case.score, "normalizer": case.normalizer, "backend": backend}
                hidden = regard.attend(*leaves, bias=bias, **settings)
                deleted = regard.attend(leaves[0], *(t[..., bias == 0, :] for t in leaves[1:]), **settings)
                torch.testing.assert_close(hidden, deleted, atol=1e-10, rtol=1e-10)
                for one, two in zip(
                    torch.autograd.grad(hidden.sum(), leaves),
                    torch.autograd.grad(deleted.sum(), leaves),
                    strict=True,
                ):
                    torch.testing.assert_close(one, two, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("mask", ["blind rows", "everything hidden", "edges"])
@pytest.mark.parametrize("normalizer", SMOOTH)
def test_blind_queries_give_zero_output_weights_and_gradients(normalizer: str, mask: str) -> None:
    case = cases.case("scaled_dot", normalizer, mask)
    shown = case.mask if isinstance(case.mask, Tensor) else case.mask.picture(cases.QUERY_LEN, cases.KEY_LEN)
    blind = ~shown.any(-1).expand(cases.BATCH, cases.QUERY_HEADS, cases.QUERY_LEN)
    assert blind.any()
    for backend in supporting(case):
        leaves = tuple(t.clone().requires_grad_() for t in case.leaves)
        output, weights = case.with_leaves(leaves).attend(backend=backend, return_weights=True)
        assert not output[blind].any()
        assert not weights[blind].any()
        grads = torch.autograd.grad(output.square().sum() + weights.square().sum(), leaves, allow_unused=True)
        assert all(g is None or g.isfinite().all() for g in grads)
        assert not grads[0][blind].any()


@pytest.mark.parametrize("score", ["scaled_dot", "additive", "distance"])
@pytest.mark.parametrize("normalizer", [n for n in NORMALIZER_NAMES if "monotonic" not in n])
def test_permuting_keys_permutes_weights(score: str, normalizer: str) -> None:
    case = cases.case(score, normalizer)
    order = torch.randperm(cases.KEY_LEN, generator=torch.Generator().manual_seed(0))
    output, weights = case.attend(return_weights=True)
    case.key, case.value = case.key[..., order, :], case.value[..., order, :]
    shuffled, moved = case.attend(return_weights=True)
    torch.testing.assert_close(moved, weights[..., order], atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(shuffled, output, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("normalizer", NORMALIZER_NAMES)
def test_changing_a_hidden_key_changes_nothing(normalizer: str) -> None:
    case = cases.case("scaled_dot", normalizer)
    lengths = torch.tensor([3, 6])
    case.mask = regard.masks.padding(lengths)
    outputs = []
    for junk in (0.0, 1e6):
        for row, length in enumerate(lengths):
            case.key[row, :, length:], case.value[row, :, length:] = junk, junk
        outputs.append(case.attend())
    assert torch.equal(*outputs)


def test_no_document_sees_another_on_any_backend() -> None:
    for normalizer in NORMALIZER_NAMES:
        case = cases.case("scaled_dot", normalizer, "documents")
        if impossible(case):
            continue
        for backend in supporting(case):
            before = case.attend(backend=backend)
            key, value = case.key.clone(), case.value.clone()
            key[..., 3:, :], value[..., 3:, :] = 1e3, 1e3
            after = regard.attend(case.query, key, value, backend=backend, **case.settings)
            torch.testing.assert_close(before[..., :2, :], after[..., :2, :], atol=0, rtol=0)
            assert not torch.equal(before[..., 2:, :], after[..., 2:, :])


@pytest.mark.parametrize("scale", [-3.0, -1.0, 0.0, 1.0])
@pytest.mark.parametrize("mask", ["causal", "none", "padding"])
def test_any_scale_of_a_product_may_be_fused(mask: str, scale: float) -> None:
    for score in (regard.scores.ScaledDot(scale), regard.scores.Cosine(scale)):
        case = cases.case(mask=mask)
        case.query, case.score = case.query.repeat(1, 1, 4, 1), score
        case.key, case.value = (
            case.key.repeat(1, 1, 4, 1)[:, :, :20],
            case.value.repeat(1, 1, 4, 1)[:, :, :20],
        )
        expected = case.attend(backend="blockwise", return_weights=True)
        for one, other in zip(case.attend(backend="sdpa", return_weights=True), expected, strict=True):
            torch.testing.assert_close(one, other)


def test_tensors_of_a_part_are_computed_in_the_precision_of_the_call() -> None:
    query, key = torch.randn(1, 4, 8).half(), torch.randn(1, 4000, 8).half()
    normalizer = regard.normalizers.Local(torch.tensor([3001.0]).half(), 1.5)
    _, weights = regard.attend(query, key, key, normalizer=normalizer, return_weights=True)
    assert torch.equal(regard.weights(query, key, normalizer=normalizer), weights)


@pytest.mark.parametrize("shape", [(0, 5, 8), (2, 0, 5, 8), (0, 2, 5, 8), (2, 5, 0)])
def test_nothing_at_all_has_an_empty_output(shape: tuple[int, ...]) -> None:
    query = torch.randn(shape, requires_grad=True)
    for normalizer in ("softmax", "sparsemax"):
        for mask in (None, "causal"):
            output = regard.attend(query, query, query, normalizer=normalizer, mask=mask)
            assert isinstance(output, Tensor)
            assert output.shape == shape
            output.sum().backward()


def test_a_score_may_prepare_queries_and_keys_of_another_size() -> None:
    class Half(regard.scores.ScaledDot):
        def prepare(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
            return query[..., :2], key[..., :2]

    case = cases.case()
    case.score = Half()
    output, weights = case.attend(backend="sdpa", return_weights=True)
    expected, expected_weights = case.attend(backend="blockwise", return_weights=True)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(weights, expected_weights)


def test_masks_of_five_axes_are_not_written_out_for_every_head() -> None:
    numbers = torch.randint(0, 3, (3, 2, 6))
    query = torch.randn(3, 2, 4, 6, 8, dtype=torch.float64)
    mask = regard.masks.segments(numbers)
    shown = mask.block(slice(0, 6), slice(0, 6), AttentionCall.of(query, query, query).grid)
    for one in (mask, shown, shown[:, :1], torch.rand(3, 1, 4, 6, 6) > 0.5):
        call = AttentionCall.of(query, query, query, mask=one)
        written, _ = sdpa._mask_and_flag(call)
        assert written is not None
        assert written.ndim == 4
        if one is mask:
            assert written.numel() == sdpa._written_size(call)
        torch.testing.assert_close(
            regard.attend(query, query, query, mask=one, backend="sdpa"),
            regard.attend(query, query, query, mask=one, backend="blockwise"),
        )


def test_top_k_equals_a_full_sort_and_prefers_the_first_of_equals() -> None:
    scores = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0], [3.0, 3.0, 3.0, 3.0, 3.0]])
    weights = regard.normalizers.TopK(2).weigh(scores)
    assert weights.tolist() == [[0.0, 0.5, 0.5, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize("length", [4, 40])
@pytest.mark.parametrize("mask", ["none", "all"])
def test_nan_stays_in_its_row(mask: str, length: int) -> None:
    query, key = torch.randn(2, 3, length, 8), torch.randn(2, 3, length, 8)
    query[0, 1, 2] = torch.nan
    # Every query sees every key, in each of the ways that have a backend of their own.
    everything = torch.ones(length, length, dtype=torch.bool)
    shown: list[Any] = [None, everything]
    if mask == "all":
        shown = [
            regard.masks.edges(everything.nonzero().T),
            regard.masks.documents(torch.tensor([0, length])),
        ]
    for one in shown:
        for normalizer in NORMALIZER_NAMES:
            case = Case(query, key, key, regard.scores.ScaledDot(), cases.normalizer_of(normalizer, 3), one)
            if case.normalizer.coupled:  # NaN is handed on with the weights
                continue
            for backend in supporting(case):
                found = case.attend(backend=backend)
                assert found[0, 1, 2].isnan().all(), (backend, normalizer)
                found[0, 1, 2] = 0
                assert found.isfinite().all(), (backend, normalizer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("length", [3, 40])
def test_scores_without_bounds_give_what_the_definition_says(length: int, dtype: torch.dtype) -> None:
    """Huge, denormal and infinite scores: the same on every backend, and what is finite stays so."""
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 2, length, 8, generator=generator).to(dtype) for _ in range(2))
    for scale in (1e4, 1e-40, 0.0):
        for normalizer in NORMALIZER_NAMES:
            case = Case(query * scale, key, key, regard.scores.Dot(), cases.normalizer_of(normalizer, 2))
            exact, _ = case.expected()
            for backend in supporting(case):
                found = case.attend(backend=backend).double().numpy()
                assert np.isfinite(found).all(), (backend, normalizer, scale)
                if scale < 1 and normalizer not in STEPS:
                    rounding = 4 * torch.finfo(dtype).eps * np.abs(exact).max()
                    assert np.abs(found - exact).max() <= rounding + torch.finfo(dtype).smallest_normal
    bias = torch.zeros(length, length, dtype=dtype)
    bias[1, 0], bias[2, 1] = torch.inf, torch.nan
    plain = torch.softmax(query.float() @ key.float().transpose(-1, -2) + bias.float(), -1) @ key.float()
    for backend in ("sdpa", "blockwise"):
        found = regard.attend(query, key, key, score="dot", bias=bias, backend=backend)
        assert found[:, :, 1:3].isnan().all(), backend
        others = [row for row in range(length) if row not in (1, 2)]
        torch.testing.assert_close(
            found[:, :, others].float(), plain[:, :, others], atol=0.05 if dtype == torch.bfloat16 else 1e-5, rtol=0.02
        )  # fmt: skip


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (1, 1)])
@pytest.mark.parametrize("score", [name for name in SCORE_NAMES if name != "location_sensitive"])
def test_lengths_of_zero_and_one(score: str, shape: tuple[int, int]) -> None:
    query = torch.randn(2, 4, shape[0], 6, requires_grad=True, dtype=torch.float64)
    key = torch.randn(2, 4, shape[1], 6, requires_grad=True, dtype=torch.float64)
    shown = [
        None,
        regard.masks.causal(),
        regard.masks.padding(torch.tensor([0, shape[1]])),
        regard.masks.documents(torch.tensor([0, shape[0]]), torch.tensor([0, shape[1]])),
        regard.masks.edges(torch.zeros(2, 0, dtype=torch.int64)),
    ]
    for normalizer in NORMALIZER_NAMES:
        for mask in shown:
            case = Case(query, key, key, cases.score_of(score), cases.normalizer_of(normalizer), mask)
            if impossible(case):
                continue
            for backend in supporting(case):
                output, weights = case.attend(return_weights=True, backend=backend)
                assert output.shape == query.shape
                assert weights.shape == (2, 4, *shape)
                assert output.isfinite().all()
                output.sum().backward()


@pytest.mark.parametrize("axes", [2, 3, 4, 5])
def test_any_number_of_leading_axes(axes: int) -> None:
    leading = (2, 3, 2)[: axes - 2]
    query, key = torch.randn(*leading, 4, 8), torch.randn(*leading, 6, 8)
    offsets, key_offsets = torch.tensor([0, 1, 4]), torch.tensor([0, 3, 6])
    for mask in (
        regard.masks.causal(),
        regard.masks.edges(torch.tensor([[5, 0, 2, 2], [0, 0, 1, 3]])),
        regard.masks.documents(offsets, key_offsets),
    ):
        whole = regard.attend(query, key, key, mask=mask)
        for place in np.ndindex(*leading):
            one = regard.attend(query[place], key[place], key[place], mask=mask, backend="blockwise")
            torch.testing.assert_close(whole[place], one)


def test_layout_in_memory_does_not_matter() -> None:
    base = torch.randn(2, 5, 3, 8)
    query = base.transpose(1, 2)
    reversed_key = torch.randn(8, 6, 3, 2).permute(3, 2, 1, 0)
    tidy = [t.contiguous() for t in (query, reversed_key, reversed_key)]
    for score, normalizer in (("scaled_dot", "softmax"), ("distance", "sparsemax"), ("additive", "softmax")):
        settings = {"score": score, "normalizer": normalizer}
        call = AttentionCall.of(query, reversed_key, reversed_key, **settings)
        for backend in (name for name, one in BACKENDS.items() if not one.unsupported(call)):
            found = regard.attend(query, reversed_key, reversed_key, backend=backend, **settings)
            torch.testing.assert_close(found, regard.attend(*tidy, backend=backend, **settings))
