"""Attention of the nodes of a graph over their neighbours."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from regard.attention.masks import edges
from regard.attention.numbers import check_whole_tensor
from regard.attention.operator import attend, weights
from regard.attention.scores import Additive, LeakyReLU, Linear, Score
from regard.layers.checks import check_sequence, check_share, check_sizes
from regard.layers.learned import LearnedPart, uniform

__all__ = ["GraphAttention"]


class GraphAttention(nn.Module):
    r"""Every node sums up the nodes from which an edge leads to it.

    $$o_i^h = \sum_{j \to i} w^h_{ij} W^h x_j, \qquad w^h_i = \mathrm{softmax}_j(e^h_{ij})$$

    `kind` is the score. `"gat"` compares the projected nodes, so that all nodes rank their neighbours alike;
    `"gatv2"`, with a second projection $W'$ for the node that looks, lets each have its own order:

    $$e_{ij} = \mathrm{LeakyReLU}(a^\top [W x_i; W x_j]), \qquad
    e_{ij} = a^\top \mathrm{LeakyReLU}(W' x_i + W x_j)$$

    The heads' outputs stand side by side, or with `concat=False` their mean, plus a bias. With `self_loops` every node
    sees itself, too; without them, a node that no edge leads to gets the bias alone. `dropout` is the share of weights
    set to zero in training. Memory and time grow with the number of edges, not of pairs of nodes.

    *Shape:* nodes `(nodes, in_size)`, index `(2, edges)` -> `(nodes, heads * out_size)`, or `(nodes, out_size)` with
    `concat=False`. A batch of graphs is one graph, with nodes counted on.

    Raises `ValueError` for sizes below 1 and for a kind that does not exist.

    Example:
        >>> import torch
        >>> layer = GraphAttention(4, 8, heads=2, kind="gatv2")
        >>> index = torch.tensor([[0, 1, 2], [1, 2, 2]])  # from 0 to 1, from 1 to 2, from 2 to itself
        >>> output, _ = layer(torch.randn(3, 4), index)
        >>> output.shape
        torch.Size([3, 16])

    Velickovic et al. 2018 (GAT), section 2.1; Brody et al. 2022 (GATv2), section 3, equation 7. PyTorch Geometric's
    `GATConv` and `GATv2Conv` have the same index and the same slope of 0.2; there an edge that is listed twice counts
    twice, edges may have features, and `GATv2Conv` has a bias on either projection, too.
    """

    def __init__(
        self,
        in_size: int,
        out_size: int,
        heads: int = 1,
        *,
        kind: str = "gat",
        concat: bool = True,
        self_loops: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(in_size=in_size, out_size=out_size, heads=heads)
        if kind not in _SCORES:
            raise ValueError(f"kind must be one of {', '.join(_SCORES)}, it is {kind!r}")
        check_share(dropout=dropout)
        self.in_size, self.out_size, self.heads, self.kind = in_size, out_size, heads, kind
        self.concat, self.self_loops, self.dropout = concat, self_loops, dropout
        self.source = nn.Linear(in_size, heads * out_size, bias=False)
        self.target = None if kind == "gat" else nn.Linear(in_size, heads * out_size, bias=False)
        self.score = LearnedPart(_SCORES[kind](heads, out_size))
        self.bias = nn.Parameter(torch.zeros(heads * out_size if concat else out_size))
        for linear in (self.source, self.target):
            if linear is not None:
                nn.init.xavier_uniform_(linear.weight)

    def forward(
        self, nodes: Tensor, index: Tensor, *, return_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Look once along every edge.

        *Shape:* nodes `(nodes, in_size)`, index `(2, edges)` of whole numbers, the sources of the edges in row 0, their
        targets, which look, in row 1; weights, when asked for, of the edges in that order, then of the self-loops,
        `(heads, edges)` or `(heads, edges + nodes)`. Raises `TypeError` or `ValueError` for others.
        """
        check_sequence("nodes", nodes, self.in_size, ("nodes",))
        check_whole_tensor("index", index)
        if index.ndim != 2 or index.shape[0] != 2:
            raise ValueError(f"index must be (2, edges), it has shape {tuple(index.shape)}")
        if self.self_loops:
            everyone = torch.arange(len(nodes), device=index.device).expand(2, -1)
            index = torch.cat([index.to(torch.int64), everyone], dim=1)
        key = self._heads(self.source(nodes))
        query = key if self.target is None else self._heads(self.target(nodes))
        mask, score = edges(index), self.score()
        dropout = self.dropout if self.training else 0.0
        output = attend(query, key, key, score=score, mask=mask, dropout=dropout)
        assert isinstance(output, Tensor)
        edge_weights: Tensor | None = None
        if return_weights:
            edge_weights = nodes.new_zeros(self.heads, 0)
            if index.shape[1]:
                found = weights(query, key, score=score, mask=mask, reduce="edges")
                assert isinstance(found, Tensor)
                edge_weights = found[:, mask.places(index)]
        output = output.transpose(0, 1).flatten(1) if self.concat else output.mean(0)
        return output + self.bias, edge_weights

    def _heads(self, nodes: Tensor) -> Tensor:
        """*Shape:* `(nodes, heads * out_size)` -> `(heads, nodes, out_size)`."""
        return nodes.unflatten(-1, (self.heads, self.out_size)).transpose(0, 1)

    def extra_repr(self) -> str:
        return (
            f"{self.in_size}, {self.out_size}, heads={self.heads}, kind={self.kind!r}, concat={self.concat}, "
            f"self_loops={self.self_loops}, dropout={self.dropout}"
        )


_SCORES: dict[str, Callable[[int, int], Score]] = {
    "gat": lambda heads, size: LeakyReLU(Linear(uniform(1 / size, heads, 2 * size))),
    "gatv2": lambda heads, size: Additive(uniform(1 / size, heads, size), activation="leaky_relu"),
}
"""The score of each kind, with first values for a number of heads and their size."""
