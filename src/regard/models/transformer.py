"""The Transformer encoder-decoder, with any attention mechanism in its layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from regard.attention import masks
from regard.attention.mechanism import Mechanism
from regard.errors import UserError
from regard.layers import Cache, Memory, TransformerDecoderLayer, TransformerEncoderLayer
from regard.layers.dropout import Dropout
from regard.models import checks
from regard.models.embeddings import Embeddings, Tying
from regard.models.positions import POSITIONS
from regard.models.sequence import SequenceToSequence, sentences_to_select


@dataclass(frozen=True)
class TransformerSettings:
    """The shape of a Transformer encoder-decoder; raises `UserError` for a value out of range, naming it."""

    source_vocabulary: int
    target_vocabulary: int
    size: int = 128
    ffn_size: int = 256
    heads: int = 4
    encoder_layers: int = 4
    decoder_layers: int = 4
    attention: str = "scaled_dot/softmax"
    """The mechanism of every layer, spelt `score/normalizer[/mask]`."""
    cross_attention: str = ""
    """The mechanism with which the decoder looks at the source; by default `attention`, without its masks, biases and
    rotary positions."""
    dropout: float = 0.1
    """Of the embeddings and of what each block adds."""
    attention_dropout: float = 0.0
    """Of the attention weights."""
    pre_norm: bool = True
    """Normalise what each block reads, and the end result (Xiong et al. 2020), not what it has written."""
    positions: Literal["sinusoidal", "learned"] = "sinusoidal"
    longest: int = 1024
    """The number of places that learned positions have."""
    tie_embeddings: Tying = "output"
    """Which tables are one: "none", target and "output", or "all" (one vocabulary for both sides)."""

    def __post_init__(self) -> None:
        checks.at_least_one(
            self, "source_vocabulary", "target_vocabulary", "size", "ffn_size", "heads", "longest"
        )
        checks.at_least_one(self, "encoder_layers", "decoder_layers")
        checks.share(self, "dropout", "attention_dropout")
        checks.one_of(self, "positions", POSITIONS)
        checks.heads_divide(self, "size")
        if "none" in (self.attention, self.cross_attention):
            raise UserError(
                "a Transformer is made of attention: for attention = 'none' choose the model 'rnn'"
            )
        checks.mechanism("attention", self.attention, over_source=False)
        if self.cross_attention:
            checks.mechanism("cross_attention", self.cross_attention, over_source=True)

    @property
    def over_source(self) -> Mechanism:
        """The mechanism with which the decoder looks at the source."""
        return Mechanism.parse(self.cross_attention or self.attention).over_memory()


@dataclass(frozen=True)
class TransformerState:
    """For each layer the prepared memory and the cache of what is written.

    `written` is how much that is, `width` how many rows of the batch continue one source and share its memory. Where
    the mechanism does not ask how far a key is from a query, these share one cache, too, in which their places lie
    side by side; nothing is copied when a beam turns to another continuation, and `ancestors` tells which places are a
    row's own past.

    *Shape*: ancestors boolean `(sentences, width, places)`, or None where every row has a cache of its own.
    """

    memories: tuple[Memory, ...]
    caches: tuple[Cache | None, ...]
    ancestors: Tensor | None = None
    written: int = 0
    width: int = 1

    def select(self, rows: Tensor) -> TransformerState:
        """Reorder, repeat or drop rows of the batch, as `State.select`."""
        memories, caches, ancestors = self.memories, self.caches, self.ancestors
        sentences = sentences_to_select(rows, memories[0].key.shape[0] * self.width, self.width)
        if sentences is not None:
            memories = tuple(memory.select(sentences) for memory in memories)
        if ancestors is None:
            flat = rows.flatten()
            caches = tuple(None if cache is None else cache.select(flat) for cache in caches)
        else:
            if sentences is not None:
                caches = tuple(None if cache is None else cache.select(sentences) for cache in caches)
            grouped = rows if rows.ndim == 2 else rows[:, None]
            ancestors = ancestors.flatten(0, 1)[grouped]
        width = rows.shape[1] if rows.ndim == 2 else 1
        return TransformerState(memories, caches, ancestors, self.written, width)


class TransformerSeq2Seq(SequenceToSequence[TransformerState]):
    """Attention in place of recurrence (Vaswani et al. 2017).

    Example:
        >>> import torch
        >>> model = TransformerSeq2Seq(TransformerSettings(20, 30, size=8, heads=2)).eval()
        >>> source, lengths = torch.tensor([[4, 5, 2]]), torch.tensor([3])
        >>> states = model(source, lengths, torch.tensor([[1, 7]]))
        >>> model.project(states).shape
        torch.Size([1, 2, 30])
    """

    def __init__(self, settings: TransformerSettings) -> None:
        super().__init__()
        self.settings = settings
        self.embeddings = Embeddings(
            settings.source_vocabulary,
            settings.target_vocabulary,
            settings.size,
            tying=settings.tie_embeddings,
            output_bias=False,
            scale=settings.size**0.5,
            std=settings.size**-0.5,
        )
        self.positions = POSITIONS[settings.positions](settings.size, settings.longest)
        shape = settings.size, settings.heads, settings.ffn_size, settings.attention
        how: dict[str, Any] = {
            "norm": "pre" if settings.pre_norm else "post",
            "dropout": settings.dropout,
            "attention_dropout": settings.attention_dropout,
        }
        self.encoder = nn.ModuleList(
            TransformerEncoderLayer(*shape, **how) for _ in range(settings.encoder_layers)
        )
        self.decoder = nn.ModuleList(
            TransformerDecoderLayer(*shape, cross_mechanism=settings.over_source, **how)
            for _ in range(settings.decoder_layers)
        )
        self.encoder_norm = nn.LayerNorm(settings.size) if settings.pre_norm else nn.Identity()
        self.decoder_norm = nn.LayerNorm(settings.size) if settings.pre_norm else nn.Identity()
        self.dropout = Dropout(settings.dropout)
        own = Mechanism.parse(settings.attention)
        self.placeless = own.over_memory() is own
        """Whether keys may lie in any order."""
        for module in (*self.encoder.modules(), *self.decoder.modules()):
            # Queries, keys and values may lie in one matrix, but each is a projection of its own.
            packed: Mapping[str, int] = getattr(module, "packed", {})
            for name, linear in module.named_children():
                if isinstance(linear, nn.Linear):
                    for block in linear.weight.chunk(packed.get(name, 1)):
                        nn.init.xavier_uniform_(block)
                    nn.init.zeros_(linear.bias)

    @property
    def output_weight(self) -> Tensor:
        return self.embeddings.output_weight

    @property
    def output_bias(self) -> Tensor | None:
        return self.embeddings.output_bias

    def encode(self, source: Tensor, source_lengths: Tensor) -> TransformerState:
        sequence = self.embeddings.read_source(source) + self.positions(0, source.shape[1])
        sequence = self.dropout(sequence)
        mask = masks.padding(source_lengths)
        for layer in self.encoder:
            sequence, _ = layer(sequence, mask)
        memory = self.encoder_norm(sequence)
        memories = tuple(
            cast(TransformerDecoderLayer, layer).prepare(memory, source_lengths) for layer in self.decoder
        )
        ancestors = None
        if self.placeless:
            ancestors = torch.ones(source.shape[0], 1, 0, dtype=torch.bool, device=source.device)
        return TransformerState(memories, (None,) * len(memories), ancestors)

    def _decode(
        self,
        embedded: Tensor,
        state: TransformerState,
        looking: int = 0,
        ancestors: Tensor | None = None,
    ) -> tuple[Tensor, TransformerState, list[Tensor]]:
        """Go through all layers; also return the weights of the last `looking` ones.

        *Shape*: embedded `(rows, places, size)`, or, with ancestors `(sentences, width, places)`, the row a place
        `(sentences, width, size)`.
        """
        sequence = self.dropout(embedded)
        mask = None if ancestors is None else ancestors[:, None]
        width = state.width if ancestors is None else 1
        caches, seen = [], []
        silent = len(self.decoder) - looking
        for number, (layer, memory, before) in enumerate(
            zip(self.decoder, state.memories, state.caches, strict=True)
        ):
            sequence, weights, cache = layer(
                sequence, memory, before, mask=mask, width=width, return_weights=number >= silent
            )
            caches.append(cache)
            if weights is not None:
                seen.append(weights)
        written = state.written + (embedded.shape[1] if ancestors is None else 1)
        after = replace(state, caches=tuple(caches), ancestors=ancestors, written=written)
        return self.decoder_norm(sequence), after, seen

    def forward(self, source: Tensor, source_lengths: Tensor, target_input: Tensor) -> Tensor:
        embedded = self.embeddings.read_target(target_input) + self.positions(0, target_input.shape[1])
        return self._decode(embedded, self.encode(source, source_lengths))[0]

    def step(self, tokens: Tensor, state: TransformerState) -> tuple[Tensor, TransformerState, Tensor | None]:
        embedded = self.embeddings.read_target(tokens)[:, None] + self.positions(state.written, 1)
        ancestors = state.ancestors
        if ancestors is not None:
            # The rows of a sentence are new places of its one cache; each sees its own past and itself.
            itself = torch.eye(state.width, dtype=torch.bool, device=tokens.device)
            ancestors = torch.cat([ancestors, itself.expand(len(ancestors), -1, -1)], 2)
            embedded = embedded.view(-1, state.width, embedded.shape[2])
        states, after, seen = self._decode(embedded, state, 1, ancestors)
        return self.project(states.flatten(0, 1)), after, seen[-1].mean(1).flatten(0, 1)

    def alignment(self, source: Tensor, source_lengths: Tensor, target_input: Tensor) -> Tensor:
        embedded = self.embeddings.read_target(target_input) + self.positions(0, target_input.shape[1])
        state = self.encode(source, source_lengths)
        return torch.stack(self._decode(embedded, state, len(self.decoder))[2], 1)
