"""Applications: each one file over shared models, with one contract for all commands."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from regard.errors import UserError
from regard.tasks.task import Answer, Evaluation, Task

__all__ = ["TASKS", "Answer", "Evaluation", "Task", "task_named"]


def _translation() -> type[Task[Any]]:
    from regard.tasks.translation import Translation

    return Translation


TASKS: dict[str, Callable[[], type[Task[Any]]]] = {"translation": _translation}
"""Every task by its name, imported when asked for."""


def task_named(name: str) -> type[Task[Any]]:
    """The task of that name; `UserError` says which there are and what was probably meant."""
    if name not in TASKS:
        close = difflib.get_close_matches(name, TASKS, 1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(f"there is no task {name!r}; {meant}There are: {', '.join(TASKS)}")
    return TASKS[name]()
