"""Named tensors as the bytes of a safetensors file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from regard.errors import UserError


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """The bytes of a safetensors file; tied tensors are stored once, the other names in the file's metadata."""
    from safetensors.torch import save

    kept: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    names: dict[tuple[int, torch.Size, tuple[int, ...]], str] = {}
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and place in names:
            tied[name] = names[place]
        else:
            names[place] = name
            kept[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return save(kept, metadata=tied)


def unpack(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file written by `pack`, on the CPU.

    Raises:
        UserError: The file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            tied = file.metadata() or {}
        return tensors | {name: tensors[first] for name, first in tied.items()}
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (SafetensorError, OSError, KeyError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
