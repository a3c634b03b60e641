"""What settings must satisfy; each check says in one sentence what does not."""

from __future__ import annotations

from collections.abc import Iterable

from regard.attention.mechanism import Mechanism
from regard.errors import UserError


def at_least_one(settings: object, *fields: str) -> None:
    """Sizes and numbers of layers."""
    for field in fields:
        if getattr(settings, field) < 1:
            raise UserError(f"{field} must be at least 1, got {getattr(settings, field)}")


def share(settings: object, *fields: str) -> None:
    """Rates of dropout."""
    for field in fields:
        if not 0.0 <= getattr(settings, field) < 1.0:
            raise UserError(f"{field} must be at least 0 and below 1, got {getattr(settings, field)}")


def one_of(settings: object, field: str, names: Iterable[str]) -> None:
    """Names of parts."""
    if getattr(settings, field) not in (known := list(names)):
        raise UserError(f"{field} must be one of {', '.join(known)}, got {getattr(settings, field)!r}")


def heads_divide(settings: object, field: str) -> None:
    """A size that is cut into heads."""
    size, heads = getattr(settings, field), getattr(settings, "heads")  # noqa: B009
    if size % heads:
        raise UserError(f"{field} must be a multiple of heads, got {field}={size}, heads={heads}")


def mechanism(field: str, spelling: str, *, over_source: bool) -> None:
    """A mechanism that exists and needs no other query; over a source, which has places of its own, one without masks
    and positions by place."""
    try:
        parsed = Mechanism.parse(spelling)
    except ValueError as error:
        raise UserError(f"{field}: {error}") from None
    if parsed.normalizer.coupled:
        raise UserError(
            f"{field} must weigh each query by itself, for a model writes one token at a time; got {spelling!r}"
        )
    if over_source and (bare := parsed.over_memory()) is not parsed:
        raise UserError(
            f"{field} must be score/normalizer without mask, bias and rotary positions where a target looks at a "
            f"source, whose places are not its own: {bare.spelling!r}; got {spelling!r}"
        )
