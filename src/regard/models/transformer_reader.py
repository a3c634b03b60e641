"""A reader without recurrence: convolutions and self-attention, with any mechanism, on both sides of attention flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from regard.attention import masks
from regard.data.passages import Questions
from regard.errors import UserError
from regard.layers import BidirectionalAttentionFlow, TransformerEncoderLayer
from regard.layers.dropout import Dropout
from regard.layers.learned import visible
from regard.models import checks
from regard.models.positions import SinusoidalPositions
from regard.models.reading import Ends, Reader, WordVectors


@dataclass(frozen=True)
class TransformerReaderSettings:
    """The shape of a Transformer reader; raises `UserError` for a value out of range, naming it."""

    words: int
    characters: int
    null_scores: int
    """1 where a question may have no answer, else 0."""
    word_size: int = 100
    character_size: int = 64
    """How many convolutions read a word's characters; 0: none."""
    size: int = 96
    """Of the states."""
    ffn_size: int = 192
    heads: int = 4
    encoder_layers: int = 1
    """Blocks that read each text."""
    modelling_layers: int = 2
    """Blocks that read what flowed, three times over."""
    convolutions: int = 2
    """In each block, before self-attention."""
    kernel: int = 7
    """How many words a convolution sees."""
    attention: str = "scaled_dot/softmax"
    """The mechanism of self-attention, spelt `score/normalizer[/mask]`."""
    flow: str = "linear/softmax"
    """The mechanism between context and question."""
    match: bool = True
    """Tell of each word whether the other text has it, too."""
    dropout: float = 0.1
    word_dropout: float = 0.05

    def __post_init__(self) -> None:
        checks.at_least_one(self, "words", "characters", "word_size", "size", "ffn_size", "heads", "kernel")
        checks.at_least_one(self, "encoder_layers", "modelling_layers")
        checks.share(self, "dropout", "word_dropout")
        checks.heads_divide(self, "size")
        for field in ("character_size", "convolutions"):
            if getattr(self, field):
                checks.at_least_one(self, field)
        if self.kernel % 2 == 0:
            raise UserError(f"kernel must be odd, got {self.kernel}")
        if "none" in (self.attention, self.flow):
            raise UserError(
                "a Transformer is made of attention: for attention = 'none' choose the model 'bidaf'"
            )
        checks.mechanism("attention", self.attention, over_source=False)
        checks.mechanism("flow", self.flow, over_source=True)


class Convolution(nn.Module):
    """A depthwise separable convolution over a sequence (Chollet 2017), around it what is around every block.

    *Shape*: sequence `(batch, length, size)`, inside `(batch, length, 1)`, zero at padding -> as sequence.
    """

    def __init__(self, size: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.across = nn.Conv1d(size, size, kernel, padding=kernel // 2, groups=size)
        self.through = nn.Linear(size, size)
        self.dropout = Dropout(dropout)

    def forward(self, sequence: Tensor, inside: Tensor) -> Tensor:
        """The sequence and what was read."""
        around = self.across((self.norm(sequence) * inside).transpose(1, 2)).transpose(1, 2)
        return self.dropout.add(sequence, self.through(around).relu())


class Block(nn.Module):
    """Convolutions, self-attention, feed-forward.  *Shape*: `(batch, length, size)`, lengths `(batch,)` -> the same."""

    def __init__(self, settings: TransformerReaderSettings) -> None:
        super().__init__()
        size, dropout = settings.size, settings.dropout
        self.convolutions = nn.ModuleList(
            Convolution(size, settings.kernel, dropout) for _ in range(settings.convolutions)
        )
        self.attention = TransformerEncoderLayer(
            size, settings.heads, settings.ffn_size, settings.attention, dropout=dropout
        )

    def forward(self, sequence: Tensor, lengths: Tensor) -> Tensor:
        """The sequence, read once more."""
        inside = visible(lengths, sequence)[:, 0, 0].unsqueeze(-1)
        for convolution in self.convolutions:
            sequence = convolution(sequence, inside)
        return cast(Tensor, self.attention(sequence, masks.padding(lengths))[0])


class TransformerReader(Reader):
    """Words from vectors and characters; blocks of convolutions and self-attention over each text; attention flow; more
    such blocks over what flowed, three times; an answer's start from the first and second time, its end from the first
    and third.

    Example:
        >>> from regard.data.lexicon import Lexicon
        >>> from regard.data.passages import Window
        >>> lexicon = Lexicon.learn([["Who", "came", "?"], ["He", "came"]], words=50, characters=30)
        >>> batch = lexicon.lay([Window(("Who", "?"), ("He", "came"), ((0, 0, 1.0),))])
        >>> settings = TransformerReaderSettings(50, 30, 0, size=8, heads=2, attention="cosine/sparsemax/window-8")
        >>> scores, weights = TransformerReader(settings).read(batch, return_weights=True)
        >>> scores.shape, weights.shape
        (torch.Size([1, 2, 3]), torch.Size([1, 1, 1, 2, 2]))

    Yu et al. 2018 (QANet), section 2.2, smaller, with positions once, without stochastic depth; a question may have no
    answer.
    """

    def __init__(self, settings: TransformerReaderSettings) -> None:
        super().__init__()
        self.settings = settings
        size = settings.size
        self.vectors = WordVectors(
            settings.words,
            settings.characters,
            size=size,
            word_size=settings.word_size,
            character_size=settings.character_size,
            match=settings.match,
            dropout=settings.dropout,
            word_dropout=settings.word_dropout,
        )
        self.enter = nn.Linear(self.vectors.width, size)
        self.positions = SinusoidalPositions(size, 512)
        self.encoder = nn.ModuleList(Block(settings) for _ in range(settings.encoder_layers))
        self.encoder_norm = nn.LayerNorm(size)
        self.flow = BidirectionalAttentionFlow(size, settings.flow)
        self.narrow = nn.Linear(4 * size, size)
        self.modelling = nn.ModuleList(Block(settings) for _ in range(settings.modelling_layers))
        self.modelling_norm = nn.LayerNorm(size)
        self.ends = Ends(2 * size, bool(settings.null_scores), settings.dropout)
        self.dropout = Dropout(settings.dropout)

    def read(self, batch: Questions, *, return_weights: bool = False) -> tuple[Tensor, Tensor | None]:
        lengths, asked = batch.context_lengths, batch.question_lengths
        context, question = (
            self._encode(vectors, count)
            for vectors, count in zip(self.vectors(batch), (lengths, asked), strict=True)
        )
        flow, weights = self.flow(context, lengths, question, asked, return_weights=return_weights)
        sequence = self.narrow(self.dropout(flow))
        read: list[Tensor] = []
        for _ in range(3):
            for block in self.modelling:
                sequence = block(sequence, lengths)
            read.append(self.modelling_norm(sequence))
        scores = self.ends(torch.cat(read[:2], -1), torch.cat([read[0], read[2]], -1), lengths)
        return scores, None if weights is None else weights[:, None, None]

    def _encode(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        sequence = self.dropout(self.enter(vectors) + 0.3 * self.positions(0, vectors.shape[1]))
        for block in self.encoder:
            sequence = block(sequence, lengths)
        return self.encoder_norm(sequence)
