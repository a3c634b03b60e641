"""How the inner loops of this folder are written: as functions that write out their instructions.

As in `vectors`, addresses are whole numbers and sizes and distances count numbers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from numba import types
from numba.extending import intrinsic

from regard.attention.kernels.emit import Emit, Value

__all__ = ["emitted", "load", "store"]


def emitted(write: Callable[..., Value | None]) -> Any:
    """An intrinsic whose instructions the decorated function writes.

    It takes whole numbers and then at least one number, whose type is that of all numbers that are read and written. It
    returns a number of that type, or nothing, as the annotations of `write` say.
    """
    _, *names = inspect.signature(write).parameters
    gives = write.__annotations__["return"] not in (None, "None")

    def typed(context: Any, *kinds: Any) -> Any:
        number = kinds[-1]

        def codegen(context: Any, builder: Any, signature: Any, arguments: Sequence[Value]) -> Value:
            found = write(Emit(builder, number), *arguments)
            return found if gives else context.get_dummy_value()

        taken = [types.intp if isinstance(kind, types.Integer) else kind for kind in kinds]
        return (number if gives else types.void)(*taken), codegen

    typed.__name__ = write.__name__
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    # Numba asks for the names, of which `typed` has none.
    typed.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, positional) for name in ("context", *names)]
    )
    return intrinsic(typed)


def load(e: Emit, row: Value, i: Value, mask: Value | None, other: float = 0.0) -> Value:
    """A vector of a row, where a `mask` cuts it with `other` for the rest."""
    return e.load(row, i) if mask is None else e.load_some(row, i, mask, other)


def store(e: Emit, value: Value, row: Value, i: Value, mask: Value | None) -> None:
    """Write a vector of a row, or what a `mask` leaves of it."""
    if mask is None:
        e.store(value, row, i)
    else:
        e.store_some(value, row, i, mask)
