"""Where the words of a context look in a question, as a picture with the answer marked."""

from __future__ import annotations

from torch import Tensor

from regard.data.lexicon import Lexicon
from regard.data.passages import Passage, Questions, Window
from regard.data.squad import Question
from regard.tasks.question_settings import QuestionAnsweringSettings
from regard.view import Heatmap, heatmap

__all__ = ["picture", "window_at"]

SHOWN = 40
"""The most words of a context in a picture."""


def window_at(
    settings: QuestionAnsweringSettings,
    lexicon: Lexicon,
    context: Passage,
    question: tuple[str, ...],
    middle: int,
) -> tuple[Questions, tuple[int, int, int]]:
    """The window of a context around its word number `middle`, ready to be read.

    Also the first word of that window, and of the context the first to be shown and the one after the last.
    """
    limits = context.windows(settings.window, settings.stride)
    first, last = min(limits, key=lambda both: abs(sum(both) - 2 * middle))
    start = max(min(middle - SHOWN // 2, last - SHOWN), first)
    batch = lexicon.lay([Window(question, context.words[first:last])])
    return batch, (first, start, min(start + SHOWN, last))


def picture(
    weights: Tensor,
    one: Question,
    question: tuple[str, ...],
    context: Passage,
    part: tuple[int, int, int],
    answer: tuple[int, int] | None,
) -> Heatmap:
    """The question's words by those of the context around the answer, which stand in brackets.

    *Shape*: weights `(window_len, question_len)`, of the window that `window_at` made; `answer` is the first and the
    last word, None where nothing is said.
    """
    first, start, end = part
    low, high = answer or (0, -1)
    words = context.words
    shown = [f"[{words[n]}]" if low <= n <= high else words[n] for n in range(start, end)]
    about = "where each word of the context looks in the question"
    if answer:
        about += ", [answer]"
    if end - start < len(words):
        about += f"; words {start + 1} to {end} of {len(words)}"
    return heatmap(
        weights[start - first : end - first].T,
        source=shown,
        target=question,
        title=f"{' '.join(one.text.split())} → {context.between(low, high) or '(no answer)'}",
        subtitle=about,
    )
