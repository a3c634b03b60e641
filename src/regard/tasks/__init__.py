"""Applications: each one file over shared models, with one contract for all commands."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

from regard.errors import UserError
from regard.tasks.task import Answer, Evaluation, Task

__all__ = ["TASKS", "Answer", "Evaluation", "Task", "task_named", "unknown"]


def _translation() -> type[Task[Any]]:
    from regard.tasks.translation import Translation

    return Translation


def _summarisation() -> type[Task[Any]]:
    from regard.tasks.summarisation import Summarisation

    return Summarisation


def _sentiment() -> type[Task[Any]]:
    from regard.tasks.sentiment import Sentiment

    return Sentiment


def _question_answering() -> type[Task[Any]]:
    from regard.tasks.question_answering import QuestionAnswering

    return QuestionAnswering


TASKS: dict[str, Callable[[], type[Task[Any]]]] = {
    "translation": _translation,
    "summarisation": _summarisation,
    "question-answering": _question_answering,
    "sentiment": _sentiment,
}
"""Every task by its name, imported when asked for."""


def task_named(name: str) -> type[Task[Any]]:
    """The task of that name.

    Raises `UserError` that says which there are and what was probably meant.

    Example:
        >>> task_named("translation").models
        ('rnn', 'transformer')
    """
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]()


def unknown(what: str, name: object, known: Iterable[str]) -> UserError:
    """The error that there is no such thing: what was probably meant, and all that there are.

    Example:
        >>> print(unknown("model", "transformr", ["rnn", "transformer"]))
        there is no model 'transformr' (did you mean 'transformer'?); there are: rnn, transformer
    """
    known = list(known)
    close = difflib.get_close_matches(str(name), known, 1)
    meant = f" (did you mean {close[0]!r}?)" if close else ""
    return UserError(f"there is no {what} {name!r}{meant}; there are: {', '.join(known)}")
