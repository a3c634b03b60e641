"""Keys and values of the places seen so far, for decoding step by step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from regard.attention.call import transforming

__all__ = ["Cache"]


@dataclass(slots=True, eq=False)
class _Room:
    """More room than is needed yet, of which the first `filled` places are taken.

    *Shape:* both `(batch, heads, places, size)`.
    """

    key: Tensor
    value: Tensor
    filled: int


@dataclass(frozen=True, slots=True, eq=False)
class Cache:
    """The keys and values of the places seen so far; `stopped` is where the last query stopped, if the mechanism reads
    on from there.

    *Shape:* key `(batch, heads, length, size)`, value `(batch, heads, length, value_size)`, stopped
    `(batch, heads, length)`.
    """

    key: Tensor
    value: Tensor
    stopped: Tensor | None = None
    room: _Room | None = None

    def select(self, rows: Tensor) -> Cache:
        """The cache of some rows of the batch, in the order and as often as `rows` names them.

        *Shape:* rows `(new_batch,)` int64.
        """
        stopped = None if self.stopped is None else self.stopped[rows]
        length, room = self.key.shape[2], self.room
        if room is None or room.filled != length or torch.is_grad_enabled():
            return Cache(self.key[rows], self.value[rows], stopped)
        # With its room, so that the next places need no other copy.
        room = _Room(room.key[rows], room.value[rows], length)
        return Cache(room.key[:, :, :length], room.value[:, :, :length], stopped, room)

    def append(self, key: Tensor, value: Tensor) -> Cache:
        """The cache with new places at its end; this one stays as it is, and may be continued in another way.

        Where gradients are disabled, there is room for as many places again, so that many steps copy each place
        once or twice, not at every step.

        *Shape:* key `(batch, heads, new, size)`, value `(batch, heads, new, value_size)`. Raises `ValueError` unless
        they have the batch, heads and sizes of the cache.
        """
        if key.shape[0] != self.key.shape[0]:
            raise ValueError(
                f"the cache must have the batch of the sequence, {key.shape[0]}, it has {self.key.shape[0]}"
            )
        for name, old, new in (("key", self.key, key), ("value", self.value, value)):
            if (old.shape[1], old.shape[3]) != (new.shape[1], new.shape[3]):
                raise ValueError(
                    f"the {name} of the cache must be (batch, {new.shape[1]}, length, {new.shape[3]}), as the layer's "
                    f"own, it has shape {tuple(old.shape)}"
                )
        stopped = None if self.stopped is None else pad(self.stopped, (0, key.shape[2]))
        # Whoever differentiates may keep a view of the room, which is not to change under them.
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or transforming():
            return Cache(torch.cat([self.key, key], 2), torch.cat([self.value, value], 2), stopped)
        start, stop = self.key.shape[2], self.key.shape[2] + key.shape[2]
        room = self.room
        if room is None or room.filled != start or room.key.shape[2] < stop or _closed(room.key):
            room = _Room(_roomy(self.key, 2 * stop), _roomy(self.value, 2 * stop), start)
        room.key[:, :, start:stop], room.value[:, :, start:stop] = key, value
        room.filled = stop
        return Cache(room.key[:, :, :stop], room.value[:, :, :stop], stopped, room)


def _closed(tensor: Tensor) -> bool:
    """Whether it was made in inference mode and must not be written to now."""
    return tensor.is_inference() and not torch.is_inference_mode_enabled()


def _roomy(tensor: Tensor, places: int) -> Tensor:
    """The same at the start of a larger tensor. *Shape:* `(batch, heads, length, size)`."""
    larger = tensor.new_empty(*tensor.shape[:2], places, tensor.shape[3])
    larger[:, :, : tensor.shape[2]] = tensor
    return larger
