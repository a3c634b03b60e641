"""The calls on which every backend is held against the definition: every score, normaliser, mask and bias by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import regard
from regard import biases, masks
from regard.attention import reference
from regard.attention.call import AttentionCall
from regard.attention.grid import Grid
from regard.attention.mechanism import normalizer_named, score_named
from regard.attention.normalizers import NORMALIZERS, Normalizer
from regard.attention.parts import named_tensors, tensors_of, with_tensors
from regard.attention.scores import SCORES, Score

QUERY_HEADS, KEY_HEADS, BATCH, QUERY_LEN, KEY_LEN, SIZE = 4, 2, 2, 5, 7, 6

SCORE_NAMES = [
    *SCORES,
    "location_sensitive",
    "function",
    "dot+softcap-2",
    "scaled_dot+qknorm",
    "linear+leaky",
]
DRAWN = {"gumbel", "gumbel_hard", "sample"}
NORMALIZER_NAMES = [*(name for name in NORMALIZERS if name not in DRAWN), "top-3", "entmax-1.2", "entmax-3"]
MASK_NAMES = [
    "none",
    "causal",
    "window",
    "dilated",
    "prefix",
    "padding",
    "documents",
    "causal documents",
    "blocks",
    "neighbourhood",
    "edges",
    "causal edges",
    "tensor",
    "blind rows",
    "combined",
    "everything hidden",
]
BIAS_NAMES = ["none", "tensor", "row", "alibi", "t5", "relative", "sum"]


@dataclass
class Case:
    """A call by its parts, and what the definition says of it. *Shape:* as in `regard.attend`."""

    query: Tensor
    key: Tensor
    value: Tensor
    score: Score
    normalizer: Normalizer
    mask: Any = None
    bias: Any = None

    @property
    def settings(self) -> dict[str, Any]:
        return {"score": self.score, "normalizer": self.normalizer, "mask": self.mask, "bias": self.bias}

    @property
    def call(self) -> AttentionCall:
        return AttentionCall.of(self.query, self.key, self.value, **self.settings)

    @property
    def leaves(self) -> list[Tensor]:
        """Every tensor that can have a gradient."""
        parts = [self.score, self.normalizer, *([self.bias] if self.bias is not None else [])]
        return [self.query, self.key, self.value, *(t for part in parts for t in tensors_of(part))]

    def with_leaves(self, leaves: tuple[Tensor, ...]) -> Case:
        """The same case with other tensors, in the order of `leaves`."""
        query, key, value, *rest = leaves
        split = len(tensors_of(self.score))
        more = split + len(tensors_of(self.normalizer))
        return replace(
            self,
            query=query,
            key=key,
            value=value,
            score=with_tensors(self.score, rest[:split]),
            normalizer=with_tensors(self.normalizer, rest[split:more]),
            bias=None if self.bias is None else with_tensors(self.bias, rest[more:]),
        )

    def attend(self, **settings: Any) -> Any:
        return regard.attend(self.query, self.key, self.value, **self.settings, **settings)

    def expected(self) -> tuple[np.ndarray, np.ndarray]:
        """Output and weights by the definition."""
        grid = Grid(self.query.shape[-2], self.key.shape[-2], self.query.ndim, self.query.device)
        rows, columns = slice(0, grid.query_len), slice(0, grid.key_len)
        mask = self.mask
        if isinstance(mask, masks.Mask):
            mask = mask.block(rows, columns, grid)
        bias = None if self.bias is None else self.bias.cut(rows, columns).block(rows, columns, grid)
        name, _, number = self.normalizer.spelling.partition("-")
        parameters: dict[str, Any] = listed(self.normalizer)
        field = {"top": "k", "entmax": "alpha", "top_p": "p"}.get(name, name)
        if number:
            parameters[field] = float(number) if "." in number else int(number)
        return reference.attend(
            self.query.detach().double(),
            self.key.detach().double(),
            self.value.detach().double(),
            score=formula_of(self.score),
            normalizer=name,
            mask=None if mask is None else mask.numpy(),
            bias=None if bias is None else bias.detach().double().numpy(),
            score_parameters=listed(innermost(self.score)),
            normalizer_parameters=parameters,
        )


def innermost(score: Score) -> Score:
    """The score that modifiers change."""
    while isinstance(score, regard.scores.Modifier):
        score = score.score
    return score


def formula_of(score: Score) -> Callable[..., Any]:
    """The definition of a score with its modifiers."""
    if not isinstance(score, regard.scores.Modifier):
        return manhattan if score.name == "function" else reference.SCORES[score.name]
    numbers = {name: value for name, value in vars(score).items() if isinstance(value, int | float)}
    return reference.MODIFIERS[score.name](formula_of(score.score), **numbers)


def listed(part: Any) -> dict[str, Any]:
    """A part's tensors as the definition takes them: one array for each head, but for what all heads share."""
    arrays = {name: t.detach().double().numpy() for name, t in named_tensors(part).items()}
    if "alignment" in arrays:
        arrays["alignment"] = arrays["alignment"][0]
    shared = {"filters", "projection"}
    return {name: array if name in shared else tuple(array) for name, array in arrays.items()}


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def manhattan(query: np.ndarray, keys: np.ndarray) -> Any:
    return -np.abs(query - keys).sum(axis=1)


def score_of(name: str, heads: int = QUERY_HEADS, size: int = SIZE) -> Score:
    """The score by name, with random numbers for whatever it learns."""
    if name == "function":
        return regard.scores.Function(lambda query, key: -(query - key).abs().sum(-1))
    if name == "location_sensitive":
        return regard.scores.LocationSensitive(
            alignment=normal(heads, KEY_LEN, seed=3).softmax(-1).expand(BATCH, -1, -1),
            filters=normal(3, 1, 3, seed=4),
            projection=normal(size, 3, seed=5),
            weight=normal(heads, size, seed=6),
            bias=normal(heads, size, seed=7),
        )
    if "qknorm" in name:
        return score_named(name)
    learned = score_named(name).learn(heads, size)
    return with_tensors(
        learned,
        [normal(*t.shape, seed=7 + i) / t.shape[-1] ** 0.25 for i, t in enumerate(tensors_of(learned))],
    )


def normalizer_of(name: str, heads: int = QUERY_HEADS) -> Normalizer:
    """The normaliser by name; a sink and an alpha differ from head to head."""
    if name == "sink":
        return regard.normalizers.SinkSoftmax(normal(heads, seed=2))
    return normalizer_named(name)


def mask_of(name: str, batch: int = BATCH, query_len: int = QUERY_LEN, key_len: int = KEY_LEN) -> Any:
    generator = torch.Generator().manual_seed(5)
    tensor = torch.rand(batch, 1, query_len, key_len, generator=generator) > 0.4
    if name == "blind rows":
        tensor[:, :, ::3] = False
    lengths = torch.tensor([3, key_len])[:batch]
    pairs = torch.stack(
        [torch.randint(n, (14,), generator=generator) for n in (key_len, query_len)]
    )  # duplicates, and queries without an edge
    offsets, key_offsets = torch.tensor([0, 2, 2, query_len]), torch.tensor([0, 3, 4, key_len])
    return {
        "none": lambda: None,
        "causal": masks.causal,
        "window": lambda: masks.window(2, 1),
        "dilated": lambda: masks.dilated(2, 2),
        "prefix": lambda: masks.prefix(3),
        "padding": lambda: masks.padding(lengths),
        "documents": lambda: masks.documents(offsets, key_offsets),
        "causal documents": lambda: masks.documents(offsets, key_offsets, masks.causal()),
        "blocks": lambda: masks.blocks(torch.tensor([[1, 0, 0], [0, 1, 1]]).bool(), 3),
        "neighbourhood": lambda: masks.neighbourhood(2, 3, 1),
        "edges": lambda: masks.edges(pairs),
        "causal edges": lambda: masks.edges(pairs) & masks.causal(),
        "tensor": lambda: tensor,
        "blind rows": lambda: tensor,
        "combined": lambda: (masks.causal() & masks.padding(lengths)) | ~masks.window(3),
        "everything hidden": lambda: torch.zeros(query_len, key_len, dtype=torch.bool),
    }[name]()


def bias_of(name: str, heads: int = QUERY_HEADS, query_len: int = QUERY_LEN, key_len: int = KEY_LEN) -> Any:
    def learned(bias: Any) -> Any:
        tensors = [normal(*t.shape, seed=11 + i) for i, t in enumerate(tensors_of(bias))]
        return with_tensors(bias, tensors)

    slopes = biases.alibi(heads)
    slopes = with_tensors(slopes, [t.double() for t in tensors_of(slopes)])
    return {
        "none": lambda: None,
        "tensor": lambda: biases.as_bias(normal(heads, query_len, key_len, seed=1)),
        "row": lambda: biases.as_bias(normal(key_len, seed=1)),
        "alibi": lambda: slopes,
        "t5": lambda: learned(biases.t5(heads, buckets=4, distance=4)),
        "relative": lambda: learned(biases.relative(heads, 2)),
        "sum": lambda: slopes + normal(query_len, key_len, seed=1),
    }[name]()


def case(
    score: str = "scaled_dot",
    normalizer: str = "softmax",
    mask: str = "none",
    bias: str = "none",
    *,
    value_size: int = SIZE,
    seed: int = 0,
) -> Case:
    """The case of these names. A neighbourhood is of an image, whose pixels are both queries and keys."""
    query_len, key_len = (6, 6) if mask == "neighbourhood" else (QUERY_LEN, KEY_LEN)
    made = score_of(score)
    if mask == "neighbourhood" and score == "location_sensitive":
        made = replace(made, alignment=made.alignment[..., :6])  # type: ignore[type-var,attr-defined]
    return Case(
        normal(BATCH, QUERY_HEADS, query_len, SIZE, seed=seed),
        normal(BATCH, KEY_HEADS, key_len, SIZE, seed=seed + 100),
        normal(BATCH, KEY_HEADS, key_len, value_size, seed=seed + 200),
        made,
        normalizer_of(normalizer),
        mask_of(mask, query_len=query_len, key_len=key_len),
        bias_of(bias, query_len=query_len, key_len=key_len),
    )
