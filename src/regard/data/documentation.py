"""The documentation of the Python standard library on this machine: real text, in good order, with no download."""

from __future__ import annotations

import ast
import inspect
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Documented", "documented"]

LEFT_OUT = (
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "site-packages",
    "dist-packages",
    "__pycache__",
    "turtledemo",
)


@dataclass(frozen=True, slots=True)
class Documented:
    """A module, class or function with its documentation; `origin` says where it stands, "json/decoder.py:254"."""

    name: str
    """Its full name, such as `json.decoder.JSONDecoder.decode`."""
    parameters: tuple[str, ...]
    """The names of its parameters, `self` and `cls` left out; empty for what is not called."""
    text: str
    """The docstring, its indentation taken off."""
    origin: str


def documented(folder: Path | None = None) -> Iterator[Documented]:
    """Everything in a folder of Python source that has a docstring, in the order of files and lines.

    The folder is that of the standard library when not given. Source is parsed, never run; what cannot be parsed is
    passed over.

    Example:
        >>> one = next(one for one in documented() if one.name == "bisect.insort_right")
        >>> one.parameters, one.text.splitlines()[0]
        (('a', 'x', 'lo', 'hi', 'key'), 'Insert item x in list a, and keep it sorted assuming a is sorted.')
    """
    root = Path(sysconfig.get_path("stdlib")) if folder is None else folder
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root)
        if any(part in LEFT_OUT for part in place.parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, OSError):
            continue
        module = ".".join(place.with_suffix("").parts).removesuffix(".__init__")
        yield from _within(tree, module, place.as_posix())


def _within(node: ast.AST, name: str, file: str) -> Iterator[Documented]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node, clean=False)
        if text and text.strip():
            yield Documented(
                name, _parameters(node), inspect.cleandoc(text), f"{file}:{getattr(node, 'lineno', 1)}"
            )
    for child in ast.iter_child_nodes(node):
        inner = getattr(child, "name", None) if isinstance(child, ast.stmt) else None
        if isinstance(child, ast.stmt):
            yield from _within(child, f"{name}.{inner}" if inner else name, file)


def _parameters(node: ast.AST) -> tuple[str, ...]:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return ()
    given = node.args
    several = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    return tuple(one.arg for one in several if one is not None and one.arg not in ("self", "cls"))
