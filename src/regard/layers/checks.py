"""What layers ask of their arguments; each check says in one sentence what is wrong."""

from __future__ import annotations

from torch import Tensor

from regard.attention.numbers import check_whole_tensor

__all__ = ["check_batch", "check_heads", "check_lengths", "check_sequence", "check_share", "check_sizes"]


def check_sizes(**sizes: int) -> None:
    """Raise `ValueError` unless every size is a whole number of at least 1."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, it is {size!r}")


def check_share(**shares: float) -> None:
    """Raise `TypeError` or `ValueError` unless every share, as of what dropout drops, is at least 0 and below 1."""
    for name, share in shares.items():
        if isinstance(share, bool) or not isinstance(share, int | float):
            raise TypeError(f"{name} must be a number, it is {type(share).__name__}")
        if not 0.0 <= share < 1.0:
            raise ValueError(f"{name} must be at least 0 and below 1, it is {share}")


def check_heads(heads: int, **sizes: int) -> None:
    """Raise `ValueError` unless every size can be divided among `heads`."""
    check_sizes(heads=heads)
    for name, size in sizes.items():
        if size % heads:
            raise ValueError(f"{name} must be a multiple of heads: {name} is {size}, heads is {heads}")


def check_sequence(name: str, tensor: Tensor, size: int, axes: tuple[str, ...] = ("batch", "length")) -> None:
    """Raise `TypeError` or `ValueError` unless `tensor` has these axes and one of `size` after them."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, it is {type(tensor).__name__}")
    if tensor.ndim != len(axes) + 1 or tensor.shape[-1] != size:
        raise ValueError(f"{name} must be ({', '.join(axes)}, {size}), it has shape {tuple(tensor.shape)}")


def check_batch(name: str, tensor: Tensor, other: str, batch: int) -> None:
    """Raise `ValueError` unless the first axis of `tensor` is `batch`, as that of `other` is."""
    if tensor.shape[0] != batch:
        raise ValueError(
            f"{name} must have the batch of {other}, {batch}, it has shape {tuple(tensor.shape)}"
        )


def check_lengths(name: str, lengths: Tensor, batch: int) -> None:
    """Raise `TypeError` or `ValueError` unless `lengths` are whole numbers, one for each sequence of a batch."""
    check_whole_tensor(name, lengths)
    if tuple(lengths.shape) != (batch,):
        raise ValueError(f"{name} must be one a sequence, ({batch},), it has shape {tuple(lengths.shape)}")
