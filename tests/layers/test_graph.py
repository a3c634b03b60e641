"""Graph attention is the papers' formula along edges, in memory that grows with their number."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import leaky_relu
from torch.utils._python_dispatch import TorchDispatchMode

from regard.layers import GraphAttention

INDEX = torch.tensor([[0, 1, 2, 3, 1, 0, 4], [1, 2, 2, 1, 3, 3, 3]])


def made(kind: str, **more) -> GraphAttention:
    torch.manual_seed(0)
    layer = GraphAttention(3, 4, heads=2, kind=kind, **more).double()
    with torch.no_grad():
        layer.bias.normal_()
    return layer


def naive(layer: GraphAttention, nodes: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Node by node and head by head, from the formulas."""
    pairs = set(zip(*index.tolist(), strict=True))
    if layer.self_loops:
        pairs |= {(i, i) for i in range(len(nodes))}
    rows = []
    for i in range(len(nodes)):
        heads = []
        for h in range(2):
            source = layer.source.weight[4 * h : 4 * h + 4]
            target = source if layer.kind == "gat" else layer.target.weight[4 * h : 4 * h + 4]
            neighbours = sorted(j for j, k in pairs if k == i)
            scores = []
            for j in neighbours:
                if layer.kind == "gat":
                    both = torch.cat([target @ nodes[i], source @ nodes[j]])
                    scores.append(leaky_relu(layer.score().score.weight[h] @ both, 0.2))
                else:
                    hidden = leaky_relu(target @ nodes[i] + source @ nodes[j], 0.2)
                    scores.append(layer.score().weight[h] @ hidden)
            total = torch.zeros(4, dtype=nodes.dtype)
            if neighbours:
                weights = torch.softmax(torch.stack(scores), 0)
                total = sum(w * (source @ nodes[j]) for w, j in zip(weights, neighbours, strict=True))
            heads.append(total)
        rows.append(torch.cat(heads) if layer.concat else torch.stack(heads).mean(0))
    return torch.stack(rows) + layer.bias


@pytest.mark.parametrize("concat", [True, False])
@pytest.mark.parametrize("self_loops", [True, False])
@pytest.mark.parametrize("kind", ["gat", "gatv2"])
def test_it_is_the_formula_of_the_papers(kind: str, self_loops: bool, concat: bool) -> None:
    layer = made(kind, self_loops=self_loops, concat=concat)
    nodes = torch.randn(5, 3).double()
    output, _ = layer(nodes, INDEX)
    torch.testing.assert_close(output, naive(layer, nodes, INDEX))
    found, expected = (
        torch.autograd.grad(result.square().sum(), list(layer.parameters()))
        for result in (output, naive(layer, nodes, INDEX))
    )
    torch.testing.assert_close(found, expected)
    assert ("target.weight" in layer.state_dict()) == (kind == "gatv2")
    if not self_loops:
        torch.testing.assert_close(output[0], layer.bias, rtol=0, atol=0)  # no edge leads to node 0


@pytest.mark.parametrize("kind", ["gat", "gatv2"])
def test_only_edges_carry_anything(kind: str) -> None:
    layer = made(kind)
    nodes = torch.randn(5, 3).double()
    output, weights = layer(nodes, INDEX, return_weights=True)
    assert weights.shape == (2, INDEX.shape[1] + 5)  # of the edges as listed, then of the self-loops
    assert torch.equal(
        weights[:, 2], weights[:, 9]
    )  # node 2 sees itself by an edge, too, and once all the same
    once = torch.arange(12) != 9
    sources, targets = torch.cat([INDEX, torch.arange(5).expand(2, -1)], dim=1)[:, once]
    carried = layer.source(nodes).unflatten(-1, (2, 4))[sources] * weights[:, once].T.unsqueeze(-1)
    summed = torch.zeros(5, 2, 4, dtype=nodes.dtype).index_add_(0, targets, carried)
    torch.testing.assert_close(summed.flatten(1) + layer.bias, output)
    changed = nodes.clone()
    changed[4] += 1.0
    again, _ = layer(changed, INDEX)
    assert (again != output).any(1).tolist() == [False, False, False, True, True]


def test_the_numbers_of_the_nodes_mean_nothing() -> None:
    layer = made("gatv2")
    nodes, order = torch.randn(5, 3).double(), torch.tensor([3, 0, 4, 1, 2])
    place = order.argsort()
    output, _ = layer(nodes, INDEX)
    renumbered, _ = layer(nodes[order], place[INDEX][:, torch.randperm(INDEX.shape[1])])
    torch.testing.assert_close(renumbered, output[order])


def test_gat_ranks_neighbours_alike_for_all_and_gatv2_does_not() -> None:
    """Brody et al. 2022, theorem 1: GAT's attention is static."""
    torch.manual_seed(0)
    nodes = torch.randn(12, 3).double()
    index = torch.cartesian_prod(torch.arange(12), torch.arange(12)).T
    best = {}
    for kind in ("gat", "gatv2"):
        layer = made(kind, self_loops=False)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.normal_()
        _, weights = layer(nodes, index, return_weights=True)
        pairs = torch.zeros(2, 12, 12).double()
        pairs[:, index[1], index[0]] = weights
        best[kind] = [len(head.argmax(-1).unique()) for head in pairs]
    assert best["gat"] == [1, 1]
    assert max(best["gatv2"]) > 1


@pytest.mark.parametrize("kind", ["gat", "gatv2"])
def test_memory_grows_with_the_edges_not_with_the_pairs_of_nodes(kind: str) -> None:
    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            found = func(*args, **(kwargs or {}))
            for one in found if isinstance(found, tuple | list) else [found]:
                if isinstance(one, torch.Tensor):
                    Largest.numbers = max(Largest.numbers, one.untyped_storage().nbytes() // 4)
            return found

    torch.manual_seed(0)
    count, edges = 20_000, 60_000
    layer = GraphAttention(4, 4, heads=2, kind=kind)
    nodes, index = torch.randn(count, 4), torch.randint(count, (2, edges))
    with Largest():
        layer(nodes, index)[0].sum().backward()
    assert Largest.numbers < 4 * 2 * 4 * (edges + count)  # of all pairs there are 400 million
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_dropout_is_for_training_only() -> None:
    layer = made("gat", dropout=0.5)
    nodes = torch.randn(5, 3).double()
    assert not torch.equal(layer(nodes, INDEX)[0], layer(nodes, INDEX)[0])
    layer.eval()
    assert torch.equal(layer(nodes, INDEX)[0], layer(nodes, INDEX)[0])


def test_bad_arguments_are_named() -> None:
    layer = made("gat")
    nodes = torch.randn(5, 3).double()
    with pytest.raises(ValueError, match=r"nodes must be \(nodes, 3\), it has shape \(5, 4\)"):
        layer(torch.randn(5, 4), INDEX)
    with pytest.raises(ValueError, match=r"index must be \(2, edges\), it has shape \(7, 2\)"):
        layer(nodes, INDEX.T)
    with pytest.raises(TypeError, match=r"index must be a tensor of whole numbers, it is torch.float32"):
        layer(nodes, INDEX.float())
    with pytest.raises(ValueError, match="one has 7"):
        layer(nodes, torch.tensor([[7], [0]]))
    with pytest.raises(ValueError, match="kind must be one of gat, gatv2, it is 'gcn'"):
        GraphAttention(3, 4, kind="gcn")
