"""Fused attention along edges: the numbers of the definition, whatever the graph looks like."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import regard
from regard.attention.backends import BACKENDS
from regard.attention.backends import edges as backend
from regard.attention.call import AttentionCall
from regard.attention.grid import Grid
from regard.attention.kernels import missing
from regard.attention.parts import tensors_of, with_tensors
from regard.attention.scores import Additive, Distance, Dot, LeakyReLU, Linear, ScaledDot, Score

pytestmark = pytest.mark.skipif(bool(missing("cpu")), reason="no compiler for the CPU")

NORMALIZERS = ["softmax", "softmax-2", "sigmoid", "sparsemax", "entmax15", "entmax-1.3", "top-3", "hardmax"]
SIZES = [(4, 2, 8, 11), (1, 1, 33, 16), (3, 3, 8, 4), (17, 17, 2, 8), (2, 2, 16, 16)]
"""Query heads, key heads, their size, that of values: heads that share keys, wide ones, and small ones side by side."""


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def graph(nodes: int, edges: int, seed: int = 0) -> Tensor:
    """Random edges, some of them twice; the last two nodes look at nothing, and at the last three nobody looks."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randint(nodes - less, (edges,), generator=generator) for less in (3, 2)]
    return torch.stack([torch.cat([one, one[:5]]) for one in drawn])


def scores_of(heads: int, size: int) -> dict[str, Score]:
    weight = normal(heads, size, seed=7)
    return {
        "product": ScaledDot(),
        "negative": ScaledDot(-0.7),
        "distance": Distance(),
        "additive": Additive(weight),
        "relu": Additive(weight, activation="relu"),
        "gatv2": Additive(activation="leaky_relu", weight=weight[:1].squeeze(0)),
        "gat": LeakyReLU(Linear(normal(heads, 2 * size, seed=8) / size**0.5)),
        "leaky": LeakyReLU(ScaledDot(-1.0), 0.3),
        "leaky twice": LeakyReLU(LeakyReLU(Additive(weight), 0.3), 0.5),
    }


def both(
    leaves: list[Tensor], score: Score, normalizer: str, mask: Any, bias: Any = None
) -> list[list[Tensor]]:
    """Output, weights along edges and all gradients: of the kernel, and of PyTorch's operations."""
    call = AttentionCall.of(*leaves[:3], score, normalizer, mask, bias)
    assert not backend.unfused(call)
    found = []
    for run in (backend._fused, backend._composed):
        output, weights = run(call)
        output, weights = (
            output.reshape(*leaves[0].shape[:-1], -1),
            weights.reshape(*leaves[0].shape[:-2], -1),
        )
        above = [normal(*t.shape, seed=3, dtype=t.dtype) for t in (output, weights)]
        found.append([output, weights, *torch.autograd.grad([output, weights], leaves, above)])
    return found


def close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        scale = max(other.abs().max().item(), 1.0)
        torch.testing.assert_close(one, other, atol=tolerance * scale, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("sizes", SIZES)
def test_output_weights_and_gradients_are_those_of_the_plain_computation(
    sizes: tuple[int, int, int, int], normalizer: str, dtype: torch.dtype
) -> None:
    heads, key_heads, size, value_size = sizes
    nodes = 30
    mask = regard.masks.edges(graph(nodes, 220))
    for score in scores_of(heads, size).values():
        score = with_tensors(score, [t.to(dtype).requires_grad_() for t in tensors_of(score)])
        shapes = (heads, nodes, size), (key_heads, nodes, size), (key_heads, nodes, value_size)
        leaves = [normal(*s, seed=i, dtype=dtype).requires_grad_() for i, s in enumerate(shapes)]
        leaves += tensors_of(score)
        close(*both(leaves, score, normalizer, mask), 1e-12 if dtype == torch.float64 else 2e-5)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("sizes", SIZES[:3])
def test_masks_and_biases_along_edges(sizes: tuple[int, int, int, int], normalizer: str) -> None:
    heads, key_heads, size, value_size = sizes
    nodes = 30
    mask = regard.masks.edges(graph(nodes, 220)) & (torch.rand(nodes, nodes) > 0.3)
    shapes = (2, heads, nodes, size), (2, key_heads, nodes, size), (2, key_heads, nodes, value_size)
    for shape in ((nodes, nodes), (2, heads, nodes, nodes)):
        bias = normal(*shape, seed=5)
        bias[..., 4] = -torch.inf
        bias.requires_grad_()
        leaves = [normal(*s, seed=i).requires_grad_() for i, s in enumerate(shapes)]
        for score in (ScaledDot(), LeakyReLU(Dot(), 0.3)):
            close(*both([*leaves, bias], score, normalizer, mask, bias), 1e-12)
            close(*both(leaves, score, normalizer, mask), 1e-12)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize(("heads", "size"), [(2, 8), (2, 20)])
def test_a_hub_sees_and_is_seen_by_thousands(heads: int, size: int, normalizer: str) -> None:
    nodes = 3000
    star = torch.stack([torch.arange(nodes), torch.zeros(nodes, dtype=torch.int64)])
    mask = regard.masks.edges(torch.cat([star, star.flip(0)], dim=1))
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        leaves = [normal(heads, nodes, size, seed=i, dtype=dtype).requires_grad_() for i in range(3)]
        for score in (ScaledDot(), Additive(activation="leaky_relu")):
            close(*both(leaves, score, normalizer, mask), tolerance)


def test_queries_without_edges_get_nothing() -> None:
    for size in (8, 20):
        leaves = [normal(2, 10, size, seed=i).requires_grad_() for i in range(3)]
        output = regard.attend(*leaves, mask=regard.masks.edges(torch.tensor([[0, 3, 3], [1, 1, 1]])))
        assert output[:, 1].all()
        assert not torch.cat([output[:, :1], output[:, 2:]], dim=1).any()
        grads = torch.autograd.grad(output.square().sum(), leaves)
        for grad, places in zip(grads, ([1], [0, 3], [0, 3]), strict=True):
            others = [place for place in range(10) if place not in places]
            assert grad[:, places].all()
            assert not grad[:, others].any()


def test_no_edge_at_all() -> None:
    leaves = [normal(2, 10, 8, seed=i).requires_grad_() for i in range(3)]
    output = regard.attend(*leaves, mask=regard.masks.edges(torch.zeros(2, 0, dtype=torch.int64)))
    assert not output.any()
    assert not any(grad.any() for grad in torch.autograd.grad(output.sum(), leaves))


@pytest.mark.parametrize("size", [8, 20])
def test_the_order_and_number_of_times_in_which_edges_are_listed_mean_nothing(size: int) -> None:
    query, key, value = (normal(3, 30, size, seed=i) for i in range(3))
    index = graph(30, 200)
    order = torch.randperm(index.shape[1], generator=torch.Generator().manual_seed(0))
    outputs, weights = [], []
    for one in (index, index[:, order], torch.cat([index, index], dim=1)):
        mask = regard.masks.edges(one)
        outputs.append(regard.attend(query, key, value, mask=mask))
        along = regard.weights(query, key, mask=mask, reduce="edges")
        assert isinstance(along, Tensor)
        weights.append(along[:, mask.places(index)])
    for other in (1, 2):
        assert torch.equal(outputs[0], outputs[other])
        assert torch.equal(weights[0], weights[other])


@pytest.mark.parametrize("normalizer", ["softmax", "sparsemax"])
@pytest.mark.parametrize("size", [8, 20])
def test_weights_along_edges_are_those_of_the_picture_and_have_gradients(size: int, normalizer: str) -> None:
    query, key = (normal(2, 30, size, seed=i).requires_grad_() for i in range(2))
    index = graph(30, 200)
    mask = regard.masks.edges(index)
    along = regard.weights(query, key, normalizer=normalizer, mask=mask, reduce="edges")
    _, picture = regard.attend(query, key, key, normalizer=normalizer, mask=mask, return_weights=True)
    plain = regard.weights(query, key, normalizer=normalizer, mask=mask)
    assert isinstance(along, Tensor)
    torch.testing.assert_close(picture, plain)
    torch.testing.assert_close(along, picture[:, mask.query, mask.key])
    grads = [
        torch.autograd.grad((w * normal(*w.shape, seed=4)).sum(), (query, key))
        for w in (along, picture[:, mask.query, mask.key])
    ]
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("size", [8, 20])
def test_nodes_may_be_renumbered(size: int) -> None:
    nodes = normal(30, 2, size).transpose(0, 1)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    index = graph(30, 200)
    output = regard.attend(nodes, nodes, nodes, score="additive", mask=regard.masks.edges(index))
    moved = nodes[:, order]
    again = regard.attend(
        moved, moved, moved, score="additive", mask=regard.masks.edges(order.argsort()[index])
    )
    torch.testing.assert_close(again, output[:, order])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [8, 20])
def test_what_is_no_number_stays_with_those_who_see_it(size: int, dtype: torch.dtype) -> None:
    index = graph(30, 120)
    mask = regard.masks.edges(index)
    seeing = torch.zeros(30, dtype=torch.bool)
    seeing[index[1][index[0] == 5]] = True
    assert 0 < seeing.sum() < 28
    for normalizer in NORMALIZERS:
        for wrong in (torch.nan, torch.inf):
            nodes = normal(2, 30, size, dtype=dtype)
            query = nodes.clone()
            nodes[:, 5, 0] = wrong
            if wrong == torch.inf:
                query[..., 0] = query[..., 0].abs() + 0.1
            output = regard.attend(query, nodes, nodes, normalizer=normalizer, mask=mask)
            assert output.dtype == dtype
            assert output[:, ~seeing].isfinite().all()
            assert not output[:, seeing].isfinite().all(-1).any()


def test_a_hidden_edge_to_no_number_is_not_looked_along() -> None:
    for size in (8, 20):
        nodes = normal(2, 30, size)
        clean = nodes.clone()
        nodes[:, 5] = torch.nan
        leaves = [nodes.clone().requires_grad_() for _ in range(3)]
        mask = regard.masks.edges(graph(30, 120)) & (torch.arange(30) != 5)
        query = clean.clone().requires_grad_()
        output = regard.attend(query, *leaves[1:], mask=mask)
        torch.testing.assert_close(output, regard.attend(clean, clean, clean, mask=mask))
        grads = torch.autograd.grad(output.sum(), (query, *leaves[1:]))
        assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("normalizer", ["softmax", "entmax15"])
@pytest.mark.parametrize(("heads", "key_heads", "size"), [(2, 2, 8), (2, 1, 5)])
def test_dropout_is_drawn_once_and_has_its_gradient(
    heads: int, key_heads: int, size: int, normalizer: str
) -> None:
    leaves = [
        normal(n, 12, size, seed=i).requires_grad_() for i, n in enumerate((heads, key_heads, key_heads))
    ]
    mask = regard.masks.edges(graph(12, 60))

    def attend(*leaves: Tensor) -> Tensor:
        torch.manual_seed(3)
        return regard.attend(*leaves, normalizer=normalizer, mask=mask, dropout=0.4)

    assert torch.equal(attend(*leaves), attend(*leaves))
    assert not torch.equal(attend(*leaves), regard.attend(*leaves, normalizer=normalizer, mask=mask))
    assert torch.autograd.gradcheck(attend, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(attend, leaves, fast_mode=True)
    many = regard.masks.edges(torch.cartesian_prod(torch.arange(200), torch.arange(200)).T)
    ones = torch.ones(heads, 200, size), torch.ones(key_heads, 200, size), torch.ones(key_heads, 200, size)
    for share in (0.0, 0.4):
        torch.testing.assert_close(
            regard.attend(*ones, mask=many, dropout=share).mean(), torch.tensor(1.0), atol=0.02, rtol=0
        )


@pytest.mark.parametrize("normalizer", ["softmax-2", "sigmoid", "sparsemax", "entmax-1.3", "top-3"])
@pytest.mark.parametrize("name", ["product", "distance", "additive", "gatv2", "gat"])
@pytest.mark.parametrize(("heads", "key_heads", "size"), [(2, 2, 4), (2, 1, 3)])
def test_first_and_second_derivatives(
    heads: int, key_heads: int, size: int, name: str, normalizer: str
) -> None:
    score = scores_of(heads, size)[name]
    leaves = [
        normal(n, 8, size, seed=i).requires_grad_() for i, n in enumerate((heads, key_heads, key_heads))
    ]
    mask = regard.masks.edges(graph(8, 30))

    def run(*leaves: Tensor) -> Any:
        return regard.attend(*leaves, score=score, normalizer=normalizer, mask=mask, return_weights=True)

    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, leaves, fast_mode=True)


@pytest.mark.parametrize("size", [8, 20])
def test_the_number_of_threads_changes_nothing(size: int) -> None:
    leaves = [normal(4, 500, size, seed=i, dtype=torch.float32).requires_grad_() for i in range(3)]
    mask, found = regard.masks.edges(graph(500, 4000)), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            output = regard.attend(*leaves, score="additive", normalizer="entmax15", mask=mask)
            found.append([output, *torch.autograd.grad(output.square().sum(), leaves)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("size", [8, 20])
def test_layout_in_memory_does_not_matter(size: int) -> None:
    mask = regard.masks.edges(graph(30, 200))
    tensors = [normal(30, 2, size, seed=i).transpose(0, 1) for i in range(2)]
    tensors.append(normal(size, 30, 2, seed=2).permute(2, 1, 0))
    tidy = [t.contiguous() for t in tensors]
    found = regard.attend(*tensors, mask=mask), regard.attend(*tidy, mask=mask)
    assert torch.equal(*found)


@pytest.mark.parametrize("size", [8, 20])
def test_the_operators_are_what_pytorch_expects(size: int) -> None:
    query, key, value = (normal(1, 2, 30, size, seed=i).requires_grad_() for i in range(3))
    lists = regard.masks.edges(graph(30, 200)).lists(Grid(30, 30, 4, torch.device("cpu")), also_by_key=True)
    weight = normal(2, size, seed=4).requires_grad_()
    bias = normal(1, 1, len(lists.keys), seed=5).requires_grad_()
    for net, along, score in ((None, None, "product"), (weight, bias, "additive")):
        settings = (score, 0.5, 1.0, "softmax", 1.0, 0.0, 0)
        arguments = (query, key, value, net, *lists, None, along, *settings)
        torch.library.opcheck(torch.ops.regard.edge_attention.default, arguments)
    settings = ("product", 0.5, 1.0, "softmax", 1.0, 0.0, 0)
    shown = torch.ones(1, 1, len(lists.keys), dtype=torch.bool)
    crossed = normal(1, size, 30, 2, seed=6).permute(0, 3, 2, 1).requires_grad_()
    for mask in (None, shown):
        arguments = (query, crossed, crossed, None, *lists, mask, None, *settings)
        torch.library.opcheck(torch.ops.regard.edge_attention.default, arguments)
    # By key the edges are listed again where nobody has.
    short = (query, key, value, None, *lists[:2], *[None] * 5, *settings)
    whole = (query, key, value, None, *lists, *short[9:])
    grads = [
        torch.autograd.grad(torch.ops.regard.edge_attention(*one)[0].sum(), (query, key, value))
        for one in (short, whole)
    ]
    assert all(torch.equal(one, other) for one, other in zip(*grads, strict=True))


def test_the_operators_refuse_what_the_kernels_would_misread() -> None:
    query, key, value = (normal(1, 2, 30, 8, seed=i) for i in range(3))
    lists = regard.masks.edges(graph(30, 200)).lists(Grid(30, 30, 4, torch.device("cpu")), also_by_key=True)
    mask = torch.ones(1, 1, len(lists.keys), dtype=torch.bool)
    right = [query, key, value, None, *lists, mask, mask.double()]
    settings = ("product", 0.5, 1.0, "softmax", 1.0, 0.0, 0)
    torch.ops.regard.edge_attention(*right, *settings)
    for place, wrong, why in (
        (0, query.half(), "one type"),
        (1, key[..., :4], "must fit query"),
        (2, value[:, :, :20], "must be \\(batch, heads, length, size\\)"),
        (3, normal(3, 8), "weight must be"),
        (4, lists.starts[1:], "starts must be 31"),
        (5, lists.keys.long(), "keys must be .* torch.int32"),
        (9, mask[..., 1:], "mask must say something of"),
        (9, mask.double(), "mask must be boolean"),
        (10, normal(2, 1, len(lists.keys)), "bias must be"),
    ):
        with pytest.raises(ValueError, match=why):
            torch.ops.regard.edge_attention(*right[:place], wrong, *right[place + 1 :], *settings)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("size", [8, 20])
def test_scores_that_overflow_are_hidden_and_have_no_gradient(size: int, normalizer: str) -> None:
    mask = regard.masks.edges(graph(30, 120))
    query, key, value = (normal(2, 30, size, seed=i, dtype=torch.float32) for i in range(3))
    query[:, 3:6] = 1e20
    leaves = [t.requires_grad_() for t in (query, key, value)]
    output = regard.attend(*leaves, score="distance", normalizer=normalizer, mask=mask, backend="edges")
    assert not output[:, 3:6].any()
    for grad in torch.autograd.grad(output.square().sum(), leaves):
        assert grad.isfinite().all()
        assert grad[:, 6:].any() or normalizer == "hardmax"


def test_a_call_that_no_kernel_can_run_says_why_and_is_computed_all_the_same() -> None:
    nodes = normal(2, 30, 8)
    mask = regard.masks.edges(graph(30, 200))
    for score, normalizer, why in (
        ("dot+softcap-2", "softmax", "no kernel for the score 'dot+softcap-2'"),
        ("dot", "top_p", "no kernel for the normalizer 'top_p-0.9'"),
        ("dot", "entmax-1.05", "wants an alpha from 1.15 to 2"),
    ):
        call = AttentionCall.of(nodes, nodes, nodes, score, normalizer, mask)
        assert why.split("-")[0] in "; ".join(backend.unfused(call))
        assert not backend.unsupported(call)
        torch.testing.assert_close(
            regard.attend(
                nodes, nodes, nodes, score=score, normalizer=normalizer, mask=mask, backend="edges"
            ),
            regard.attend(
                nodes, nodes, nodes, score=score, normalizer=normalizer, mask=mask, backend="blockwise"
            ),
        )


def test_other_backends_do_not_take_scores_that_they_do_not_know() -> None:
    nodes = normal(2, 30, 8)
    for score in (Additive(activation="relu"), LeakyReLU(Dot())):
        call = AttentionCall.of(nodes, nodes, nodes, score, "sparsemax")
        for name in ("sdpa", "sparse", "additive"):
            assert BACKENDS[name].unsupported(call)
