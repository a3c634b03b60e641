"""How good are summaries: ROUGE by rouge-score, against one or more right ones, in any script."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

from regard.errors import require

__all__ = ["ROUGES", "RougeTokenizer", "lead", "measure_summaries", "rouge_words"]

ROUGES = ("rouge1", "rouge2", "rougeL")
RougeTokenizer = Literal["auto", "standard", "unicode"]

# Scripts written without spaces between words: each character is a word.
_UNSPACED = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff"
    + (r"\uff66-\uff9f\U00020000-\U0003ffff")
)
_WORDS = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")


def measure_summaries(
    predicted: Sequence[str], expected: Sequence[Sequence[str]], *, tokenizer: RougeTokenizer = "auto"
) -> tuple[dict[str, float], dict[str, str]]:
    """ROUGE-1, ROUGE-2 and ROUGE-L, from 0 to 100: the mean over texts of the F-measure against the best reference.

    Words are stemmed (Porter). The best reference is chosen for each measure by itself, as rouge-score does. Also
    returned is how it was done.

    `tokenizer` "standard" is rouge-score's own, which keeps the letters a to z and digits alone; "unicode" keeps words
    of any script, and takes each Chinese, Japanese, Thai, Lao, Khmer and Burmese character for a word; "auto" is the
    first where nine tenths of the expected letters are such.

    Raises `UserError` where rouge-score is not installed.

    Example:
        >>> metrics, _ = measure_summaries(["the cats sat"], [["a cat sat down", "nothing"]])
        >>> {name: round(value, 1) for name, value in metrics.items()}
        {'rouge1': 57.1, 'rouge2': 40.0, 'rougeL': 57.1}
        >>> measure_summaries(["我来了"], [["我走了"]])[0]["rouge1"]
        66.66666666666666

    Lin 2004, *ROUGE: A Package for Automatic Evaluation of Summaries*.
    """
    require("rouge_score", "tasks")
    from rouge_score import rouge_scorer

    chosen = _suited(expected) if tokenizer == "auto" else tokenizer
    cut: Any = _Cut(chosen)
    scorer = rouge_scorer.RougeScorer(list(ROUGES), tokenizer=cut)
    sums = dict.fromkeys(ROUGES, 0.0)
    for text, right in zip(predicted, expected, strict=True):
        for name, score in scorer.score_multi(list(right), text).items():
            sums[name] += score.fmeasure
    metrics = {name: 100.0 * total / max(len(expected), 1) for name, total in sums.items()}
    references = {len(right) for right in expected} or {0}
    counts = "-".join(str(count) for count in sorted({min(references), max(references)}))
    how = f"rouge-score|F1|stem:porter|tok:{chosen}|references:{counts}, the best"
    return metrics, dict.fromkeys(ROUGES, how)


def rouge_words(text: str, tokenizer: Literal["standard", "unicode"] = "unicode") -> list[str]:
    """The stems of the words of a text, as they are compared.

    Example:
        >>> rouge_words("Straßen und Häuser"), rouge_words("東京へ行く running")
        (['straßen', 'und', 'häuser'], ['東', '京', 'へ', '行', 'く', 'run'])
    """
    require("rouge_score", "tasks")
    from rouge_score import tokenize

    if tokenizer == "standard":
        words: list[str] = tokenize.tokenize(text, _stemmer())
        return words
    return [
        _stemmer().stem(word) if len(word) > 3 and word.isascii() else word
        for word in _WORDS.findall(text.lower())
    ]


def lead(text: str, sentences: int = 1) -> str:
    """The first sentences of a text: the summary of one who reads no further, and hard to beat on news.

    Example:
        >>> lead("It rains. It pours. The end."), lead("下雨了。出门了。")
        ('It rains.', '下雨了。')
    """
    ends = [found.start() for found in _SENTENCE.finditer(text.strip())]
    return text.strip()[: ends[sentences - 1]] if len(ends) >= sentences else text.strip()


class _Cut:
    """A tokeniser as rouge-score wants it, that cuts each text once."""

    def __init__(self, kind: Literal["standard", "unicode"]) -> None:
        self.kind: Literal["standard", "unicode"] = kind
        self.known: dict[str, list[str]] = {}

    def tokenize(self, text: str) -> list[str]:
        if text not in self.known:
            self.known[text] = rouge_words(text, self.kind)
        return self.known[text]


@cache
def _stemmer() -> Any:
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()


def _suited(expected: Sequence[Sequence[str]]) -> Literal["standard", "unicode"]:
    letters = [char for texts in expected for text in texts for char in text if char.isalpha()]
    return "standard" if sum(char.isascii() for char in letters) >= 0.9 * len(letters) else "unicode"
