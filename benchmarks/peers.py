"""The peers: what each computes, why it may not run a problem, and how it is run.

A peer whose normaliser is not among regard's in a contest is a yardstick: another mechanism on the same tensors.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks import formulas
from benchmarks.problems import Inputs, Problem, Run, differentiated

Forward = Callable[[Inputs, Problem], Callable[[], Tensor]]
"""Makes, of the tensors of a problem, the function that computes the output."""


@dataclass(frozen=True)
class Peer:
    """Another way to compute attention."""

    name: str
    score: str
    normalizer: str
    prepare: Callable[[Inputs, Problem], Run]
    refuse: Callable[[Problem], str] = lambda problem: ""
    """Why it cannot run a problem; empty when it can."""
    copies: int = 0
    """About how many of its largest tensors it holds at once; none if its memory is linear."""
    wide: bool = False
    """Whether these have a number for each channel of each pair, not just for each pair."""
    graph: bool = False
    """Whether it computes attention along edges (and nothing else)."""

    @property
    def key(self) -> str:
        """What tells it from all others."""
        return f"{self.name}: {self.score}/{self.normalizer}"

    def bytes(self, problem: Problem) -> int:
        """About how much memory it takes beyond inputs and output."""
        pairs = problem.pairs if self.graph else problem.heads * problem.queries * problem.keys
        return 4 * self.copies * pairs * (problem.size if self.wide else 1)


def _of(forward: Forward) -> Callable[[Inputs, Problem], Run]:
    return lambda inputs, problem: differentiated(forward(inputs, problem), inputs, problem)


def _compiled(forward: Forward) -> Callable[[Inputs, Problem], Run]:
    """The same through torch.compile, for these lengths alone."""

    def prepare(inputs: Inputs, problem: Problem) -> Run:
        return differentiated(torch.compile(forward(inputs, problem), dynamic=False), inputs, problem)

    return prepare


def _masked(scores: Tensor, problem: Problem) -> Tensor:
    if problem.mask != "causal":
        return scores
    allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    return scores.masked_fill(~allowed, -torch.inf)


def _formula(normalize: Callable[[Tensor], Tensor]) -> Forward:
    """Scaled dot by its definition."""

    def forward(inputs: Inputs, problem: Problem) -> Callable[[], Tensor]:
        return lambda: (
            normalize(_masked(formulas.scaled_dot(inputs.query, inputs.key), problem)) @ inputs.value
        )

    return forward


def _additive(inputs: Inputs, _: Problem) -> Callable[[], Tensor]:
    """The sum over channels as a product with the weight, which is how it is fastest eagerly."""
    bias = torch.zeros_like(inputs.weight)
    return lambda: formulas.attend(
        inputs.query, inputs.key, inputs.value, "additive", "softmax", weight=inputs.weight, bias=bias
    )


def _additive_fusible(inputs: Inputs, _: Problem) -> Callable[[], Tensor]:
    """The sum over channels as such, which a compiler joins with the tanh: no tensor has channels and pairs."""

    def forward() -> Tensor:
        energy = torch.tanh(inputs.query.unsqueeze(-2) + inputs.key.unsqueeze(-3))
        return torch.softmax((energy * inputs.weight[:, None, None, :]).sum(-1), dim=-1) @ inputs.value

    return forward


def _top(inputs: Inputs, problem: Problem) -> Callable[[], Tensor]:
    """Softmax over the 8 best scores; only their values are gathered."""

    def forward() -> Tensor:
        best = _masked(formulas.scaled_dot(inputs.query, inputs.key), problem).topk(8, dim=-1)
        weights = torch.softmax(best.values, dim=-1)
        head = torch.arange(problem.heads, device=weights.device)[:, None, None]
        return (weights.unsqueeze(-2) @ inputs.value[0][head, best.indices[0]]).squeeze(-2)

    return forward


def _sdpa(inputs: Inputs, problem: Problem) -> Callable[[], Tensor]:
    causal = problem.mask == "causal"
    return lambda: scaled_dot_product_attention(inputs.query, inputs.key, inputs.value, is_causal=causal)


def _flex(inputs: Inputs, problem: Problem) -> Run:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    blocks = None
    if problem.mask == "causal":
        lengths = problem.queries, problem.keys
        blocks = create_block_mask(
            lambda batch, head, query, key: query >= key, None, None, *lengths, device=problem.device
        )
    flex = torch.compile(flex_attention, dynamic=False)
    return differentiated(
        lambda: flex(inputs.query, inputs.key, inputs.value, block_mask=blocks), inputs, problem
    )


def _entmax(name: str, **options: float) -> Forward:
    """The function of the `entmax` package on dense scores."""

    def forward(inputs: Inputs, problem: Problem) -> Callable[[], Tensor]:
        import entmax

        normalize = getattr(entmax, name)
        return _formula(lambda scores: normalize(scores, dim=-1, **options))(inputs, problem)

    return forward


def _adasplash(alpha: float) -> Forward:
    def forward(inputs: Inputs, problem: Problem) -> Callable[[], Tensor]:
        from adasplash import adasplash

        causal = problem.mask == "causal"
        return lambda: adasplash(inputs.query, inputs.key, inputs.value, alpha=alpha, is_causal=causal)

    return forward


def _scattered(inputs: Inputs, problem: Problem) -> Callable[[], Tensor]:
    """Attention along edges as graph libraries compute it: gather, softmax over equal targets, add up."""
    source, target = inputs.edges
    shape = (problem.heads, problem.queries)

    def forward() -> Tensor:
        query, key, value = inputs.query[0][:, target], inputs.key[0][:, source], inputs.value[0][:, source]
        if problem.score == "additive":
            scores = (torch.tanh(query + key) * inputs.weight[:, None]).sum(-1)
        else:
            scores = (query * key).sum(-1) / math.sqrt(problem.size)
        places = target.expand_as(scores)
        most = torch.full(shape, -torch.inf, dtype=scores.dtype, device=scores.device)
        most = most.scatter_reduce(1, places, scores.detach(), "amax")
        weights = torch.exp(scores - most.gather(1, places))
        total = torch.zeros(shape, dtype=scores.dtype, device=scores.device).scatter_add(1, places, weights)
        output = torch.zeros(*shape, problem.value_size, dtype=value.dtype, device=value.device)
        return output.index_add(1, target, value * (weights / total.gather(1, places))[..., None])[None]

    return forward


def needs(module: str) -> str:
    """Why a peer cannot run that needs this module."""
    return "" if importlib.util.find_spec(module) else f"{module} is not installed"


def _flex_refuses(problem: Problem) -> str:
    if problem.device == "cpu" and problem.gradients:
        return "FlexAttention has no backward on the CPU"
    return ""


def _adasplash_refuses(problem: Problem) -> str:
    return "its Triton kernels need a GPU" if problem.device == "cpu" else needs("adasplash")


def _keras(inputs: Inputs, problem: Problem) -> Run:
    from benchmarks.keras_peer import additive

    return additive(inputs, problem)


def _keras_refuses(problem: Problem) -> str:
    if problem.heads > 1:
        return "its weight is the same for all heads"
    return needs("keras") or needs("jax")


EAGER, COMPILED, ENTMAX, ADASPLASH = "eager PyTorch", "torch.compile", "entmax package", "AdaSplash"

PEERS = (
    Peer(EAGER, "additive", "softmax", _of(_additive), copies=4, wide=True),
    Peer(COMPILED, "additive", "softmax", _compiled(_additive_fusible), copies=5),
    Peer("Keras (JAX, jit)", "additive", "softmax", _keras, _keras_refuses, copies=5),
    Peer("SDPA softmax", "scaled_dot", "softmax", _of(_sdpa)),
    Peer("FlexAttention softmax", "scaled_dot", "softmax", _flex, _flex_refuses),
    Peer(EAGER, "scaled_dot", "sparsemax", _of(_formula(formulas.sparsemax)), copies=8),
    Peer(COMPILED, "scaled_dot", "sparsemax", _compiled(_formula(formulas.sparsemax)), copies=6),
    Peer(ENTMAX, "scaled_dot", "sparsemax", _of(_entmax("sparsemax")), lambda _: needs("entmax"), 8),
    Peer(ENTMAX, "scaled_dot", "entmax15", _of(_entmax("entmax15")), lambda _: needs("entmax"), 10),
    Peer(
        ENTMAX,
        "scaled_dot",
        "entmax-1.3",
        _of(_entmax("entmax_bisect", alpha=1.3)),
        lambda _: needs("entmax"),
        8,
    ),
    Peer(ADASPLASH, "scaled_dot", "entmax15", _of(_adasplash(1.5)), _adasplash_refuses),
    Peer(ADASPLASH, "scaled_dot", "entmax-1.3", _of(_adasplash(1.3)), _adasplash_refuses),
    Peer(EAGER, "scaled_dot", "top-8", _of(_top), copies=5),
    Peer(COMPILED, "scaled_dot", "top-8", _compiled(_top), copies=5),
    *(
        Peer(name, score, "softmax", way(_scattered), copies=5, wide=True, graph=True)
        for name, way in (("gather and scatter in PyTorch", _of), ("the same, torch.compile", _compiled))
        for score in ("scaled_dot", "additive")
    ),
)


def peers_for(problem: Problem) -> list[Peer]:
    """The peers that compute this score on this kind of mask."""
    graph = problem.mask.startswith("edges")
    return [peer for peer in PEERS if peer.score == problem.score and peer.graph == graph]
