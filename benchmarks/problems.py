"""The attention calls on which contestants compete, and the tensors that all of them get."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

import regard

Run = Callable[[], tuple[Tensor, ...]]
"""One piece of work: the output and, where the problem asks for them, the gradients of query, key, value (and the
weight of an additive score)."""

SAMPLE = 64
"""How many queries are looked at where all would be too many."""


@dataclass(frozen=True)
class Problem:
    """One attention call. *Shape*: query `(1, heads, queries, size)`, key and value `(1, heads, keys, ...)`."""

    score: str
    heads: int
    queries: int
    keys: int
    size: int
    value_size: int
    gradients: bool = False
    kind: str = "random"
    """What the scores look like: one of `KINDS`."""
    mask: str = ""
    """Nothing, "causal", or "edges-8": a graph of about so many edges a node."""
    device: str = "cpu"
    dtype: str = "float32"

    def __str__(self) -> str:
        keys = f"{self.keys} keys" if self.queries == 1 else f"{self.keys} tokens"
        shape = f"{keys}, {self.heads} x {self.size}" if self.heads > 1 else f"{keys}, size {self.size}"
        values = "" if self.value_size == self.size else f"values of {self.value_size}"
        more = [word for word in (values, self.mask, "" if self.kind == "random" else self.kind) if word]
        return ", ".join([shape, *more])

    @property
    def pairs(self) -> int:
        """How many pairs of query and key are to be compared, over all heads."""
        if self.mask.startswith("edges"):
            return self.heads * self.keys * int(self.mask.partition("-")[2])
        square = self.heads * self.queries * self.keys
        return (square + self.heads * self.queries) // 2 if self.mask == "causal" else square

    @property
    def what(self) -> str:
        """In words, what is computed."""
        return "forward and backward" if self.gradients else "forward"

    def case(self, normalizer: str) -> str:
        """The problem and what is made of it, as a table names it."""
        return f"{self.score}/{normalizer}, {self}, {self.what}"


@dataclass(frozen=True, eq=False)
class Inputs:
    """The tensors of a problem; `edges`, of a graph, has sources in row 0 and targets in row 1."""

    query: Tensor
    key: Tensor
    value: Tensor
    weight: Tensor | None
    gradient: Tensor
    edges: Tensor | None

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """The tensors that get gradients."""
        some = (self.query, self.key, self.value)
        return some if self.weight is None else (*some, self.weight)

    def last(self, count: int) -> Inputs:
        """The same for the last queries only."""
        query = self.query.detach()[..., -count:, :].requires_grad_(self.query.requires_grad)
        return Inputs(query, self.key, self.value, self.weight, self.gradient[..., -count:, :], self.edges)


def _huge(query: Tensor, key: Tensor) -> Tensor:
    """Each query is many times some key, another one for each."""
    places = torch.randperm(key.shape[-2])[torch.arange(query.shape[-2]) % key.shape[-2]]
    return 30 * key[..., places, :]


KINDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "random": lambda query, key: query,
    "peaked": lambda query, key: 8 * query,
    "all equal": lambda query, key: 0 * query,
    "one huge": _huge,
}
"""How a query is made from random ones and the keys, so that its scores are normal, eight times that, all the same
(every key is in the support), or one far above all others (one key is)."""


def inputs_of(problem: Problem) -> Inputs:
    """The tensors of a problem, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        shape = (1, problem.heads, problem.keys)
        key, value = torch.randn(*shape, problem.size), torch.randn(*shape, problem.value_size)
        query = torch.randn(1, problem.heads, problem.queries, problem.size)
        query = KINDS[problem.kind](query, key)
        weight = torch.randn(problem.heads, problem.size) / math.sqrt(problem.size)
        gradient = torch.randn(1, problem.heads, problem.queries, problem.value_size)
        edges = _graph(problem) if problem.mask.startswith("edges") else None
    place = {"device": problem.device, "dtype": getattr(torch, problem.dtype)}
    query, key, value, weight, gradient = (
        tensor.to(**place) for tensor in (query, key, value, weight, gradient)
    )
    made = Inputs(query, key, value, weight if problem.score == "additive" else None, gradient, edges)
    for leaf in made.leaves:
        leaf.requires_grad_(problem.gradients)
    return made


def _graph(problem: Problem) -> Tensor:
    """Random edges, none twice, ordered by target."""
    count = problem.keys * int(problem.mask.partition("-")[2])
    drawn = torch.randint(problem.queries * problem.keys, (count,)).unique()
    return torch.stack([drawn % problem.keys, drawn // problem.keys]).to(problem.device)


def differentiated(forward: Callable[[], Tensor], inputs: Inputs, problem: Problem) -> Run:
    """The run of a function of the inputs, with gradients if the problem asks for them."""
    if not problem.gradients:

        def output() -> tuple[Tensor, ...]:
            with torch.no_grad():
                return (forward(),)

        return output

    def both() -> tuple[Tensor, ...]:
        found = forward()
        return (found.detach(), *torch.autograd.grad(found, inputs.leaves, inputs.gradient))

    return both


def _arguments(problem: Problem, inputs: Inputs, normalizer: str) -> dict[str, object]:
    score = regard.scores.Additive(inputs.weight) if problem.score == "additive" else problem.score
    masks = {"": None, "causal": regard.masks.causal()}
    mask = regard.masks.edges(inputs.edges) if inputs.edges is not None else masks[problem.mask]
    return {"score": score, "normalizer": normalizer, "mask": mask}


def regard_run(problem: Problem, inputs: Inputs, normalizer: str, backend: str | None = None) -> Run:
    """What regard does with a problem."""
    arguments = _arguments(problem, inputs, normalizer)

    def forward() -> Tensor:
        return regard.attend(inputs.query, inputs.key, inputs.value, backend=backend, **arguments)

    return differentiated(forward, inputs, problem)


def backend_of(problem: Problem, inputs: Inputs, normalizer: str) -> str:
    """The name of the backend that regard chooses."""
    with contextlib.redirect_stdout(io.StringIO()):
        found = regard.explain(
            inputs.query, inputs.key, inputs.value, **_arguments(problem, inputs, normalizer)
        )
    return found.backend


def support_of(problem: Problem, inputs: Inputs, normalizer: str) -> float:
    """How many keys a query gives weight to, on average over some queries."""
    if inputs.edges is not None:
        return problem.pairs / (problem.heads * problem.queries)
    rows = torch.linspace(0, problem.queries - 1, min(SAMPLE, problem.queries)).long().unique()
    with torch.no_grad():
        arguments = _arguments(problem, inputs, normalizer)
        weights = regard.weights(inputs.query, inputs.key, rows=rows, **arguments)
    return (weights != 0).sum(-1).float().mean().item()


def difference(found: Iterable[Tensor], expected: Iterable[Tensor]) -> float:
    """The largest relative distance, in the Euclidean norm, of tensors from those expected."""
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        one, other = one.detach().double().cpu(), other.detach().double().cpu()
        size = other.norm().item()
        apart = (one.reshape(other.shape) - other).norm().item() / (size if size > 1e-6 else 1.0)
        worst = max(worst, apart if math.isfinite(apart) else math.inf)
    return worst
