"""Every model trains in mixed precision, close to float32."""

from __future__ import annotations

import pytest
import torch

NAMES = [
    "bahdanau",
    "bahdanau-lstm",
    "bahdanau-none",
    "bahdanau-heads",
    "luong",
    "luong-plain",
    "transformer",
    "transformer-additive",
    "pointer-generator",
    "pointer-generator-lstm",
]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradient_under_autocast_are_near_float32(tiny, batch, name, dtype):
    model = tiny(name).float()
    source, lengths, target, target_lengths = batch

    def measured(enabled: bool):
        model.zero_grad()
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):
            loss, _, tokens = model.loss(source, lengths, target, target_lengths)
        (loss / tokens).backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        return loss.detach() / tokens, gradient

    exact, gradient = measured(False)
    found, rounded = measured(True)
    assert abs(found - exact) < 0.02 * exact
    assert (rounded - gradient).norm() < 0.1 * gradient.norm()
