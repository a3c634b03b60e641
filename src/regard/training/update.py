"""One update of the weights: gradients of the loss per token, summed over batches and processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from regard.training.place import Place
from regard.training.settings import TrainingSettings


class TrainingBatch(Protocol):
    """What a batch must have: the examples it holds (none in an idle share), and a way to a device."""

    @property
    def index(self) -> Sequence[int]:
        """The numbers of the examples in the batch."""
        ...

    def to(self, device: torch.device) -> Any:
        """The batch on `device`."""
        ...


Loss = Callable[[Any, Any], tuple[Tensor, int, dict[str, float]]]
"""`loss(model, batch)`: the loss summed over tokens, the number of tokens, and further sums to record."""


@dataclass
class Update:
    """What an update saw, summed over batches and processes."""

    loss: float
    """The loss, summed over tokens."""
    tokens: int
    """The number of tokens."""
    norm: float
    """The norm of the gradient of the loss per token, before clipping."""
    flags: list[float]
    """The sum over processes of each flag given."""
    extras: dict[str, float] = field(default_factory=dict)
    """This process's further sums."""

    @property
    def finite(self) -> bool:
        """Whether loss and gradient are finite numbers."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


def build_optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019) with weight decay for the matrices only."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [one for one in trained if one.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [one for one in trained if one.dim() <= 1], "weight_decay": 0.0},
    ]
    fused = all(one.device.type in ("cpu", "cuda") for one in trained)
    return torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, fused=fused)


def update(
    model: nn.Module,
    batches: Sequence[TrainingBatch],
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    place: Place,
    scaler: torch.amp.GradScaler | None = None,
    *,
    rate: float,
    clip: float | None,
    flags: Sequence[float] = (),
) -> Update:
    """Move the weights by the gradient of the loss per token of `batches`, each this process's share.

    The gradients of the summed losses are summed over batches and processes, and divided once by the number of
    all tokens, so neither the number of processes nor accumulation changes what is learnt. Where loss or gradient
    are not finite numbers the weights stay as they are.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    losses, tokens = [], 0
    extras: dict[str, float] = {}
    for batch in batches:
        if not len(batch.index):  # this process has no row of a small global batch
            continue
        with place.autocast():
            total, count, further = loss(model, batch.to(place.device))
        (total if scaler is None else scaler.scale(total)).backward()
        losses.append(total.detach().float())
        tokens += count
        for name, value in further.items():
            extras[name] = extras.get(name, 0.0) + value

    place.sum_gradients(parameters)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.zeros((), device=place.device)
    if gradients:
        if scaler is not None:
            scaler.scale(norm)  # makes its scale, in a process that had nothing to scale yet
            scaler.unscale_(optimizer)
        norm = torch.nn.utils.get_total_norm(gradients)
    *sums, norm_of_sum = torch.stack([*losses, norm.float()]).tolist()  # the one wait for the device
    loss_sum, tokens_sum, *flags_sum = place.sum([sum(sums), tokens, *flags])

    seen = max(tokens_sum, 1.0)
    result = Update(loss_sum, int(tokens_sum), norm_of_sum / seen, flags_sum, extras)
    if result.finite and gradients:
        torch._foreach_mul_(gradients, min(1.0, (clip or math.inf) / (result.norm + 1e-6)) / seen)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    if scaler is not None and gradients:
        scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return result
