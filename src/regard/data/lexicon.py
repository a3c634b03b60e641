"""What a reader knows of words: their numbers, their characters, and which are alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from regard.data.batches import padded
from regard.data.passages import Questions, Window
from regard.data.vocabulary import PAD, SPECIALS, Vocabulary

__all__ = ["Lexicon"]

LONGEST_WORD = 16
"""How many characters of a word are looked at: of a longer one the first and the last."""


class Lexicon:
    """Words, without regard to case, and characters, each with its number.

    Example:
        >>> lexicon = Lexicon.learn([["Who", "came", "?"], ["He", "came"]], words=50, characters=30)
        >>> batch = lexicon.lay([Window(("Who", "?"), ("he", "Came"), ((0, 0, 1.0),))])
        >>> batch.context.tolist(), batch.starts.tolist()
        ([[1, 2]], [[1]])
    """

    def __init__(self, words: Vocabulary, characters: Vocabulary) -> None:
        self.words, self.characters = words, characters
        self._known: dict[str, tuple[int, list[int], str, str]] = {"": (PAD, [PAD], "", "")}

    @classmethod
    def learn(cls, texts: Iterable[Sequence[str]], *, words: int, characters: int, least: int = 1) -> Lexicon:
        """The most frequent words that occur `least` times, and characters, of texts cut into words.

        Raises `UserError` where there are none, or too few are asked for.
        """
        seen: Counter[str] = Counter()
        for text in texts:
            seen.update(text)
        folded: Counter[str] = Counter()
        for word, count in seen.items():
            folded[word.lower()] += count
        often = sorted(folded, key=lambda word: (-folded[word], word))[: max(words - len(SPECIALS), 0)]
        letters = [word * min(count, 100) for word, count in seen.items()]
        return cls(
            Vocabulary.of([word for word in often if folded[word] >= least], lowercase=True),
            Vocabulary.train(letters, "characters", characters),
        )

    def save(self, folder: Path) -> None:
        """Write both vocabularies."""
        self.words.save(folder / "tokenizer.words.json")
        self.characters.save(folder / "tokenizer.characters.json")

    @classmethod
    def load(cls, folder: Path) -> Lexicon:
        """What `save` wrote; raises `UserError` where that is missing or damaged."""
        return cls(
            Vocabulary.load(folder / "tokenizer.words.json"),
            Vocabulary.load(folder / "tokenizer.characters.json"),
        )

    def lay(self, windows: Sequence[Window], index: Sequence[int] | None = None) -> Questions:
        """Windows side by side; `index` are their numbers (0, 1, ... if not given).

        Of no window it makes the idle batch: one row with one word of padding and nothing to learn.
        """
        rows = windows or [Window(("",), ("",))]
        places: dict[str, int] = {"": 0}
        contexts = [[places.setdefault(word, len(places)) for word in one.context] for one in rows]
        questions = [[places.setdefault(word, len(places)) for word in one.question] for one in rows]
        known = [self._look_up(word) for word in places]
        answers = [one.answers or ((-1, -1, 1.0),) for one in rows]
        most = max(len(one) for one in answers)
        targets = [[*one, *[(*one[0][:2], 0.0)] * (most - len(one))] for one in answers]
        forms: dict[str, int] = {}
        return Questions(
            words=torch.tensor([one[0] for one in known]),
            spellings=padded([one[1] for one in known]),
            forms=torch.tensor([forms.setdefault(one[2], len(forms)) for one in known]),
            stems=torch.tensor([forms.setdefault(one[3], len(forms)) for one in known]),
            context=padded(contexts),
            context_lengths=torch.tensor([len(row) for row in contexts]),
            question=padded(questions),
            question_lengths=torch.tensor([len(row) for row in questions]),
            starts=torch.tensor([[first + 1 for first, _, _ in row] for row in targets]),
            ends=torch.tensor([[last + 1 for _, last, _ in row] for row in targets]),
            shares=torch.tensor([[share for _, _, share in row] for row in targets]),
            index=list(range(len(windows)) if index is None else index),
        )

    def _look_up(self, word: str) -> tuple[int, list[int], str, str]:
        """The number of a word, those of its characters, its form without case, and its beginning."""
        if word not in self._known:
            [number] = self.words.encode(word)[:1] or [PAD]
            half = LONGEST_WORD // 2
            spelt = word if len(word) <= LONGEST_WORD else word[:half] + word[-half:]
            form = word.lower()
            stem = (form.removesuffix("s") or form)[:5]
            self._known[word] = number, self.characters.encode(spelt) or [PAD], form, stem
        return self._known[word]
