"""Layers are the operator plus projections: they add nothing and lose nothing."""

from __future__ import annotations

import pytest
import torch

import regard
from regard.layers import Cache, CrossAttention, LearnedMechanism, MemoryAttention, SelfAttention

MECHANISMS = [
    "scaled_dot/softmax",
    "additive/sparsemax",
    "cosine/top-3",
    "general/entmax15",
    "dot/softmax/window-2",
]


def inputs(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_self_attention_is_the_operator_between_projections(mechanism: str) -> None:
    torch.manual_seed(0)
    layer = SelfAttention(12, 3, mechanism).double()
    sequence = inputs(2, 7, 12)
    output, weights, _ = layer(sequence, regard.masks.causal(), return_weights=True)
    query, key, value = (
        part.reshape(2, 7, 3, 4).transpose(1, 2) for part in layer.query_key_value(sequence).split(12, dim=-1)
    )
    parsed = regard.Mechanism.parse(mechanism)
    mask = regard.masks.causal() if parsed.mask is None else regard.masks.causal() & parsed.mask
    expected = regard.attend(
        query,
        key,
        value,
        score=regard.scores.SCORES[parsed.score](**dict(layer.look.learned.items())),  # type: ignore[call-arg]
        normalizer=parsed.normalizer,
        mask=mask,
    )
    torch.testing.assert_close(output, layer.output(expected.transpose(1, 2).reshape(2, 7, 12)))
    torch.testing.assert_close(layer(sequence, regard.masks.causal())[0], output, rtol=0, atol=0)
    assert weights.shape == (2, 3, 7, 7)
    assert not weights.triu(1).any()


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_step_by_step_with_a_cache_equals_the_full_pass(mechanism: str) -> None:
    torch.manual_seed(0)
    layer = SelfAttention(12, 3, mechanism).double()
    sequence = inputs(2, 6, 12)
    whole, _, _ = layer(sequence, regard.masks.causal())
    cache: Cache | None = None
    for place in range(6):
        step, _, cache = layer(sequence[:, place : place + 1], regard.masks.causal(), cache)
        torch.testing.assert_close(step, whole[:, place : place + 1])
    assert cache is not None
    swapped = cache.select(torch.tensor([1, 0, 1]))
    assert swapped.key.shape[0] == 3
    torch.testing.assert_close(swapped.value[0], cache.value[1])


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("kind", [MemoryAttention, CrossAttention])
def test_a_memory_is_read_only_as_far_as_it_goes(kind: type, heads: int) -> None:
    torch.manual_seed(0)
    if kind is MemoryAttention:
        layer = MemoryAttention("additive/softmax", 8, 8, heads=heads).double()
    else:
        layer = CrossAttention(8, heads).double()
    memory, query, lengths = inputs(2, 5, 8), inputs(2, 3, 8, seed=1), torch.tensor([5, 2])
    output, weights = layer(query, layer.prepare(memory, lengths), return_weights=True)
    assert weights.shape == (2, heads, 3, 5)
    assert not weights[1, ..., 2:].any()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, heads, 3, dtype=torch.float64))
    changed = memory.clone()
    changed[1, 2:] += 100
    again, _ = layer(query, layer.prepare(changed, lengths))
    torch.testing.assert_close(again, output, rtol=0, atol=0)
    alone, _ = layer(query[1:], layer.prepare(memory[1:, :2], lengths[1:]))
    torch.testing.assert_close(alone, output[1:])
    picked, _ = layer(query[[1, 1]], layer.prepare(memory, lengths).select(torch.tensor([1, 1])))
    torch.testing.assert_close(picked[0], output[1])


def test_one_head_hands_the_memory_itself_back() -> None:
    """Bahdanau's context is a weighted sum of the encoder's states, not of a projection of them."""
    layer = MemoryAttention("additive/softmax", 6, 8)
    memory = torch.randn(2, 5, 8)
    context, weights = layer(
        torch.randn(2, 3, 6), layer.prepare(memory, torch.tensor([5, 4])), return_weights=True
    )
    torch.testing.assert_close(context, weights[:, 0] @ memory)


def test_every_learned_tensor_gets_a_gradient() -> None:
    for score in regard.scores.SCORES:
        layer = SelfAttention(8, 2, f"{score}/softmax")
        layer(torch.randn(2, 5, 8))[0].square().sum().backward()
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None, (score, name)
            assert name.startswith("query_key_value.bias") or parameter.grad.any(), (score, name)


def test_dropout_is_for_training_only() -> None:
    layer = SelfAttention(8, 2, dropout=0.5)
    sequence = torch.randn(2, 5, 8)
    assert not torch.equal(layer(sequence)[0], layer(sequence)[0])
    layer.eval()
    assert torch.equal(layer(sequence)[0], layer(sequence)[0])


def test_bad_sizes_and_spellings_are_named() -> None:
    with pytest.raises(ValueError, match="size is 10, heads is 3"):
        SelfAttention(10, 3)
    with pytest.raises(ValueError, match="did you mean 'sparsemax'"):
        LearnedMechanism("dot/sparsmax", heads=1, size=4)
    with pytest.raises(ValueError, match="'none' where a model may do without"):
        MemoryAttention("none", 4, 4)
