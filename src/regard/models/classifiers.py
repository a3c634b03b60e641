"""Models that put a text into a class: an encoder, attention that sums it up, and a layer on top."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from regard.attention import masks
from regard.errors import UserError
from regard.layers import AttentionPooling, TransformerEncoderLayer
from regard.layers.dropout import Dropout
from regard.models import checks
from regard.models.positions import POSITIONS
from regard.models.recurrent import CELLS, RecurrentEncoder

__all__ = [
    "RecurrentClassifier",
    "RecurrentClassifierSettings",
    "TextClassifier",
    "TransformerClassifier",
    "TransformerClassifierSettings",
]

UNKNOWN = 3


@dataclass(frozen=True)
class RecurrentClassifierSettings:
    """The shape of a recurrent classifier; raises `UserError` for a value out of range, naming it."""

    vocabulary: int
    classes: int
    embedding_size: int = 128
    hidden_size: int = 128
    """Of each direction."""
    cell: Literal["gru", "lstm"] = "gru"
    layers: int = 1
    attention: str = "additive/softmax"
    """The mechanism that sums the states up, `score/normalizer`, or "none": the mean of all states."""
    heads: int = 1
    word_dropout: float = 0.0
    """The share of words that are unknown in training, drawn anew each time."""
    dropout: float = 0.5
    """Of embeddings and of what is summed up."""

    def __post_init__(self) -> None:
        checks.at_least_one(self, "vocabulary", "classes", "embedding_size", "hidden_size", "layers", "heads")
        checks.share(self, "word_dropout", "dropout")
        checks.one_of(self, "cell", CELLS)
        if self.attention != "none":
            checks.mechanism("attention", self.attention, over_source=True)
            if 2 * self.hidden_size % self.heads:
                raise UserError(
                    f"twice hidden_size must be a multiple of heads, got {self.hidden_size} and {self.heads}"
                )


@dataclass(frozen=True)
class TransformerClassifierSettings:
    """The shape of a Transformer classifier; raises `UserError` for a value out of range, naming it."""

    vocabulary: int
    classes: int
    size: int = 128
    ffn_size: int = 256
    heads: int = 4
    layers: int = 2
    attention: str = "scaled_dot/softmax"
    """The mechanism of every layer, spelt `score/normalizer[/mask]`."""
    pooling: str = "additive/softmax"
    """The mechanism that sums the states up, or "none": their mean."""
    word_dropout: float = 0.0
    """The share of words that are unknown in training, drawn anew each time."""
    dropout: float = 0.3
    """Of embeddings, of what each block adds and of what is summed up."""

    def __post_init__(self) -> None:
        checks.at_least_one(self, "vocabulary", "classes", "size", "ffn_size", "heads", "layers")
        checks.share(self, "word_dropout", "dropout")
        checks.heads_divide(self, "size")
        if self.attention == "none":
            raise UserError(
                "a Transformer is made of attention: for attention = 'none' choose the model 'rnn-classifier'"
            )
        checks.mechanism("attention", self.attention, over_source=False)
        if self.pooling != "none":
            checks.mechanism("pooling", self.pooling, over_source=True)


class TextClassifier(nn.Module, abc.ABC):
    """What every classifier of texts does: read words, sum them up, score the classes.

    Texts are int64 ids padded with 0; padding never changes a result.
    """

    settings: Any
    embeddings: nn.Embedding

    def __init__(
        self,
        vocabulary: int,
        classes: int,
        size: int,
        read_size: int,
        pooling: str,
        heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(vocabulary, size, padding_idx=0)
        self.dropout = Dropout(dropout)
        self.pooling = None if pooling == "none" else AttentionPooling(read_size, heads, pooling)
        self.output = nn.Linear(read_size, classes)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    @abc.abstractmethod
    def read(self, embedded: Tensor, lengths: Tensor) -> Tensor:
        """*Shape:* `(batch, length, size)` -> `(batch, length, read_size)`."""

    def forward(
        self, ids: Tensor, lengths: Tensor, *, return_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """The score of every class, and where the model looked.

        *Shape:* ids `(batch, length)`, lengths `(batch,)` -> `(batch, classes)`, and weights `(batch, heads, length)`
        when asked for and there is attention over the states.
        """
        if self.training and self.settings.word_dropout:
            unknown = torch.rand(ids.shape, device=ids.device) < self.settings.word_dropout
            ids = torch.where(unknown & (ids != 0), UNKNOWN, ids)
        states = self.read(self.dropout(self.embeddings(ids)), lengths)
        weights = None
        if self.pooling is None:
            inside = torch.arange(ids.shape[1], device=ids.device) < lengths.to(ids.device)[:, None]
            summed = (states * inside[..., None]).sum(1) / lengths.to(ids.device)[:, None].clamp(min=1)
        else:
            pooled, weights = self.pooling(states, lengths, return_weights=return_weights)
            summed = pooled.squeeze(1)
        return self.output(self.dropout(summed)), None if weights is None else weights.squeeze(2)


class RecurrentClassifier(TextClassifier):
    """A bidirectional recurrent encoder under attention (Zhou et al. 2016; Yang et al. 2016, for one sentence).

    Example:
        >>> model = RecurrentClassifier(RecurrentClassifierSettings(20, 3, hidden_size=4)).eval()
        >>> scores, weights = model(torch.tensor([[4, 5, 6], [7, 0, 0]]), torch.tensor([3, 1]), return_weights=True)
        >>> scores.shape, weights.shape
        (torch.Size([2, 3]), torch.Size([2, 1, 3]))
    """

    def __init__(self, settings: RecurrentClassifierSettings) -> None:
        s = settings
        super().__init__(
            s.vocabulary, s.classes, s.embedding_size, 2 * s.hidden_size, s.attention, s.heads, s.dropout
        )
        self.settings = settings
        nn.init.normal_(self.embeddings.weight, std=0.1)
        self.encoder = RecurrentEncoder(
            s.cell, s.embedding_size, s.hidden_size, layers=s.layers, bidirectional=True, dropout=s.dropout
        )

    def read(self, embedded: Tensor, lengths: Tensor) -> Tensor:
        return self.encoder(embedded, lengths)[0]


class TransformerClassifier(TextClassifier):
    """Layers of self-attention under attention.

    Example:
        >>> model = TransformerClassifier(TransformerClassifierSettings(20, 3, size=8, heads=2)).eval()
        >>> scores, _ = model(torch.tensor([[4, 5, 6], [7, 0, 0]]), torch.tensor([3, 1]))
        >>> scores.shape
        torch.Size([2, 3])
    """

    def __init__(self, settings: TransformerClassifierSettings) -> None:
        s = settings
        super().__init__(s.vocabulary, s.classes, s.size, s.size, s.pooling, 1, s.dropout)
        self.settings = settings
        self.scale = s.size**0.5
        nn.init.normal_(self.embeddings.weight, std=s.size**-0.5)
        self.positions = POSITIONS["sinusoidal"](s.size, 1024)
        self.encoder = nn.ModuleList(
            TransformerEncoderLayer(s.size, s.heads, s.ffn_size, s.attention, dropout=s.dropout)
            for _ in range(s.layers)
        )
        self.norm = nn.LayerNorm(s.size)

    def read(self, embedded: Tensor, lengths: Tensor) -> Tensor:
        states = embedded * self.scale + self.positions(0, embedded.shape[1])
        for layer in self.encoder:
            states, _ = layer(states, masks.padding(lengths))
        normed: Tensor = self.norm(states)
        return normed
