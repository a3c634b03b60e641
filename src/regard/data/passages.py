"""Texts as words that know where they stand, and questions on them as batches of numbers."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import groupby

import torch
from torch import Tensor

from regard.data.batches import padded
from regard.data.squad import Question

__all__ = ["Asked", "Questions", "Window", "spans", "windows"]

_HAN = "々〆〇\u2e80-\u2fdf\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_HIRAGANA = "\u3041-\u309f"
_KATAKANA = "\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer


def _marks() -> str:
    """Combining marks, as the inside of a class of a regular expression."""
    places = [code for code in range(0x300, 0xFFFF) if unicodedata.category(chr(code)).startswith("M")]
    runs = [[code for _, code in run] for _, run in groupby(enumerate(places), lambda pair: pair[1] - pair[0])]
    return "".join(f"{chr(run[0])}-{chr(run[-1])}" for run in runs)


@lru_cache(1)
def _word() -> re.Pattern[str]:
    alone, marks = _HAN + _HIRAGANA + _UNSPACED, _marks()
    return re.compile(
        rf"[{alone}][{marks}]*"
        rf"|[{_KATAKANA}]+"
        rf"|[^\W\d_{alone}{_KATAKANA}](?:[^\W\d_{alone}{_KATAKANA}]|[{marks}])*"
        r"|\d+|\S"
    )


def spans(text: str) -> list[tuple[int, int]]:
    """The words of a text, each as its first character and the one after its last.

    A word is a run of letters, of digits or of katakana; a character of Chinese, of hiragana or of Thai, Lao, Burmese
    or Khmer, which have no spaces between words; or any other character but white space.

    Example:
        >>> text = "Bob's 3.5 kg, 東京タワー"
        >>> [text[first:last] for first, last in spans(text)]
        ['Bob', "'", 's', '3', '.', '5', 'kg', ',', '東', '京', 'タワー']
    """
    return [match.span() for match in _word().finditer(text)]


def windows(count: int, longest: int, stride: int) -> list[tuple[int, int]]:
    """Cut `count` words into windows of at most `longest`, one beginning every `stride`, the last one full.

    Example:
        >>> windows(10, 6, 3), windows(4, 6, 3)
        ([(0, 6), (3, 9), (4, 10)], [(0, 4)])
    """
    if count <= longest:
        return [(0, count)]
    firsts = [*range(0, count - longest, stride), count - longest]
    return [(first, first + longest) for first in firsts]


@dataclass(frozen=True, slots=True)
class Window:
    """A question and a part of its context, in words: what a model reads at once."""

    question: tuple[str, ...]
    context: tuple[str, ...]
    answers: tuple[tuple[int, int, float], ...] = ()
    """The first and the last word of each answer and its share; none where the answer is not in this part."""


@dataclass(frozen=True)
class Questions:
    """Windows side by side, every different word of them told once.

    *Shape*: of the words, whose place 0 is padding: words `(words,)`, their numbers in a vocabulary; spellings `(words,
    longest)`, their characters; forms and stems `(words,)`, the same number for words that are the same but for case,
    or but for their endings. context `(batch, context_len)` and question `(batch, question_len)` are places among the
    words, with lengths `(batch,)`. starts and ends `(batch, answers)` are places in the context, counted from 1, where
    0 is that there is no answer; shares `(batch, answers)` sum to 1.

    `index` holds each row's number among the windows of a data set.
    """

    words: Tensor
    spellings: Tensor
    forms: Tensor
    stems: Tensor
    context: Tensor
    context_lengths: Tensor
    question: Tensor
    question_lengths: Tensor
    starts: Tensor
    ends: Tensor
    shares: Tensor
    index: list[int]

    def to(self, device: torch.device | str) -> Questions:
        """The same batch on another device."""
        moved = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "index"}
        return replace(self, **{name: tensor.to(device) for name, tensor in moved.items()})
