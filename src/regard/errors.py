"""Errors that are the user's to mend, told in one sentence."""

from __future__ import annotations

import importlib
from types import ModuleType


class UserError(Exception):
    """Bad input: one clear sentence that says what is wrong, where, and what is expected.

    The command line prints the sentence and exits with status 2; a traceback is for bugs only.
    """


def require(module: str, extra: str) -> ModuleType:
    """Import an optional `module`, or say which extra of regard installs it.

    Example:
        >>> require("json", "tasks").dumps([1])
        '[1]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise UserError(
            f"this needs the package {module.split('.')[0]!r}, which is not installed: "
            f"pip install 'regard[{extra}]'"
        ) from None
