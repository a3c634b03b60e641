"""Where training runs: the device, the processes that share it, and the arithmetic."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

from regard.errors import UserError
from regard.training.settings import TrainingSettings

# Processes that wait while the first one evaluates must not give up on it.
PATIENCE = timedelta(hours=12)


@dataclass(frozen=True)
class Place:
    """A device, this process's number `rank` among `world` processes, and the precision of the forward pass.

    Processes sum their gradients once an update (`sum_gradients`) rather than within the backward pass, as
    PyTorch's DistributedDataParallel does: so the models stay what they are, an update may span several batches,
    and a process may have nothing to do in one of them.
    """

    device: torch.device
    rank: int = 0
    world: int = 1
    precision: torch.dtype = torch.float32

    @classmethod
    def find(cls, settings: TrainingSettings) -> Place:
        """The place that `settings` and the launcher (`accelerate launch`, `torchrun`) ask for.

        Raises:
            UserError: There is no such device here.
        """
        precision: torch.dtype = getattr(torch, settings.precision)
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1 and settings.device != "auto":
            return cls(_device(settings.device), precision=precision)

        from accelerate import Accelerator, InitProcessGroupKwargs

        cpu = settings.device == "cpu" or not torch.accelerator.is_available()
        # The precision is our own: accelerate fixes it once per process, but a program may train many models in one.
        accelerator = Accelerator(
            cpu=cpu, mixed_precision="no", kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)]
        )
        if settings.device not in ("auto", accelerator.device.type):
            raise UserError(
                f"device is {settings.device!r}, but several processes choose among the devices of this machine "
                f"({accelerator.device.type}); leave it at 'auto'"
            )
        return cls(accelerator.device, accelerator.process_index, accelerator.num_processes, precision)

    @property
    def first(self) -> bool:
        """Whether this process writes, evaluates and talks."""
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[Any]:
        """Inside, the forward pass computes in the chosen precision."""
        if self.precision == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.precision)

    def scaler(self, tokens: int) -> torch.amp.GradScaler | None:
        """The loss scaling of float16, first as for a mean over `tokens`; None in other precisions."""
        if self.precision != torch.float16:
            return None
        return torch.amp.GradScaler(self.device.type, init_scale=2.0 ** (16 - math.ceil(math.log2(tokens))))

    def same(self, model: nn.Module) -> None:
        """Give every process the first one's weights."""
        if self.world > 1:
            for tensor in model.state_dict().values():
                torch.distributed.broadcast(tensor, 0)

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace every gradient by its sum over the processes; one that no process has stays None."""
        if self.world == 1:
            return
        present = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.float32)
        flat = torch.cat(
            [
                present.to(self.device),
                *(
                    torch.zeros_like(parameter).flatten()
                    if parameter.grad is None
                    else parameter.grad.flatten()
                    for parameter in parameters
                ),
            ]
        )
        torch.distributed.all_reduce(flat)
        present, *sums = flat.split([len(parameters), *(parameter.numel() for parameter in parameters)])
        for parameter, some, total in zip(parameters, present.tolist(), sums, strict=True):
            parameter.grad = total.view_as(parameter) if some else None

    def sum(self, numbers: Sequence[float]) -> list[float]:
        """The sum of each number over the processes."""
        if self.world == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return [float(number) for number in total.tolist()]

    def gather(self, value: Any) -> list[Any]:
        """The JSON value of every process, in the order of their ranks."""
        if self.world == 1:
            return [value]
        mine = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8, device=self.device)
        sizes = [
            int(size)
            for size in self.sum([float(len(mine)) * (one == self.rank) for one in range(self.world)])
        ]
        padded = torch.zeros(max(sizes), dtype=torch.uint8, device=self.device)
        padded[: len(mine)] = mine
        parts: list[Tensor] = [torch.empty_like(padded) for _ in sizes]
        torch.distributed.all_gather(parts, padded)
        return [json.loads(bytes(part[:size].tolist())) for part, size in zip(parts, sizes, strict=True)]


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"device is {name!r}, which is not here: {str(error).splitlines()[0]}") from None
    return device
