"""How good are extracted answers: exact match and F1 as SQuAD's and CMRC's scorers compute them."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from regard.tasks.text_metrics import bleu_tokenizer

__all__ = ["Measure", "best_threshold", "cmrc", "measure_answers", "measure_for", "squad"]

CJK = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff々〆"
PARTS = re.compile(rf"[{CJK}]|[^\W_{CJK}]+")

Score = Callable[[str, str], float]


class Measure(NamedTuple):
    """How one answer is held against one that is right; each score is from 0 to 1."""

    name: str
    about: str
    normal: Callable[[str], str]
    exact: Score
    f1: Score


def _squad_normal(text: str) -> str:
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _squad_f1(said: str, right: str) -> float:
    ours, theirs = _squad_normal(said).split(), _squad_normal(right).split()
    if not ours or not theirs:
        return float(ours == theirs)
    same = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * same / (len(ours) + len(theirs))


squad = Measure(
    "squad",
    "SQuAD's: words without case, punctuation and articles",
    _squad_normal,
    lambda said, right: float(_squad_normal(said) == _squad_normal(right)),
    _squad_f1,
)
"""Exact match and F1 of the words (Rajpurkar et al. 2016, section 6.1); two answers without a word are the same."""


def _cmrc_normal(text: str) -> str:
    kept = (c for c in text.lower() if not unicodedata.category(c).startswith(("P", "S", "Z", "C")))
    return "".join(kept)


def _mixed(text: str) -> list[str]:
    """Characters of Chinese and Japanese, words of other scripts; no punctuation."""
    return PARTS.findall(text.lower())


def _cmrc_f1(said: str, right: str) -> float:
    ours, theirs = _mixed(said), _mixed(right)
    if not ours or not theirs:
        return float(ours == theirs)
    longest, row = 0, [0] * (len(theirs) + 1)
    for part in ours:
        before, row = row, [0] * (len(theirs) + 1)
        for place, other in enumerate(theirs, 1):
            if part == other:
                row[place] = before[place - 1] + 1
        longest = max(longest, *row)
    return 2 * longest / (len(ours) + len(theirs))


cmrc = Measure(
    "cmrc",
    "CMRC's: the longest common run of characters, without punctuation",
    _cmrc_normal,
    lambda said, right: float(_cmrc_normal(said) == _cmrc_normal(right)),
    _cmrc_f1,
)
"""Exact match, and F1 of the longest run that both have in common, of characters (words of spaced scripts): Cui et al.
2019, section 3.3."""

MEASURES = {"squad": squad, "cmrc": cmrc}


def measure_for(name: str, texts: Sequence[str]) -> Measure:
    """The measure of that name; "auto" is CMRC's for Chinese and Japanese, and SQuAD's for all else.

    Example:
        >>> measure_for("auto", ["東京です"]).name, measure_for("auto", ["It is Tokyo."]).name
        ('cmrc', 'squad')
    """
    if name == "auto":
        name = "cmrc" if bleu_tokenizer(texts) in ("zh", "ja-mecab") else "squad"
    return MEASURES[name]


def measure_answers(
    said: Sequence[str], right: Sequence[Sequence[str]], measure: Measure
) -> tuple[dict[str, float], list[tuple[float, float]]]:
    """Exact match and F1, in per cent, and both of each answer, from 0 to 1.

    Of several right answers the best counts; where there is none, nothing should be said. If some questions have none,
    `has_answer_...` and `no_answer_...` are the figures of both kinds, as in SQuAD 2.0.

    Example:
        >>> metrics, _ = measure_answers(["the Denver Broncos", ""], [["Denver Broncos"], []], squad)
        >>> metrics["f1"], metrics["no_answer_f1"]
        (100.0, 100.0)
    """
    scores = [
        (max(measure.exact(one, text) for text in texts), max(measure.f1(one, text) for text in texts))
        for one, texts in ((one, _standing(texts, measure)) for one, texts in zip(said, right, strict=True))
    ]
    metrics = _means("", scores)
    none = [not any(_standing(texts, measure)) for texts in right]
    if any(none) and not all(none):
        for kind, wanted in (("has_answer_", False), ("no_answer_", True)):
            metrics |= _means(
                kind, [one for one, is_none in zip(scores, none, strict=True) if is_none == wanted]
            )
    return metrics, scores


def _standing(texts: Sequence[str], measure: Measure) -> Sequence[str]:
    """The right answers that say something; nothing, where there is none."""
    return [text for text in texts if measure.normal(text)] or [""]


def _means(kind: str, scores: Sequence[tuple[float, float]]) -> dict[str, float]:
    count = max(len(scores), 1)
    return {
        f"{kind}exact": 100 * sum(exact for exact, _ in scores) / count,
        f"{kind}f1": 100 * sum(f1 for _, f1 in scores) / count,
    }


def best_threshold(margins: Sequence[float], answered: Sequence[float], silent: Sequence[float]) -> float:
    """The threshold for which the score is best, where there is no answer if a margin is above it.

    `margins` say of each question how much likelier no answer is than the best, `answered` and `silent` its score if
    there is that answer or none.

    Example:
        >>> best_threshold([-3.0, -1.0, 2.0], [1.0, 0.0, 0.0], [0.0, 1.0, 1.0])
        -2.0
    """
    order = sorted(range(len(margins)), key=lambda place: margins[place])
    score = best = sum(silent)
    at = 0
    for count, place in enumerate(order, 1):  # the first `count` questions are answered
        score += answered[place] - silent[place]
        alike = count < len(order) and margins[order[count]] == margins[place]
        if score > best + 1e-9 and not alike:
            best, at = score, count
    if not order:
        return 0.0
    low = margins[order[at - 1]] if at else margins[order[0]] - 2.0
    high = margins[order[at]] if at < len(order) else low + 2.0
    return (low + high) / 2
