"""The recurrent encoder-decoder, with any attention mechanism between its halves or with none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from regard.errors import UserError
from regard.layers import MemoryAttention
from regard.layers.dropout import Dropout
from regard.models import checks
from regard.models.embeddings import Embeddings, Tying
from regard.models.recurrent import CELLS, RecurrentEncoder
from regard.models.sequence import SequenceToSequence, sentences_to_select
from regard.models.wiring import WIRINGS, Carried, Look, LookAtSummary


@dataclass(frozen=True)
class RecurrentSettings:
    """The shape of a recurrent encoder-decoder; raises `UserError` for a value out of range, naming it."""

    source_vocabulary: int
    target_vocabulary: int
    embedding_size: int = 256
    hidden_size: int = 256
    encoder_layers: int = 1
    decoder_layers: int = 1
    cell: Literal["gru", "lstm"] = "gru"
    bidirectional: bool = True
    attention: str = "additive/softmax"
    """A mechanism spelt `score/normalizer`, or `none`."""
    attention_size: int = 0
    """The size in which queries and keys are compared; 0 means `hidden_size`."""
    heads: int = 1
    wiring: Literal["bahdanau", "luong", "luong-plain"] = "bahdanau"
    """When the decoder looks: with its previous state, its new one, or so without feeding the result back."""
    dropout: float = 0.2
    tie_embeddings: Tying = "none"
    """Which tables are one: "none", target and "output", or "all" (one vocabulary for both sides)."""

    def __post_init__(self) -> None:
        checks.at_least_one(self, "source_vocabulary", "target_vocabulary", "embedding_size", "hidden_size")
        checks.at_least_one(self, "encoder_layers", "decoder_layers", "heads")
        checks.share(self, "dropout")
        checks.one_of(self, "cell", CELLS)
        checks.one_of(self, "wiring", WIRINGS)
        if self.attention_size < 0:
            raise UserError(f"attention_size must be at least 0, got {self.attention_size}")
        if self.attention != "none":
            checks.heads_divide(self, "attention_size" if self.attention_size else "hidden_size")
            checks.mechanism("attention", self.attention, over_source=True)


@dataclass(frozen=True)
class RecurrentState:
    """The prepared memory and what the decoder carries from token to token."""

    memory: Any
    carried: Carried
    width: int = 1

    def select(self, rows: Tensor) -> RecurrentState:
        """Reorder, repeat or drop rows of the batch, as `State.select`."""
        flat = rows.flatten()
        carried = tuple(tuple(part.index_select(0, flat) for part in layer) for layer in self.carried)
        memory = self.memory
        if (sentences := sentences_to_select(rows, self.carried[0][0].shape[0], self.width)) is not None:
            memory = memory.select(sentences)
        return RecurrentState(memory, carried, rows.shape[1] if rows.ndim == 2 else 1)


class RecurrentSeq2Seq(SequenceToSequence[RecurrentState]):
    """An encoder that reads both ways and a decoder that looks back at it (Bahdanau et al. 2015; Luong et al.
    2015).

    Example:
        >>> import torch
        >>> model = RecurrentSeq2Seq(RecurrentSettings(20, 30, embedding_size=8, hidden_size=8)).eval()
        >>> source, lengths = torch.tensor([[4, 5, 2]]), torch.tensor([3])
        >>> states = model(source, lengths, torch.tensor([[1, 7]]))
        >>> model.project(states).shape
        torch.Size([1, 2, 30])
    """

    def __init__(self, settings: RecurrentSettings) -> None:
        super().__init__()
        self.settings = settings
        size, embedding = settings.hidden_size, settings.embedding_size
        self.embeddings = Embeddings(
            settings.source_vocabulary,
            settings.target_vocabulary,
            embedding,
            tying=settings.tie_embeddings,
            output_bias=True,
            scale=1.0,
            std=0.1,
        )
        self.encoder = RecurrentEncoder(
            settings.cell,
            embedding,
            size,
            layers=settings.encoder_layers,
            bidirectional=settings.bidirectional,
            dropout=settings.dropout,
        )
        memory_size = self.encoder.memory_size
        look: Look
        if settings.attention == "none":
            look = LookAtSummary(2 if settings.bidirectional else 1)
        else:
            look = MemoryAttention(
                settings.attention,
                size,
                memory_size,
                attention_size=settings.attention_size or size,
                heads=settings.heads,
            )
        self.decoder = WIRINGS[settings.wiring](
            look, settings.cell, embedding, size, memory_size, settings.decoder_layers, settings.dropout
        )
        self.dropout = Dropout(settings.dropout)

    @property
    def output_weight(self) -> Tensor:
        return self.embeddings.output_weight

    @property
    def output_bias(self) -> Tensor | None:
        return self.embeddings.output_bias

    def encode(self, source: Tensor, source_lengths: Tensor) -> RecurrentState:
        embedded = self.dropout(self.embeddings.read_source(source))
        memory, summary = self.encoder(embedded, source_lengths)
        prepared = self.decoder.look.prepare(memory, source_lengths)
        return RecurrentState(prepared, self.decoder.start(summary))

    def _unroll(
        self, tokens: Tensor, state: RecurrentState, return_weights: bool = False
    ) -> tuple[Tensor, RecurrentState, Tensor | None]:
        embedded = self.dropout(self.embeddings.read_target(tokens))
        readout, carried, weights = self.decoder(
            embedded, state.carried, state.memory, state.width, return_weights
        )
        return self.dropout(readout), RecurrentState(state.memory, carried, state.width), weights

    def forward(self, source: Tensor, source_lengths: Tensor, target_input: Tensor) -> Tensor:
        return self._unroll(target_input, self.encode(source, source_lengths))[0]

    def step(self, tokens: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState, Tensor | None]:
        readout, after, weights = self._unroll(tokens[:, None], state, return_weights=True)
        looked = None if weights is None else weights.mean(1).flatten(0, 1)
        return self.project(readout.squeeze(1)), after, looked

    def alignment(self, source: Tensor, source_lengths: Tensor, target_input: Tensor) -> Tensor | None:
        _, _, weights = self._unroll(target_input, self.encode(source, source_lengths), return_weights=True)
        return None if weights is None else weights.unsqueeze(1)
