"""Answers without any training: the window of a text that has most of the question in it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from regard.data.passages import spans

__all__ = ["SlidingWindow"]

SENTENCE = re.compile(r"[.!?。！？\n]")
LONGEST = 8
"""The most words of an answer."""


class SlidingWindow:
    r"""The sliding-window baseline: words in common, each by how rare it is.

    With $\mathrm{ic}(w) = \log(1 + 1/c(w))$, where $c$ counts the word in the context, an answer $A$ to a question $Q$
    has the score

    $$\max_j \sum_{i=1}^{|S|} \mathrm{ic}(P_{j+i})\,[P_{j+i} \in S], \qquad S = A \cup Q$$

    of the best window of the context $P$. Answers are all spans of at most 8 words of the sentences that have most
    words of the question, without words of the question and without one that is in every tenth context at their ends.
    Of answers with the same score that which is nearest to the words of the question is taken, of those the longest.

    Richardson et al. 2013, algorithm 1; Rajpurkar et al. 2016, section 5.1, where answers are the constituents of
    parsed sentences, which gives 13.2 exact match and 20.2 F1 on SQuAD's development set.

    Example:
        >>> window = SlidingWindow(["The Broncos won in Denver. They are an old team."])
        >>> window.answer("Where did the Broncos win?", "The Broncos won in Denver. They are an old team.")
        'won in Denver'
    """

    def __init__(self, contexts: Iterable[str]) -> None:
        seen: Counter[str] = Counter()
        count = 0
        for context in dict.fromkeys(contexts):
            seen.update(set(_words(context)))
            count += 1
        self.common = {word for word, times in seen.items() if count >= 10 and times > count / 10}

    def answer(self, question: str, context: str) -> str:
        """The best answer; nothing, where there is no candidate."""
        places = spans(context)
        words = [context[first:last].lower() for first, last in places]
        asked = set(_words(question)) - {"?", "？"}
        rarity = {word: math.log(1 + 1 / times) for word, times in Counter(words).items()}
        best: tuple[float, float, int] | None = None
        chosen = (0, 0)
        for first, last in self._sentences(context, places, words, asked):
            known = [n for n in range(first, last) if words[n] in asked]
            for a in range(first, last):
                if self._barred(words[a], asked):
                    continue
                for b in range(a, min(a + LONGEST, last)):
                    if any(words[n] in asked for n in range(a, b + 1)):
                        break
                    if self._barred(words[b], asked):
                        continue
                    near = min((abs(n - a) if n < a else abs(n - b) for n in known), default=0)
                    score = self._window(words, first, last, asked | set(words[a : b + 1]), rarity)
                    if best is None or (score, -near, b - a) > best:
                        best, chosen = (score, -near, b - a), (a, b)
        return "" if best is None else context[places[chosen[0]][0] : places[chosen[1]][1]]

    def _barred(self, word: str, asked: set[str]) -> bool:
        return word in asked or word in self.common or not word[0].isalnum()

    def _window(
        self, words: Sequence[str], first: int, last: int, wanted: set[str], rarity: dict[str, float]
    ) -> float:
        """The best window of the sentence for an answer together with the question."""
        worth = [rarity[word] if word in wanted else 0.0 for word in words[first:last]]
        size = min(len(wanted), len(worth))
        total = best = sum(worth[:size])
        for n in range(size, len(worth)):
            total += worth[n] - worth[n - size]
            best = max(best, total)
        return best

    def _sentences(
        self, context: str, places: Sequence[tuple[int, int]], words: Sequence[str], asked: set[str]
    ) -> list[tuple[int, int]]:
        """The sentences with most words of the question, as their first word and the one after the last."""
        cuts = [0]
        for n, (first, last) in enumerate(places):
            after = context[last : last + 1]
            if SENTENCE.match(context[first:last]) and (
                not after or after.isspace() or after in "。！？" or ord(after) > 0x2E80
            ):
                cuts.append(n + 1)
        if cuts[-1] < len(places):
            cuts.append(len(places))
        sentences = list(pairwise(cuts))
        shared = [len(asked & set(words[first:last])) for first, last in sentences]
        most = max(shared, default=0)
        return [one for one, count in zip(sentences, shared, strict=True) if count == most]


def _words(text: str) -> list[str]:
    return [text[first:last].lower() for first, last in spans(text)]
