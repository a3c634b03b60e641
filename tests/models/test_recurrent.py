"""Cells are the textbook's, and the encoder sees no padding."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from regard.models.recurrent import CELLS, RecurrentEncoder
from regard.models.wiring import LookAtSummary


@pytest.mark.parametrize(("name", "oracle"), [("gru", nn.GRUCell), ("lstm", nn.LSTMCell)])
def test_cells_equal_torch(name, oracle):
    torch.manual_seed(0)
    cell, theirs = CELLS[name](5).double(), oracle(4, 5).double()
    with torch.no_grad():
        cell.recurrent.weight.copy_(theirs.weight_hh)
        cell.recurrent.bias.copy_(theirs.bias_hh)
    input = torch.randn(3, 4, dtype=torch.float64)
    hidden = tuple(torch.randn(3, 5, dtype=torch.float64) for _ in range(cell.parts))
    found = cell(nn.functional.linear(input, theirs.weight_ih, theirs.bias_ih), hidden)
    expected = theirs(input, hidden if cell.parts == 2 else hidden[0])
    torch.testing.assert_close(found, expected if cell.parts == 2 else (expected,))


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_cells_have_the_right_gradient(name):
    torch.manual_seed(0)
    cell = CELLS[name](3).double()
    inputs = [torch.randn(2, cell.gates * 3), *(torch.randn(2, 3) for _ in range(cell.parts))]
    inputs = [tensor.double().requires_grad_() for tensor in inputs]
    assert torch.autograd.gradcheck(lambda projected, *hidden: cell(projected, hidden), inputs)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_encoder_reads_each_sentence_as_if_alone(cell, bidirectional):
    torch.manual_seed(0)
    encoder = RecurrentEncoder(cell, 4, 3, layers=2, bidirectional=bidirectional, dropout=0.5)
    encoder.double().eval()
    embedded = torch.randn(3, 6, 4, dtype=torch.float64)
    lengths = torch.tensor([2, 6, 4])
    memory, summary = encoder(embedded, lengths)
    for row, length in enumerate(lengths):
        alone, end = encoder(embedded[row : row + 1, :length], lengths[row : row + 1])
        torch.testing.assert_close(memory[row, :length], alone[0])
        torch.testing.assert_close(summary[row], end[0])
        assert not memory[row, length:].any()
    look = LookAtSummary(2 if bidirectional else 1)
    context, weights = look(torch.zeros(3, 2, 7), look.prepare(memory, lengths))
    assert weights is None
    torch.testing.assert_close(context, summary[:, None].expand(-1, 2, -1))
