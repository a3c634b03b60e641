"""A projection is the same by any library, and differentiable, compiled and hooked as PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn import functional

from regard.layers import TransformerEncoderLayer
from regard.layers.linear import Linear, linear


@pytest.mark.parametrize("shape", [(1, 24), (40, 24), (3, 7, 24), (0, 24), (2, 16, 24)])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("relu", [True, False])
def test_it_is_the_plain_product(shape, biased, relu):
    generator = torch.Generator().manual_seed(0)
    input, weight = torch.randn(shape, generator=generator), torch.randn(33, 24, generator=generator)
    bias = torch.randn(33, generator=generator) if biased else None
    exact = functional.linear(*(None if t is None else t.double() for t in (input, weight, bias)))
    exact = exact.relu() if relu else exact
    plain = functional.linear(input, weight, bias)
    plain = plain.relu() if relu else plain
    bound = 2 * (plain - exact).abs().max() + 1e-5 if plain.numel() else 1e-5
    for way in (torch.no_grad, torch.enable_grad, torch.inference_mode):
        with way():
            found = linear(input, weight, bias, relu=relu)
            assert found.shape == plain.shape
            torch.testing.assert_close(found.double(), exact, atol=float(bound), rtol=0)
            turned = linear(input.mT.contiguous().mT, weight, bias, relu=relu)
            torch.testing.assert_close(turned, found, atol=float(bound), rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types_stay_what_they_are(dtype):
    input, weight = torch.ones(32, 8, dtype=dtype), torch.ones(5, 8, dtype=dtype)
    assert linear(input, weight).dtype == dtype
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(input.float(), weight.float()).dtype == torch.bfloat16


def test_it_has_gradients():
    layer = Linear(6, 4).double()
    assert torch.autograd.gradcheck(layer, torch.randn(20, 6, dtype=torch.float64, requires_grad=True))


@torch.no_grad()
def test_hooks_of_a_block_s_projections_are_called():
    layer = TransformerEncoderLayer(8, heads=2, ffn_size=12).eval()
    seen = []
    for name, module in layer.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda *_, name=name: seen.append(name))
    layer(torch.randn(2, 20, 8))
    assert seen == [
        "attention.query_key_value", "attention.output", "feed_forward.widen", "feed_forward.narrow",
    ]  # fmt: skip


@torch.no_grad()
def test_it_has_forward_derivatives_and_can_be_mapped_where_gradients_are_off():
    input, weight, turn = torch.randn(20, 6), torch.randn(4, 6), torch.randn(20, 6)
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(linear(forward_ad.make_dual(input, turn), weight)).tangent
    torch.testing.assert_close(found, turn @ weight.T)
    mapped = torch.vmap(lambda one: linear(one, weight))(torch.stack([input, turn]))
    torch.testing.assert_close(mapped[1], turn @ weight.T)


@torch.no_grad()
def test_it_can_be_exported():
    layer = Linear(6, 4)
    input = torch.randn(20, 6)
    exported = torch.export.export(layer, (input,)).module()
    torch.testing.assert_close(exported(input), layer(input))
