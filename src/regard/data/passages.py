"""Texts as words that know where they stand, and questions on them as batches of numbers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import groupby

import torch
from torch import Tensor

from regard.data.squad import Question

__all__ = ["Passage", "Questions", "Window", "passage", "spans"]

_HAN = "々〆〇\u2e80-\u2fdf\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_HIRAGANA = "\u3041-\u309f"
_KATAKANA = "\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer


def _marks() -> str:
    """Combining marks, as the inside of a class of a regular expression."""
    places = [code for code in range(0x300, 0xFFFF) if unicodedata.category(chr(code)).startswith("M")]
    runs = [
        [code for _, code in run] for _, run in groupby(enumerate(places), lambda pair: pair[1] - pair[0])
    ]
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


@dataclass(frozen=True)
class Passage:
    """A text and its words; each word is its first character and the one after its last."""

    text: str
    places: tuple[tuple[int, int], ...]

    @property
    def words(self) -> tuple[str, ...]:
        """The words as they stand there."""
        return tuple(self.text[first:last] for first, last in self.places)

    def between(self, first: int, last: int) -> str:
        """The text from word `first` to word `last`, both with it, spaces and all; nothing where there is none.

        Example:
            >>> passage("It  costs 3.50 euros.").between(2, 5)
            '3.50 euros'
        """
        return self.text[self.places[first][0] : self.places[last][1]] if first <= last else ""

    def answers(self, question: Question) -> list[tuple[int, int]]:
        """The first and last word of each answer in this text; a word that is partly in an answer is taken whole.

        Example:
            >>> one = Question("When?", "In 1562, in May.", (("562", 4), ("May", 12), ("never", -1)))
            >>> passage(one.context).answers(one)
            [(1, 1), (4, 4)]
        """
        found = []
        for text, start in question.answers:
            first, last = start + len(text) - len(text.lstrip()), start + len(text.rstrip())
            inside = [n for n, (a, b) in enumerate(self.places) if b > first and a < last]
            if start >= 0 and inside:
                found.append((inside[0], inside[-1]))
        return found

    def windows(self, longest: int, stride: int) -> list[tuple[int, int]]:
        """Parts of at most `longest` words, one beginning every `stride`, the last one full.

        Example:
            >>> passage("a b c d e f g h i j").windows(6, 3), passage("a b c d").windows(6, 3)
            ([(0, 6), (3, 9), (4, 10)], [(0, 4)])
        """
        count = len(self.places)
        if count <= longest:
            return [(0, count)]
        return [(first, first + longest) for first in (*range(0, count - longest, stride), count - longest)]


@lru_cache(10_000)
def passage(text: str) -> Passage:
    """The text and its words; many questions are asked of one text."""
    return Passage(text, tuple(spans(text)))


@dataclass(frozen=True, slots=True)
class Window:
    """A question and a part of its context, in words: what a model reads at once."""

    question: tuple[str, ...]
    context: tuple[str, ...]
    answers: tuple[tuple[int, int, float], ...] = ()
    """The first and the last word of each answer and its share; none where the answer is not in this part."""

    @classmethod
    def to_learn(
        cls, one: Question, question: tuple[str, ...], longest: int, stride: int, null: bool
    ) -> Iterator[Window]:
        """The windows of a context to learn one question by: that with most answers in it, in its middle if possible;
        with `null` also those that no answer is in, wholly or partly.

        There is none where every answer is longer than a window.
        """
        text = passage(one.context)
        words, answers, limits = text.words, text.answers(one), text.windows(longest, stride)
        inside = [[one for one in answers if first <= one[0] and one[1] < last] for first, last in limits]

        def fitness(number: int) -> tuple[int, int]:
            first, last = limits[number]
            chosen = inside[number]
            return len(chosen), -abs(sum(chosen[0]) - first - last) if chosen else 0

        best = max(range(len(limits)), key=fitness)
        for number, (first, last) in enumerate(limits):
            chosen = inside[number]
            empty = not any(a < last and b >= first for a, b in answers)
            if (number == best and chosen) or (null and empty):
                shares = tuple((a - first, b - first, 1 / len(chosen)) for a, b in chosen)
                yield cls(question, words[first:last], shares)


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
