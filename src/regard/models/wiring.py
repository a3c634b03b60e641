"""How a recurrent decoder and its attention are wired together: when it looks, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from regard.layers import MemoryAttention
from regard.layers.dropout import Dropout
from regard.models.recurrent import CELLS, Hidden, project


class Memory(Protocol):
    """What there is to look at, prepared once per sentence."""

    def select(self, rows: Tensor) -> Self:
        """Reorder, repeat or drop rows of the batch.  *Shape*: rows `(new_batch,)`, int64."""
        ...


@dataclass(frozen=True)
class SummaryMemory:
    """One vector per sentence.  *Shape*: `(batch, 1, memory_size)`."""

    summary: Tensor

    def select(self, rows: Tensor) -> SummaryMemory:
        return SummaryMemory(self.summary.index_select(0, rows))


class LookAtSummary(nn.Module):
    """No attention: every query sees the same summary, the last state of each direction (Cho et al. 2014,
    section 2.2).

    It stands where `regard.layers.MemoryAttention` would, so that a decoder without attention is otherwise
    the same decoder.
    """

    def __init__(self, directions: int) -> None:
        super().__init__()
        self.directions = directions

    def prepare(self, memory: Tensor, lengths: Tensor) -> SummaryMemory:
        """*Shape*: memory `(batch, source_len, memory_size)`, lengths `(batch,)`."""
        forth, *back = memory.chunk(self.directions, dim=-1)
        rows = torch.arange(memory.shape[0], device=memory.device)
        ends = [forth[rows, lengths.to(memory.device) - 1], *(states[:, 0] for states in back)]
        return SummaryMemory(torch.cat(ends, -1)[:, None])

    def forward(
        self, query: Tensor, memory: SummaryMemory, *, return_weights: bool = False
    ) -> tuple[Tensor, None]:
        """*Shape*: query `(batch, target_len, size)`; the result `(batch, target_len, memory_size)`."""
        return memory.summary.expand(-1, query.shape[1], -1), None


Look = MemoryAttention | LookAtSummary

Carried = tuple[Hidden, ...]
"""What a decoder carries from token to token: the state of each layer, and what its wiring adds."""

Unrolled = tuple[Tensor, Carried, Tensor | None]
"""The readouts `(batch * width, target_len, embedding_size)`, what is carried on, and the weights.

`width` rows in a row share one memory; either it or target_len is 1. The weights are `(batch, heads, width *
target_len, source_len)`, or None.
"""


class Stack(nn.Module):
    """The layers of recurrent cells that both loops step through, and their first state."""

    def __init__(
        self,
        cell: str,
        input_size: int,
        fed_size: int,
        size: int,
        memory_size: int,
        layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        kind = CELLS[cell]
        self.cells = nn.ModuleList(kind(size) for _ in range(layers))
        self.from_input = nn.Linear(input_size, kind.gates * size)
        self.from_fed = nn.Linear(fed_size, kind.gates * size, bias=False)
        self.from_below = nn.ModuleList(nn.Linear(size, kind.gates * size) for _ in range(layers - 1))
        self.bridge = Bridge(memory_size, size, layers, kind.parts)
        self.dropout = Dropout(dropout)
        for linear in (self.from_input, self.from_fed, *self.from_below):
            for block in linear.weight.chunk(kind.gates):
                nn.init.xavier_uniform_(block)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    def gates(self, embedded: Tensor) -> tuple[Tensor, ...]:
        """Project all inputs onto the first layer's gates at once; one `(batch, gates * size)` per step."""
        return self.from_input(embedded.transpose(0, 1)).unbind(0)

    def step(self, gates: Tensor, fed: Tensor, carried: Carried) -> Carried:
        hidden = self.cells[0](project(self.from_fed, gates, fed), carried[0])
        after = [hidden]
        for cell, linear, before in zip(self.cells[1:], self.from_below, carried[1:], strict=True):
            hidden = cell(linear(self.dropout(hidden[0])), before)
            after.append(hidden)
        return tuple(after)


class Bridge(nn.Module):
    """The decoder's first state, `tanh(W summary)` for each layer (Bahdanau et al. 2015, appendix A.2.2)."""

    def __init__(self, memory_size: int, size: int, layers: int, parts: int) -> None:
        super().__init__()
        self.layers, self.parts = layers, parts
        self.linear = nn.Linear(memory_size, layers * parts * size)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, summary: Tensor) -> Carried:
        """*Shape*: summary `(batch, memory_size)`."""
        states = self.linear(summary).tanh().chunk(self.layers * self.parts, dim=-1)
        return tuple(states[n : n + self.parts] for n in range(0, len(states), self.parts))


class BahdanauDecoder(nn.Module):
    """Look with the previous state, then step on what was seen (Bahdanau et al. 2015, section 3.1 and
    appendix A.2.2).

    `c_t = look(s_{t-1}); s_t = cell([y_{t-1}; c_t], s_{t-1}); readout_t = maxout(U s_t + V y_{t-1} + C c_t)`

    The readout sees `s_t`, as the paper's equation 4 has it (its appendix writes `s_{t-1}`).
    """

    def __init__(
        self,
        look: Look,
        cell: str,
        input_size: int,
        size: int,
        memory_size: int,
        layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.look: Look = look
        self.stack = Stack(cell, input_size, memory_size, size, memory_size, layers, dropout)
        self.readout = nn.Linear(size + input_size + memory_size, 2 * input_size)
        nn.init.xavier_uniform_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    def start(self, summary: Tensor) -> Carried:
        """*Shape*: summary `(batch, memory_size)`."""
        return self.stack.bridge(summary)

    def forward(
        self, embedded: Tensor, carried: Carried, memory: Any, width: int = 1, return_weights: bool = False
    ) -> Unrolled:
        """*Shape*: embedded, the tokens before those to write, `(batch * width, target_len, input_size)`."""
        states, contexts, seen = [], [], []
        for gates in self.stack.gates(embedded):
            context, weights = self.look(
                carried[-1][0].unflatten(0, (-1, width)), memory, return_weights=return_weights
            )
            contexts.append(context.flatten(0, 1))
            carried = self.stack.step(gates, contexts[-1], carried)
            states.append(carried[-1][0])
            seen.append(weights)
        features = torch.cat([torch.stack(states, 1), embedded, torch.stack(contexts, 1)], -1)
        readout = torch.maximum(*self.readout(features).chunk(2, dim=-1))
        return readout, carried, _joined(seen)


class LuongDecoder(nn.Module):
    """Step, look with the new state, and feed what came of it to the next step (Luong et al. 2015, sections 3
    and 3.3).

    `s_t = cell([y_{t-1}; readout_{t-1}], s_{t-1}); c_t = look(s_t); readout_t = tanh(W [c_t; s_t])`
    """

    def __init__(
        self,
        look: Look,
        cell: str,
        input_size: int,
        size: int,
        memory_size: int,
        layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.look: Look = look
        self.stack = Stack(cell, input_size, input_size, size, memory_size, layers, dropout)
        self.from_context = nn.Linear(memory_size, input_size, bias=False)
        self.from_state = nn.Linear(size, input_size)
        nn.init.xavier_uniform_(self.from_context.weight)
        nn.init.xavier_uniform_(self.from_state.weight)
        nn.init.zeros_(self.from_state.bias)

    def start(self, summary: Tensor) -> Carried:
        """*Shape*: summary `(batch, memory_size)`."""
        nothing = summary.new_zeros(summary.shape[0], self.from_state.out_features)
        return (*self.stack.bridge(summary), (nothing,))

    def forward(
        self, embedded: Tensor, carried: Carried, memory: Any, width: int = 1, return_weights: bool = False
    ) -> Unrolled:
        """*Shape*: embedded, the tokens before those to write, `(batch * width, target_len, input_size)`."""
        *layers, (readout,) = carried
        hidden: Carried = tuple(layers)
        readouts, seen = [], []
        for gates in self.stack.gates(embedded):
            hidden = self.stack.step(gates, readout, hidden)
            state = hidden[-1][0]
            context, weights = self.look(
                state.unflatten(0, (-1, width)), memory, return_weights=return_weights
            )
            readout = project(self.from_context, self.from_state(state), context.flatten(0, 1)).tanh()
            readouts.append(readout)
            seen.append(weights)
        return torch.stack(readouts, 1), (*hidden, (readout,)), _joined(seen)


class LuongPlainDecoder(nn.Module):
    """Luong's decoder without input feeding: all steps first, then one look with all the states (section 3).

    `s_t = cell(y_{t-1}, s_{t-1}); c_t = look(s_t); readout_t = tanh(W [c_t; s_t])`

    Nothing that was seen flows back into the recurrence, so that a whole target is one call of each layer.
    """

    def __init__(
        self,
        look: Look,
        cell: str,
        input_size: int,
        size: int,
        memory_size: int,
        layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.look: Look = look
        kind = {"gru": nn.GRU, "lstm": nn.LSTM}[cell]
        self.layers = nn.ModuleList(
            kind(size if layer else input_size, size, batch_first=True) for layer in range(layers)
        )
        self.bridge = Bridge(memory_size, size, layers, CELLS[cell].parts)
        self.readout = nn.Linear(memory_size + size, input_size)
        self.dropout = Dropout(dropout)
        nn.init.xavier_uniform_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    def start(self, summary: Tensor) -> Carried:
        """*Shape*: summary `(batch, memory_size)`."""
        return self.bridge(summary)

    def forward(
        self, embedded: Tensor, carried: Carried, memory: Any, width: int = 1, return_weights: bool = False
    ) -> Unrolled:
        """*Shape*: embedded, the tokens before those to write, `(batch * width, target_len, input_size)`."""
        states, after = embedded, []
        for number, (layer, before) in enumerate(zip(self.layers, carried, strict=True)):
            first = tuple(part.unsqueeze(0).contiguous() for part in before)
            states, last = layer(
                self.dropout(states) if number else states, first if len(first) > 1 else first[0]
            )
            after.append(tuple(part.squeeze(0) for part in (last if isinstance(last, tuple) else (last,))))
        grouped = states.reshape(-1, width * states.shape[1], states.shape[2])
        context, weights = self.look(grouped, memory, return_weights=return_weights)
        readout = self.readout(torch.cat([context.reshape(*states.shape[:2], -1), states], -1)).tanh()
        return readout, tuple(after), weights


def _joined(seen: list[Tensor | None]) -> Tensor | None:
    weights = [step for step in seen if step is not None]
    return torch.cat(weights, dim=2) if weights else None


WIRINGS: dict[str, type[BahdanauDecoder] | type[LuongDecoder] | type[LuongPlainDecoder]] = {
    "bahdanau": BahdanauDecoder,
    "luong": LuongDecoder,
    "luong-plain": LuongPlainDecoder,
}
