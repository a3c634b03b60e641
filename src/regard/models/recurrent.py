"""Recurrent cells and the bidirectional encoder built of them."""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from regard.layers.dropout import Dropout

Hidden = tuple[Tensor, ...]
"""The state of a cell: `(h,)` of a GRU, `(h, c)` of an LSTM, each `(batch, size)`; `h` is what others see."""


class Cell(Protocol):
    """One step of a recurrent network, its input already projected onto the gates."""

    parts: int
    gates: int

    def __call__(self, projected: Tensor, hidden: Hidden) -> Hidden:
        """*Shape*: projected `(batch, gates * size)`; hidden `parts` tensors `(batch, size)`."""
        ...


class GRUCell(nn.Module):
    """A gated recurrent unit (Cho et al. 2014), its reset gate applied after the product as in
    `torch.nn.GRU`.

    `r = s(x_r + U_r h); z = s(x_z + U_z h); n = tanh(x_n + r * (U_n h + b)); h' = (1 - z) * n + z * h`
    """

    parts = 1
    gates = 3

    def __init__(self, size: int) -> None:
        super().__init__()
        self.recurrent = nn.Linear(size, self.gates * size)
        _orthogonal(self.recurrent, self.gates)

    def forward(self, projected: Tensor, hidden: Hidden) -> Hidden:
        (h,) = hidden
        return (_GRUGates.apply(projected, self.recurrent(h), h),)


class LSTMCell(nn.Module):
    """A long short-term memory cell with a forget gate (Gers et al. 2000), as `torch.nn.LSTM`.

    `i, f, o = s(...); g = tanh(...); c' = f * c + i * g; h' = o * tanh(c')`
    """

    parts = 2
    gates = 4

    def __init__(self, size: int) -> None:
        super().__init__()
        self.recurrent = nn.Linear(size, self.gates * size)
        _orthogonal(self.recurrent, self.gates)
        with torch.no_grad():  # remember at first (Jozefowicz et al. 2015)
            self.recurrent.bias[size : 2 * size] = 1.0

    def forward(self, projected: Tensor, hidden: Hidden) -> Hidden:
        h, c = hidden
        i, f, g, o = (projected + self.recurrent(h)).chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return (o.sigmoid() * c.tanh(), c)


CELLS: dict[str, type[GRUCell] | type[LSTMCell]] = {"gru": GRUCell, "lstm": LSTMCell}


class _GRUGates(torch.autograd.Function):
    """The element-wise half of a GRU and its gradient, in a third of the operations autograd would run."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, u: Tensor, h: Tensor) -> Tensor:
        size = h.shape[-1]
        rz = (x[..., : 2 * size] + u[..., : 2 * size]).sigmoid_()
        r, z = rz[..., :size], rz[..., size:]
        u_n = u[..., 2 * size :]
        n = torch.addcmul(x[..., 2 * size :], r, u_n).tanh_()
        ctx.save_for_backward(rz, n, u_n, h)
        return torch.lerp(n, h, z)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rz, n, u_n, h = ctx.saved_tensors
        size = h.shape[-1]
        r, z = rz[..., :size], rz[..., size:]
        to_h = upstream * z
        to_x = upstream.new_empty((*upstream.shape[:-1], 3 * size))
        to_n = to_x[..., 2 * size :]
        torch.mul(upstream - to_h, torch.addcmul(torch.ones_like(n), n, n, value=-1), out=to_n)
        to_rz = to_x[..., : 2 * size]
        torch.mul(to_n, u_n, out=to_rz[..., :size])
        torch.mul(upstream, h - n, out=to_rz[..., size:])
        to_rz.mul_(rz).mul_(1 - rz)
        to_u = to_x.clone()
        to_u[..., 2 * size :].mul_(r)
        return to_x, to_u, to_h


class RecurrentEncoder(nn.Module):
    """Read embedded sentences, in one or both directions, blind to padding.

    Returns the memory `(batch, source_len, memory_size)` (zero on padding) and the summary `(batch,
    memory_size)`: the last state of each direction of the top layer.
    """

    def __init__(
        self, cell: str, input_size: int, size: int, *, layers: int, bidirectional: bool, dropout: float
    ) -> None:
        super().__init__()
        kind = {"gru": nn.GRU, "lstm": nn.LSTM}[cell]
        directions = 2 if bidirectional else 1
        self.memory_size = directions * size
        self.layers = nn.ModuleList(
            nn.ModuleList(
                kind(input_size if layer == 0 else self.memory_size, size, batch_first=True)
                for _ in range(directions)
            )
            for layer in range(layers)
        )
        self.dropout = Dropout(dropout)
        gates = CELLS[cell].gates
        for name, parameter in self.named_parameters():
            if "weight_hh" in name:
                for block in parameter.chunk(gates):
                    nn.init.orthogonal_(block)
            elif "weight_ih" in name:
                for block in parameter.chunk(gates):
                    nn.init.xavier_uniform_(block)
            else:
                nn.init.zeros_(parameter)

    def forward(self, embedded: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """*Shape*: embedded `(batch, source_len, input_size)`, lengths `(batch,)`, each at least 1."""
        # Not packed: the gradient of PyTorch's packed sequences fills one tensor as large as the batch for every step.
        # Padding comes after each sentence in either direction, where it cannot touch what was read before it.
        if embedded.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            # PyTorch's CPU kernels of recurrent layers have no float16, and its GRU no autocast at all.
            with torch.autocast("cpu", enabled=False):
                return self.forward(embedded.float(), lengths)
        lengths = lengths.to(embedded.device)[:, None]
        places = torch.arange(embedded.shape[1], device=embedded.device)
        mirrored = torch.where(places < lengths, lengths - 1 - places, places)[:, :, None]
        inside = (places < lengths)[:, :, None]
        memory = embedded
        for number, layer in enumerate(self.layers):
            directions = cast(nn.ModuleList, layer)
            if number:
                memory = self.dropout(memory)
            read = [directions[0](memory)[0]]
            if len(directions) == 2:
                backwards = directions[1](memory.gather(1, mirrored.expand_as(memory)))[0]
                read.append(backwards.gather(1, mirrored.expand_as(backwards)))
            memory = torch.cat(read, -1) * inside
        last = (lengths - 1)[:, :, None].expand(-1, -1, read[0].shape[-1])
        summary = [read[0].gather(1, last).squeeze(1), *(part[:, 0] for part in read[1:])]
        return memory, torch.cat(summary, -1)


def _orthogonal(linear: nn.Linear, gates: int) -> None:
    for block in linear.weight.data.chunk(gates):
        nn.init.orthogonal_(block)
    nn.init.zeros_(linear.bias)


def project(linear: nn.Linear, added: Tensor, input: Tensor) -> Tensor:
    """Return `added + input @ weight.T`.  *Shape*: added `(batch, out)`, input `(batch, in)`."""
    return torch.addmm(added, input, linear.weight.t())


__all__ = ["CELLS", "Cell", "GRUCell", "Hidden", "LSTMCell", "RecurrentEncoder", "project"]
