"""The chunked loss is the cross entropy, and its gradient is right."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from regard.models import loss as module
from regard.models import smoothed_cross_entropy


def _inputs(n=7, size=4, words=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(n, size, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(words, size, generator=generator, dtype=dtype).requires_grad_()
    bias = torch.randn(words, generator=generator, dtype=dtype).requires_grad_()
    return states, weight, bias, torch.randint(0, words, (n,), generator=generator)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
@pytest.mark.parametrize("biased", [True, False])
def test_equals_cross_entropy(monkeypatch, smoothing, chunk, biased):
    monkeypatch.setattr(module, "CHUNK", chunk)
    states, weight, bias, target = _inputs()
    offset = bias if biased else None
    inputs = (states, weight, bias) if biased else (states, weight)
    loss, surprise = smoothed_cross_entropy(states, weight, offset, target, smoothing)
    scores = functional.linear(states, weight, offset)
    expected = functional.cross_entropy(scores, target, reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(surprise, functional.cross_entropy(scores, target, reduction="sum"))
    assert not surprise.requires_grad
    for found, wanted in zip(
        torch.autograd.grad(3.0 * loss, inputs), torch.autograd.grad(3.0 * expected, inputs), strict=True
    ):
        torch.testing.assert_close(found, wanted)


def test_gradcheck(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 3)
    states, weight, bias, target = _inputs()
    assert torch.autograd.gradcheck(
        lambda *inputs: smoothed_cross_entropy(*inputs, target, 0.1)[0], (states, weight, bias)
    )


def test_nothing_to_differentiate_gives_the_same_value():
    states, weight, bias, target = _inputs()
    expected = smoothed_cross_entropy(states, weight, bias, target, 0.1)
    with torch.no_grad():
        found = smoothed_cross_entropy(states, weight, bias, target, 0.1)
    assert found[0] == expected[0]
    assert found[1] == expected[1]
    assert not found[0].requires_grad


def test_no_positions_cost_nothing():
    states, weight, bias, _ = _inputs(n=0)
    loss, surprise = smoothed_cross_entropy(states, weight, bias, torch.zeros(0, dtype=torch.int64), 0.1)
    loss.backward()
    assert loss == surprise == 0
    assert not weight.grad.any()


def test_certain_and_hopeless_words_stay_finite():
    states = torch.tensor([[500.0], [500.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    loss, surprise = smoothed_cross_entropy(states, weight, None, torch.tensor([0, 1]))
    loss.backward()
    assert surprise == 1000.0
    assert states.grad.isfinite().all()


def test_autocast_projects_in_low_precision_and_sums_in_float32():
    states, weight, bias, target = _inputs(dtype=torch.float32)
    exact = smoothed_cross_entropy(states, weight, bias, target, 0.1)[0]
    with torch.autocast("cpu", torch.bfloat16):
        loss = smoothed_cross_entropy(states, weight, bias, target, 0.1)[0]
    loss.backward()
    assert loss.dtype == weight.grad.dtype == states.grad.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=0.02, atol=0.0)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_refuses_impossible_smoothing(smoothing):
    with pytest.raises(ValueError, match="smoothing"):
        smoothed_cross_entropy(*_inputs(), smoothing)


def test_refuses_wrong_shapes():
    states, weight, bias, target = _inputs()
    with pytest.raises(ValueError, match="target"):
        smoothed_cross_entropy(states, weight, bias, target[:3])
