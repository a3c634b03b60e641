"""The reader of Seo et al. 2017: bidirectional attention flow between recurrent layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from regard.data.passages import Questions
from regard.layers import BidirectionalAttentionFlow
from regard.layers.dropout import Dropout
from regard.layers.learned import visible
from regard.models import checks
from regard.models.reading import Ends, Reader, WordVectors
from regard.models.recurrent import CELLS, RecurrentEncoder


@dataclass(frozen=True)
class BiDAFSettings:
    """The shape of a BiDAF reader; raises `UserError` for a value out of range, naming it."""

    words: int
    characters: int
    null_scores: int
    """1 where a question may have no answer, else 0."""
    word_size: int = 100
    character_size: int = 64
    """How many convolutions read a word's characters; 0: none."""
    size: int = 100
    """Of a word's vector when both are brought together."""
    hidden_size: int = 64
    """Of the state of each direction."""
    modelling_layers: int = 1
    cell: Literal["gru", "lstm"] = "lstm"
    attention: str = "linear/softmax"
    """The mechanism of the attention flow, or `none`: the question as one vector."""
    match: bool = True
    """Tell of each word whether the other text has it, too."""
    dropout: float = 0.2
    word_dropout: float = 0.05

    def __post_init__(self) -> None:
        checks.at_least_one(
            self, "words", "characters", "word_size", "size", "hidden_size", "modelling_layers"
        )
        checks.share(self, "dropout", "word_dropout")
        checks.one_of(self, "cell", CELLS)
        if self.character_size:
            checks.at_least_one(self, "character_size")
        if self.attention != "none":
            checks.mechanism("attention", self.attention, over_source=True)


class NoFlow(nn.Module):
    """In place of attention: every place beside the whole question and, multiplied, the whole context.

    The shapes are those of `BidirectionalAttentionFlow`; both are summed up by the last states of their encoder.
    """

    def forward(self, context: Tensor, lengths: Tensor, asked: Tensor, whole: Tensor) -> Tensor:
        """*Shape*: context `(batch, context_len, size)`, both summaries `(batch, size)`."""
        asked, whole = asked.unsqueeze(1).expand_as(context), whole.unsqueeze(1)
        flow = torch.cat([context, asked, context * asked, context * whole], -1)
        return flow * visible(lengths, context)[:, 0, 0].unsqueeze(-1)


class BiDAF(Reader):
    """Words from vectors and characters; a recurrent layer over each text; attention flow; recurrent layers over what
    flowed; an answer's start and end.

    Example:
        >>> from regard.data.lexicon import Lexicon
        >>> from regard.data.passages import Window
        >>> lexicon = Lexicon.learn([["Who", "came", "?"], ["He", "came"]], words=50, characters=30)
        >>> batch = lexicon.lay([Window(("Who", "?"), ("He", "came"), ((0, 0, 1.0),))])
        >>> reader = BiDAF(BiDAFSettings(50, 30, null_scores=1, size=8, hidden_size=4))
        >>> scores, weights = reader.read(batch, return_weights=True)
        >>> scores.shape, weights.shape
        (torch.Size([1, 2, 3]), torch.Size([1, 1, 1, 2, 2]))

    Seo et al. 2017, section 2. Here the texts' match (Chen et al. 2017) is told, too, unless `match` is false; what
    flowed is narrowed before the recurrent layers, as in Clark & Gardner 2018, section 3.1; and a question may have no
    answer.
    """

    def __init__(self, settings: BiDAFSettings) -> None:
        super().__init__()
        self.settings = settings
        hidden, memory = settings.hidden_size, 2 * settings.hidden_size
        self.vectors = WordVectors(
            settings.words,
            settings.characters,
            size=settings.size,
            word_size=settings.word_size,
            character_size=settings.character_size,
            match=settings.match,
            dropout=settings.dropout,
            word_dropout=settings.word_dropout,
        )

        def recurrent(size: int, layers: int) -> RecurrentEncoder:
            return RecurrentEncoder(
                settings.cell, size, hidden, layers=layers, bidirectional=True, dropout=settings.dropout
            )

        self.contextual = recurrent(self.vectors.width, 1)
        self.flow = (
            NoFlow()
            if settings.attention == "none"
            else BidirectionalAttentionFlow(memory, settings.attention)
        )
        self.narrow = nn.Linear(4 * memory, memory)
        self.modelling = recurrent(memory, settings.modelling_layers)
        self.ending = recurrent(memory, 1)
        self.ends = Ends(5 * memory, bool(settings.null_scores), settings.dropout)
        self.dropout = Dropout(settings.dropout)

    def read(self, batch: Questions, *, return_weights: bool = False) -> tuple[Tensor, Tensor | None]:
        context, question = self.vectors(batch)
        lengths, asked = batch.context_lengths, batch.question_lengths
        context, whole = self.contextual(context, lengths)
        question, summary = self.contextual(question, asked)
        weights = None
        if isinstance(self.flow, NoFlow):
            flow = self.flow(context, lengths, summary, whole)
        else:
            flow, weights = self.flow(context, lengths, question, asked, return_weights=return_weights)
        first, _ = self.modelling(self.dropout(self.narrow(flow).relu()), lengths)
        second, _ = self.ending(self.dropout(first), lengths)
        scores = self.ends(torch.cat([flow, first], -1), torch.cat([flow, second], -1), lengths)
        return scores, None if weights is None else weights[:, None, None]
