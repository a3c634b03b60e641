"""Draw the pictures of the pages in docs/mechanisms: every mechanism's weights on one and the same example.

    python tools/draw_mechanisms.py

Eight English words look at the eight words of a Chinese translation that stand in another order (scores, normalisers,
layers), or at each other (masks, biases). Their vectors are made by hand: words that mean the same are alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import regard
from regard import biases, layers, masks, normalizers, scores
from regard.attention.biases import Bias
from regard.attention.masks import Mask
from regard.attention.normalizers import Normalizer
from regard.attention.scores import Score
from regard.view import Heatmap, heatmap

DESTINATION = Path(__file__).parent.parent / "docs" / "pictures" / "mechanisms"

# How much each word has to do with: one, colour, warmth, animals, acts, food, time, all
ENGLISH = {
    "a": (3, 0, 0, 0, 0, 0, 0, 1),
    "black": (0, 3, 0, 1, 0, 0, 0, 0),
    "cat": (0, 1, 0, 3, 1, 0, 0, 0),
    "drinks": (0, 0, 0, 1, 3, 1, 0, 0),
    "warm": (0, 0, 3, 0, 0, 1, 0, 0),
    "milk": (0, 0, 1, 0, 1, 3, 0, 0),
    "every": (1, 0, 0, 0, 0, 0, 1, 3),
    "evening": (0, 1, 0, 0, 0, 0, 3, 1),
}
CHINESE = {
    "一只": (3, 0, 0, 1, 0, 0, 0, 0),
    "黑": (0, 3, 0, 0, 0, 0, 1, 0),
    "猫": (0, 0, 0, 3, 1, 0, 0, 0),
    "每": (1, 0, 0, 0, 0, 0, 1, 3),
    "晚": (0, 1, 0, 0, 0, 0, 3, 0),
    "喝": (0, 0, 0, 1, 3, 1, 0, 0),
    "温": (0, 0, 3, 0, 0, 0, 0, 0),
    "牛奶": (0, 0, 1, 0, 0, 3, 0, 0),
}
PIXELS = [f"row {row}, {column}" for row in range(2) for column in range(4)]
NOUNS = torch.tensor([word in ("cat", "milk", "evening") for word in ENGLISH])


def vectors(words: Mapping[str, Sequence[int]]) -> Tensor:
    """*Shape:* `(8, 8)`, float64: the pictures are the same wherever they are drawn."""
    return torch.tensor(list(words.values()), dtype=torch.float64)


QUERY, KEY = vectors(ENGLISH), vectors(CHINESE)

# What a layer might have learned: an act asks for what is eaten or drunk, a colour for the animal, warmth for food.
RELATION = torch.eye(8, dtype=torch.float64) / math.sqrt(8)
for asks, answers in ((1, 3), (2, 5), (4, 5)):
    RELATION[asks] *= 0.2
    RELATION[asks, answers] = 1 / math.sqrt(8)
# Each unit fires where both words have its feature.
ALIKE: dict[str, Any] = {"weight": torch.full((8,), 3.0), "bias": torch.full((8,), -5.0)}
# What can be named: animals, food, times.
NAMED = torch.tensor([0.0, 0.0, 0.0, 0.5, 0.0, 0.5, 0.5, 0.0])
# The order of Chinese: which place holds the one, the colour, the animal, the all, the time, the act, ...
ORDER = torch.eye(8, dtype=torch.float64)[[0, 1, 3, 7, 6, 4, 2, 5]]

SCORES: dict[str, Score] = {
    "dot": scores.Dot(),
    "scaled_dot": scores.ScaledDot(),
    "cosine": scores.Cosine(10.0),
    "general": scores.General(RELATION),
    "linear": scores.Linear(torch.cat([torch.zeros(8), NAMED, torch.full((8,), 0.25)])),
    "additive": scores.Additive(**ALIKE),
    "concat": scores.Concat(torch.cat([RELATION.mT * math.sqrt(8), torch.eye(8)], 1), *ALIKE.values()),
    "distance": scores.Distance(),
    "location": scores.Location(weight=ORDER),
    "function": scores.Function(lambda query, key: -(query - key).abs().sum(-1)),
    "qknorm": scores.QKNorm(scores.ScaledDot()),
    "softcap": scores.SoftCap(scores.Dot(), 4.0),
    "leaky": scores.LeakyReLU(scores.Linear(torch.cat([torch.full((8,), -0.25), 2 * NAMED]))),
}
# Close enough together for normalisers to differ.
EVEN = scores.ScaledDot(0.2)
NORMALIZERS: dict[str, Normalizer] = {
    "softmax": normalizers.Softmax(),
    "sparsemax": normalizers.Sparsemax(),
    "entmax15": normalizers.Entmax15(),
    "entmax": normalizers.Entmax(1.2),
    "sigmoid": normalizers.Sigmoid(-math.log(8)),
    "relu": normalizers.ReLU(),
    "sink": normalizers.SinkSoftmax(2.0),
    "hardmax": normalizers.Hardmax(),
    "top": normalizers.TopK(2),
    "top_p": normalizers.TopP(0.7),
    "threshold": normalizers.Threshold(0.1),
    "gumbel": normalizers.GumbelSoftmax(),
    "gumbel_hard": normalizers.GumbelSoftmax(hard=True),
    "sample": normalizers.Sample(),
    "local": normalizers.Local(torch.tensor([0.2, 1.1, 1.8, 4.6, 6.3, 6.8, 3.4, 4.1]), 2),
}
READERS: dict[str, Normalizer] = {
    "monotonic": normalizers.Monotonic(),
    "monotonic_hard": normalizers.MonotonicHard(),
}
# Which word describes which: from each to the word it belongs to, and four words to themselves.
TREE = torch.tensor([[0, 1, 2, 4, 5, 6, 7, 2, 3, 5, 7], [2, 2, 3, 5, 3, 7, 3, 2, 3, 5, 7]])
MASKS: dict[str, Mask] = {
    "causal": masks.causal(),
    "window": masks.window(1),
    "dilated": masks.dilated(1, 2),
    "prefix": masks.prefix(3),
    "padding": masks.padding(torch.tensor([6])),
    "documents": masks.documents(torch.tensor([0, 3, 6, 8])),
    "segments": masks.segments(torch.tensor([0, 0, 0, 1, 0, 0, 2, 2])),
    "blocks": masks.blocks(torch.eye(4, dtype=torch.bool) | (torch.arange(4) == 0), 2),
    "neighbourhood": masks.neighbourhood(2, 4, 1),
    "edges": masks.edges(
        torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 2, 5, 7], [2, 2, 3, 3, 5, 3, 7, 3, 2, 5, 7]])
    ),
    "function": masks.function(
        lambda query, key: (key <= query) & ((key // 4 == query // 4) | (key % 4 == 3))
    ),
    "dense": masks.dense(NOUNS),
}
COLUMNS, ROWS = torch.arange(-3, 4).abs(), torch.arange(-1, 2).abs()
BIASES: dict[str, Bias] = {
    "alibi": biases.ALiBi(torch.tensor(0.5)),
    "t5": biases.T5(8, 16, table=torch.tensor([0.5, 1.0, -0.5, -1.5, 0.0, 0.0, -1.0, -2.0])),
    "relative": biases.Relative(2, table=torch.tensor([-1.5, 1.0, 0.0, -0.5, -1.5])),
    "relative_2d": biases.Relative2D(2, 4, table=(-0.8 * (ROWS[:, None] + COLUMNS)).flatten()),
    "function": biases.function(lambda query, key: -torch.log1p((query - key).abs().double())),
    "dense": biases.Dense(torch.where(NOUNS, 1.0, 0.0)),
}


def picture(weights: Tensor, source: list[str] | None = None, target: list[str] | None = None) -> Heatmap:
    """Weights as all pages show them, or, where one is larger, factors of a bias. *Shape:* `(rows, columns)`."""
    return heatmap(
        weights,
        source=list(CHINESE) if source is None else source,
        target=list(ENGLISH) if target is None else target,
        top=max(1.0, weights.max().item()),
    )


def weigh(query: Tensor, key: Tensor, **parts: Any) -> Tensor:
    """All weights of a mechanism. *Shape:* as `regard.weights` gives them."""
    found = regard.weights(query, key, **parts)
    assert isinstance(found, Tensor)
    return found


def step_by_step() -> Tensor:
    """The location-sensitive score, each word of which sees where the word before has looked."""
    alignment, rows = torch.zeros(1, 8, dtype=torch.float64), []
    score = scores.LocationSensitive(
        alignment, torch.tensor([[[1.5, 0.0, 0.0]]]), torch.full((8, 1), 1.0), **ALIKE
    )
    for query in QUERY.split(1):
        score = replace(score, alignment=alignment[0])
        alignment = weigh(query, KEY, score=score)
        rows.append(alignment)
    return torch.cat(rows)


def masked(name: str, mask: Mask) -> Iterator[tuple[str, Heatmap]]:
    """A mask, and the weights under it."""
    words = PIXELS if name == "neighbourhood" else list(ENGLISH)
    shown = mask.picture(8, 8).reshape(8, 8).double()
    yield f"masks/{name}", picture(shown, words, words)
    weights = weigh(QUERY[None], QUERY[None], mask=mask)[0]
    yield f"masks/{name}-weights", picture(weights, words, words)


def biased(name: str, bias: Bias) -> Iterator[tuple[str, Heatmap]]:
    """What a bias multiplies each weight by before they are shared out anew, and the weights with it."""
    words = PIXELS if name == "relative_2d" else list(ENGLISH)
    yield f"biases/{name}", picture(bias.picture(8, 8).exp(), words, words)
    yield f"biases/{name}-weights", picture(weigh(QUERY, QUERY, bias=bias), words, words)


def turned() -> Iterator[tuple[str, Heatmap]]:
    """Numbers that all words have alike are turned by their places; what the words mean stays as it is."""
    alike = torch.ones(8, 8, dtype=torch.float64)
    score = scores.Rotary(scores.ScaledDot(1 / math.sqrt(8)), 100.0, size=8)
    words = weigh(torch.cat([alike, QUERY], 1), torch.cat([alike, KEY], 1), score=score)
    yield "scores/rotary", picture(words)
    pixels = scores.Rotary2D(scores.ScaledDot(), 2, 4, 100.0)
    yield "scores/rotary_2d", picture(weigh(1.5 * alike, 1.5 * alike, score=pixels), PIXELS, PIXELS)


def plain(layer: nn.Module) -> Any:
    """A layer that projects nothing: every matrix is the identity, once or several times, every offset zero."""
    layer = layer.double().eval()
    for part in layer.modules():
        if isinstance(part, nn.Linear):
            part.weight.data = (
                torch.eye(part.in_features).repeat(part.out_features // part.in_features, 1).double()
            )
            if part.bias is not None:
                part.bias.data.zero_()
    return layer


def set_to(module: nn.Module, **values: Tensor) -> None:
    """Give parameters of a module these values."""
    for name, value in values.items():
        parameter = getattr(module, name)
        parameter.data = value.to(parameter).reshape(parameter.shape)


def multihead() -> Iterator[tuple[str, Tensor]]:
    """Two heads, each of which sees half of the numbers."""
    layer = layers.MultiheadAttention(8, 2, batch_first=True).double()
    set_to(layer, in_proj_weight=torch.eye(8).repeat(3, 1), in_proj_bias=torch.zeros(24))
    for head, weights in enumerate(layer(QUERY, KEY, KEY, average_attn_weights=False)[1], 1):
        yield f"multihead-{head}", weights


def looking() -> Iterator[tuple[str, Tensor]]:
    """Layers that look at a memory, the Chinese words, once for each English one."""
    memory, lengths = KEY[None], torch.tensor([8])
    general = plain(layers.MemoryAttention("general/entmax15", 8, 8))
    yield "memory", general(QUERY[None], general.prepare(memory, lengths), return_weights=True)[1]
    cross = plain(layers.CrossAttention(8, 1, "scaled_dot/top-3"))
    yield "cross_attention", cross(QUERY[None], cross.prepare(memory, lengths), return_weights=True)[1]
    bahdanau = plain(layers.BahdanauAttention(8, 8))
    set_to(bahdanau.look.score, **ALIKE)
    yield "bahdanau", bahdanau(QUERY[None], bahdanau.prepare(memory, lengths), return_weights=True)[1]
    luong = plain(layers.LuongAttention(8, 8, "dot", kind="local-m", width=2))
    yield "luong", luong(QUERY[None] / 2, luong.prepare(memory, lengths), return_weights=True)[1]
    located = plain(layers.LocationSensitiveAttention(8, 8, features=1, kernel=3, cumulative=False))
    set_to(located.score, **ALIKE, filters=torch.tensor([1.5, 0.0, 0.0]), projection=torch.ones(8))
    yield "location_sensitive", located(QUERY[None], located.prepare(memory, lengths))[1]
    reader = plain(layers.MonotonicAttention(8, 8, score="scaled_dot", noise=0.0, offset=-2.3)).train()
    yield "monotonic", reader(QUERY[None], reader.prepare(memory, lengths))[1]


def again_and_again() -> Iterator[tuple[str, Tensor]]:
    """The same question eight times, of a layer that knows what it has covered; and pointing at every word once."""
    memory, lengths = KEY[None], torch.tensor([8])
    coverage = plain(layers.CoverageAttention(8, 8))
    set_to(
        coverage.score,
        weight=torch.full((8,), 2.0),
        bias=torch.full((8,), -5.0),
        projection=torch.full((8,), -1.0),
    )
    drinks = QUERY[3:4].expand(8, 8)[None]
    yield "coverage", coverage(drinks, coverage.prepare(memory, lengths))[1]
    pointer = plain(layers.PointerAttention(8, 8, score="scaled_dot"))
    words, free, rows = pointer.prepare(memory, lengths), torch.ones(1, 1, 8, dtype=torch.bool), []
    for query in QUERY.split(1):
        rows.append(pointer(query[None], words, free).exp()[0])
        free = free.scatter(-1, rows[-1].argmax(-1, keepdim=True)[None], False)
    yield "pointer", torch.cat(rows)


def alone() -> Iterator[tuple[str, Tensor]]:
    """Layers that look at one sequence, the English words."""
    itself = plain(layers.SelfAttention(8, 1, "scaled_dot/softmax/causal"))
    yield "self_attention", itself(QUERY[None], return_weights=True)[1]
    block = plain(layers.TransformerEncoderLayer(8, 1, 8, "scaled_dot/softmax/window-2"))
    yield "transformer", block(QUERY[None], return_weights=True)[1]
    graph = plain(layers.GraphAttention(8, 8, kind="gatv2"))
    # What a key has and the query lacks counts against it, what it lacks itself a little less.
    set_to(graph.target, weight=-torch.eye(8))
    set_to(graph.score, weight=torch.full((8,), -0.5))
    along = graph(QUERY, TREE[:, :7], return_weights=True)[1]
    sources, targets = torch.cat([TREE[:, :7], torch.arange(8).expand(2, -1)], dim=1)
    pairs = torch.zeros(8, 8, dtype=QUERY.dtype)
    pairs[targets, sources] = along[0].detach()
    yield "graph", pairs
    pool = plain(layers.AttentionPooling(8, mechanism="scaled_dot/softmax", seeds=2))
    set_to(pool, seeds=torch.tensor([[0, 0, 0, 2, 0, 2, 0, 0], [0, 0, 0, 0, 0, 0, 3, 0]]))
    yield "pooling", pool(QUERY[None], torch.tensor([8]), return_weights=True)[1]


def hard(steps: int = 30) -> Tensor:
    """Where a bilinear score looks after it has learned from the rewards of its draws alone."""
    torch.manual_seed(0)
    weight = torch.zeros(8, 8, dtype=torch.float64, requires_grad=True)
    right = torch.tensor([0, 1, 2, 5, 6, 7, 3, 4])
    learner, loss = torch.optim.SGD([weight], lr=0.1), layers.ReinforceLoss()
    for _ in range(steps):
        score = scores.General(weight)
        drawn = weigh(QUERY[:, None], KEY.expand(8, 8, 8), score=score, normalizer="sample")
        reward = drawn.detach()[:, 0].gather(-1, right[:, None])
        learner.zero_grad()
        loss(drawn, reward).backward()
        learner.step()
    return weigh(QUERY, KEY, score=scores.General(weight.detach()))


def layered() -> Iterator[tuple[str, Heatmap]]:
    """What layers show when they project nothing."""
    drinks = [f"drinks ({time})" for time in range(1, 9)]
    for name, weights in (*multihead(), *looking(), *again_and_again()):
        target = drinks if name == "coverage" else list(ENGLISH)
        yield f"layers/{name}", picture(weights.detach().reshape(8, 8), target=target)
    for name, weights in alone():
        rows = ["seed 1", "seed 2"] if name == "pooling" else list(ENGLISH)
        yield f"layers/{name}", picture(weights.detach().reshape(-1, 8), list(ENGLISH), rows)
    yield "layers/hard", picture(hard())
    flow = layers.BidirectionalAttentionFlow(8).double()
    set_to(flow.score, weight=torch.cat([torch.zeros(8), NAMED, torch.full((8,), 0.25)]))
    lengths = torch.tensor([8])
    found = flow(QUERY[None], lengths, KEY[None], lengths, return_weights=True)[1]
    yield "layers/biflow", picture(found[0].detach())


def pictures() -> Iterator[tuple[str, Heatmap]]:
    """Every picture and its name."""
    for name, score in SCORES.items():
        yield f"scores/{name}", picture(weigh(QUERY, KEY, score=score))
    yield "scores/location_sensitive", picture(step_by_step())
    yield from turned()
    for seed, (name, normalizer) in enumerate(NORMALIZERS.items()):
        torch.manual_seed(seed)
        yield f"normalizers/{name}", picture(weigh(QUERY, KEY, score=EVEN, normalizer=normalizer))
    for name, normalizer in READERS.items():
        # Their scores are chances to stop, most of which must be small.
        chances = weigh(QUERY, KEY, normalizer=normalizer, bias=torch.tensor(-2.3))
        yield f"normalizers/{name}", picture(chances)
    for name, mask in MASKS.items():
        yield from masked(name, mask)
    for name, bias in BIASES.items():
        yield from biased(name, bias)
    yield from layered()


if __name__ == "__main__":
    for name, drawn in pictures():
        path = DESTINATION / f"{name}.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn.save(path)
