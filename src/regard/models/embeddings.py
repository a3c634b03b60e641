"""The three tables of a translation model: source, target and output words; and which of them are one."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from regard.errors import UserError

Tying = Literal["none", "output", "all"]
TYINGS: tuple[Tying, ...] = ("none", "output", "all")


class Embeddings(nn.Module):
    """The vectors of source and target words, and the projection that scores the next target word.

    With `tying` "output" the next word is scored with the target vectors themselves (Press & Wolf 2017); with
    "all" the source has them too (one shared vocabulary; Vaswani et al. 2017, section 3.4); with "none" there
    are three tables. A table that serves twice is one parameter, under one name. Words read are scaled by
    `scale`; `std` is that of the initial vectors.
    """

    def __init__(
        self,
        source_vocabulary: int,
        target_vocabulary: int,
        size: int,
        *,
        tying: Tying,
        output_bias: bool,
        scale: float,
        std: float,
    ) -> None:
        super().__init__()
        if tying not in TYINGS:
            raise UserError(f"tie_embeddings must be one of {', '.join(TYINGS)}, got {tying!r}")
        if tying == "all" and source_vocabulary != target_vocabulary:
            raise UserError(
                "tie_embeddings = 'all' needs one vocabulary for both sides, "
                f"got {source_vocabulary} source and {target_vocabulary} target words"
            )
        self.scale = scale
        self.target = nn.Parameter(torch.empty(target_vocabulary, size).normal_(std=std))
        self.source = (
            None if tying == "all" else nn.Parameter(torch.empty(source_vocabulary, size).normal_(std=std))
        )
        self.output = (
            nn.Parameter(nn.init.xavier_uniform_(torch.empty(target_vocabulary, size)))
            if tying == "none"
            else None
        )
        self.output_bias = nn.Parameter(torch.zeros(target_vocabulary)) if output_bias else None

    @property
    def output_weight(self) -> Tensor:
        """*Shape*: `(target_vocabulary, size)`."""
        return self.target if self.output is None else self.output

    def read_source(self, ids: Tensor) -> Tensor:
        """*Shape*: `(...)` int64 -> `(..., size)`."""
        return self._read(ids, self.target if self.source is None else self.source)

    def read_target(self, ids: Tensor) -> Tensor:
        """*Shape*: `(...)` int64 -> `(..., size)`."""
        return self._read(ids, self.target)

    def _read(self, ids: Tensor, table: Tensor) -> Tensor:
        vectors = functional.embedding(ids, table)
        return vectors if self.scale == 1.0 else vectors * self.scale
