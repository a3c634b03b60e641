"""The states of every global random number generator, as JSON."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed(value: int, rank: int = 0) -> None:
    """Seed the global generators of Python, NumPy and PyTorch from `(value, rank)`."""
    words = np.random.SeedSequence([value, rank]).generate_state(3, np.uint32)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed(int(words[2]))


def state(device: torch.device) -> dict[str, Any]:
    """The states of the global generators, that of a CUDA `device` included, fit for JSON."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(internal), gauss],
        "numpy": [name, np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
        "cuda": torch.cuda.get_rng_state(device).numpy().tobytes().hex() if device.type == "cuda" else "",
    }


def restore(states: dict[str, Any], device: torch.device) -> None:
    """Set the global generators to what `state` returned."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(_bytes(states["torch"]))
    if device.type == "cuda" and states["cuda"]:
        torch.cuda.set_rng_state(_bytes(states["cuda"]), device)


@contextmanager
def kept(device: torch.device) -> Iterator[None]:
    """Whatever happens inside draws random numbers without changing those drawn afterwards."""
    before = state(device)
    try:
        yield
    finally:
        restore(before, device)


def _bytes(text: str) -> torch.Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)
