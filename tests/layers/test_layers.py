"""Layers are the operator plus projections: they add nothing and lose nothing."""

from __future__ import annotations

import pytest
import torch

import regard
from regard.layers import CrossAttention, LearnedMechanism, LuongAttention, MemoryAttention, SelfAttention

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
        score=layer.look.score(),
        normalizer=parsed.normalizer,
        mask=mask,
    )
    torch.testing.assert_close(output, layer.output(expected.transpose(1, 2).reshape(2, 7, 12)))
    torch.testing.assert_close(layer(sequence, regard.masks.causal())[0], output, rtol=0, atol=0)
    assert weights.shape == (2, 3, 7, 7)
    assert not weights.triu(1).any()


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
        layer = SelfAttention(8, 2, f"{score}/sigmoid")
        layer(torch.randn(2, 5, 8))[0].square().sum().backward()
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None, (score, name)
            assert parameter.grad.any(), (score, name)


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
    with pytest.raises(ValueError, match="'none' is for models that can do without"):
        MemoryAttention("none", 4, 4)


def test_tensors_of_the_wrong_shape_are_named_with_the_right_one() -> None:
    for look in (MemoryAttention("dot/softmax", 4, 8), CrossAttention(8, 2), LuongAttention(4, 8)):
        lengths = torch.tensor([5, 3])
        with pytest.raises(
            ValueError, match=r"memory must be \(batch, memory_len, 8\), it has shape \(2, 5, 7\)"
        ):
            look.prepare(torch.randn(2, 5, 7), lengths)
        with pytest.raises(ValueError, match=r"lengths must be one a sequence, \(2,\), it has shape \(3,\)"):
            look.prepare(torch.randn(2, 5, 8), torch.tensor([5, 3, 1]))
        with pytest.raises(
            TypeError, match=r"lengths must be a tensor of whole numbers, it is torch.float32"
        ):
            look.prepare(torch.randn(2, 5, 8), torch.tensor([5.0, 3.0]))
        memory = look.prepare(torch.randn(2, 5, 8), lengths)
        with pytest.raises(
            ValueError, match=r"query must be \(batch, query_len, .\), it has shape \(2, 3, 9\)"
        ):
            look(torch.randn(2, 3, 9), memory)
        size = 8 if isinstance(look, CrossAttention) else 4
        with pytest.raises(ValueError, match="query must have the batch of memory, 2, it has shape"):
            look(torch.randn(1, 3, size), memory)
    with pytest.raises(ValueError, match=r"sequence must be \(batch, length, 8\), it has shape \(5, 8\)"):
        SelfAttention(8, 2)(torch.randn(5, 8))
    with pytest.raises(TypeError, match="sequence must be a tensor, it is list"):
        SelfAttention(8, 2)([[1.0]])
    with pytest.raises(ValueError, match="query_size must be a whole number of at least 1, it is 0"):
        MemoryAttention("dot/softmax", 0, 8)


def test_a_mechanism_may_be_an_object() -> None:
    torch.manual_seed(0)
    named = SelfAttention(8, 2, "cosine/sparsemax")
    given = SelfAttention(8, 2, regard.Mechanism.parse("cosine/sparsemax"))
    given.load_state_dict(named.state_dict())
    sequence = torch.randn(2, 5, 8)
    torch.testing.assert_close(given(sequence)[0], named(sequence)[0], rtol=0, atol=0)


def test_two_layers_of_one_object_are_independent_and_leave_it_alone() -> None:
    score = regard.scores.Additive(weight=torch.ones(4))
    first, second = (SelfAttention(8, 2, regard.Mechanism(score, regard.normalizers.Softmax())) for _ in "ab")
    with torch.no_grad():
        first.look.score.weight.add_(1.0)
    assert torch.equal(score.weight, torch.ones(4))
    assert torch.equal(second.look.score.weight, torch.ones(4))


@pytest.mark.parametrize("mask", [torch.ones(5, 5, dtype=torch.bool).tril(), regard.masks.causal()])
def test_a_layer_with_a_mask_of_its_own_compiles_with_another(mask: object) -> None:
    torch.manual_seed(0)
    layer = SelfAttention(8, 2, "dot/softmax/window-2").eval()
    sequence = torch.randn(1, 5, 8)
    compiled = torch.compile(lambda sequence: layer(sequence, mask)[0], fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(sequence), layer(sequence, mask)[0])


def test_arguments_of_the_wrong_kind_are_named() -> None:
    for look in (MemoryAttention("dot/softmax", 8, 8), CrossAttention(8, 2), LuongAttention(8, 8)):
        with pytest.raises(TypeError, match=r"it is Tensor: call layer.prepare\(memory, lengths\) first"):
            look(torch.randn(2, 3, 8), torch.randn(2, 5, 8))
    with pytest.raises(TypeError, match="cache must be the Cache of an earlier call, it is tuple"):
        SelfAttention(8, 2)(torch.randn(2, 1, 8), cache=(torch.randn(2, 2, 3, 4),))
    _, _, cache = SelfAttention(8, 4)(torch.randn(2, 1, 8))
    with pytest.raises(
        ValueError, match=r"key of the cache must be \(batch, 2, length, 4\), .* \(2, 4, 1, 2\)"
    ):
        SelfAttention(8, 2)(torch.randn(2, 1, 8), cache=cache)
    with pytest.raises(ValueError, match=r"dropout must be at least 0 and below 1, it is 1.5"):
        SelfAttention(8, 2, dropout=1.5)
    with pytest.raises(TypeError, match="dropout must be a number, it is str"):
        LearnedMechanism("dot/softmax", heads=1, size=4, dropout="0.5")
    with pytest.raises(TypeError, match=r"a mechanism must be spelt .*, it is int"):
        SelfAttention(8, 2, 3)
    with pytest.raises(
        ValueError, match="memory_size must be a multiple of heads: memory_size is 9, heads is 2"
    ):
        MemoryAttention("dot/softmax", 8, 9, attention_size=8, heads=2)
    with pytest.raises(ValueError, match="attention_size must be a multiple of heads: attention_size is 7"):
        MemoryAttention("dot/softmax", 8, 8, attention_size=7, heads=2)
    with pytest.raises(ValueError, match="heads must be a whole number of at least 1, it is 0"):
        SelfAttention(8, 0)
    with pytest.raises(ValueError, match="position must be a whole number of at least 0, it is -1"):
        look(torch.randn(2, 3, 8), look.prepare(torch.randn(2, 5, 8), torch.tensor([5, 3])), position=-1)


def test_cross_attention_wants_queries_that_stand_by_themselves() -> None:
    with pytest.raises(ValueError, match="'dot/monotonic' does not: MonotonicAttention goes on"):
        CrossAttention(8, 2, "dot/monotonic")


@pytest.mark.parametrize("kind", [MemoryAttention, CrossAttention, LuongAttention])
def test_lengths_may_be_on_another_device_than_the_memory(kind: type) -> None:
    sizes = {MemoryAttention: ("dot/softmax", 8, 8), CrossAttention: (8, 2), LuongAttention: (8, 8)}
    layer = kind(*sizes[kind]).to("meta")
    memory = layer.prepare(torch.empty(2, 5, 8, device="meta"), torch.tensor([5, 3]))
    assert memory.mask.device.type == "meta"


def test_a_memory_of_another_layer_is_named() -> None:
    memory = CrossAttention(8, 1).prepare(torch.randn(2, 5, 8), torch.tensor([5, 3]))
    with pytest.raises(
        ValueError, match=r"prepared by this layer, its key \(batch, 2, memory_len, 4\): .*1, 5, 8"
    ):
        CrossAttention(8, 2)(torch.randn(2, 3, 8), memory)


def test_a_mechanism_is_made_of_its_parts_and_spells_itself() -> None:
    made = regard.Mechanism(regard.scores.Dot(), regard.normalizers.TopK(4), regard.masks.causal())
    assert made.spelling == "dot/top-4/causal"
    assert made.over_memory().mask is None
    for wrong, named in ((("dot", "softmax"), "score"), ((regard.scores.Dot(), "softmax"), "normalizer")):
        with pytest.raises(
            TypeError, match=f"the {named} of a mechanism must be an object of regard.{named}s"
        ):
            regard.Mechanism(*wrong)
