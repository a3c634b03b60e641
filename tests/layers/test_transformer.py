"""A Transformer's blocks are PyTorch's, number for number, with any mechanism and step by step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import regard
from regard.layers import SelfAttention, TransformerDecoderLayer, TransformerEncoderLayer
from regard.layers.transformer import FeedForward

NORMS = ["pre", "post"]


def self_attention_of(theirs: nn.MultiheadAttention) -> dict[str, torch.Tensor]:
    return {
        "query_key_value.weight": theirs.in_proj_weight,
        "query_key_value.bias": theirs.in_proj_bias,
        "output.weight": theirs.out_proj.weight,
        "output.bias": theirs.out_proj.bias,
    }


def cross_attention_of(theirs: nn.MultiheadAttention) -> dict[str, torch.Tensor]:
    size = theirs.embed_dim
    return {
        "query.weight": theirs.in_proj_weight[:size],
        "query.bias": theirs.in_proj_bias[:size],
        "key_value.weight": theirs.in_proj_weight[size:],
        "key_value.bias": theirs.in_proj_bias[size:],
        "output.weight": theirs.out_proj.weight,
        "output.bias": theirs.out_proj.bias,
    }


def away_from_the_start(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm", NORMS)
def test_the_encoder_layer_has_the_numbers_of_pytorchs(norm: str, activation: str) -> None:
    torch.manual_seed(0)
    theirs = nn.TransformerEncoderLayer(
        8, 2, 12, 0.0, activation, norm_first=norm == "pre", batch_first=True
    ).double()
    away_from_the_start(theirs)
    ours = TransformerEncoderLayer(8, 2, 12, norm=norm, activation=activation).double()
    ours.attention.load_state_dict(self_attention_of(theirs.self_attn))
    ours.feed_forward.widen.load_state_dict(theirs.linear1.state_dict())
    ours.feed_forward.narrow.load_state_dict(theirs.linear2.state_dict())
    ours.around_attention.norm.load_state_dict(theirs.norm1.state_dict())
    ours.around_feed_forward.norm.load_state_dict(theirs.norm2.state_dict())
    sequence, lengths = torch.randn(2, 5, 8).double(), torch.tensor([5, 3])
    hidden = torch.arange(5) >= lengths[:, None]
    found, weights = ours(sequence, regard.masks.padding(lengths), return_weights=True)
    torch.testing.assert_close(found[~hidden], theirs(sequence, src_key_padding_mask=hidden)[~hidden])
    assert weights.shape == (2, 2, 5, 5)
    assert not weights[1, ..., 3:].any()


@pytest.mark.parametrize("norm", NORMS)
def test_the_decoder_layer_has_the_numbers_of_pytorchs(norm: str) -> None:
    torch.manual_seed(0)
    theirs = nn.TransformerDecoderLayer(8, 2, 12, 0.0, norm_first=norm == "pre", batch_first=True).double()
    away_from_the_start(theirs)
    ours = TransformerDecoderLayer(8, 2, 12, norm=norm).double()
    ours.attention.load_state_dict(self_attention_of(theirs.self_attn))
    ours.cross_attention.load_state_dict(cross_attention_of(theirs.multihead_attn))
    ours.feed_forward.widen.load_state_dict(theirs.linear1.state_dict())
    ours.feed_forward.narrow.load_state_dict(theirs.linear2.state_dict())
    ours.around_attention.norm.load_state_dict(theirs.norm1.state_dict())
    ours.around_cross_attention.norm.load_state_dict(theirs.norm2.state_dict())
    ours.around_feed_forward.norm.load_state_dict(theirs.norm3.state_dict())
    sequence, memory = torch.randn(2, 4, 8).double(), torch.randn(2, 5, 8).double()
    lengths = torch.tensor([5, 3])
    expected = theirs(
        sequence,
        memory,
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(4, dtype=torch.float64),
        tgt_is_causal=True,
        memory_key_padding_mask=torch.arange(5) >= lengths[:, None],
    )
    found, _, _ = ours(sequence, ours.prepare(memory, lengths))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "mechanism", ["scaled_dot/softmax", "additive/sparsemax", "dot/softmax/window-1/alibi"]
)
@pytest.mark.parametrize("norm", NORMS)
def test_step_by_step_equals_the_full_pass(norm: str, mechanism: str) -> None:
    torch.manual_seed(0)
    layer = TransformerDecoderLayer(
        8, 2, 12, mechanism, cross_mechanism="cosine/top-2", memory_size=6, norm=norm, activation="swiglu"
    ).double()
    sequence = torch.randn(4, 5, 8).double()
    memory = layer.prepare(torch.randn(2, 7, 6).double(), torch.tensor([7, 3]))
    whole, weights, _ = layer(sequence, memory, width=2, return_weights=True)
    cache = None
    for place in range(5):
        step, seen, cache = layer(sequence[:, place : place + 1], memory, cache, width=2, return_weights=True)
        torch.testing.assert_close(step, whole[:, place : place + 1])
        whole_weights = weights.unflatten(2, (2, 5))[:, :, :, place]
        torch.testing.assert_close(seen, whole_weights)
    alone, _, _ = layer(sequence[[0, 2]], memory)
    torch.testing.assert_close(alone, whole[[0, 2]])  # rows that share a memory do not see each other


def test_a_gated_feed_forward_is_the_formula() -> None:
    torch.manual_seed(0)
    layer = FeedForward(4, 6, "swiglu").double()
    x = torch.randn(3, 4).double()
    opened = layer.widen(x)
    expected = layer.narrow(opened * torch.sigmoid(opened) * layer.gate(x))
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer(x[1]), expected[1])


def test_dropout_is_for_training_only_and_every_part_learns() -> None:
    torch.manual_seed(0)
    layer = TransformerEncoderLayer(8, 2, 12, activation="swiglu", dropout=0.3, attention_dropout=0.3)
    sequence = torch.randn(2, 5, 8)
    assert not torch.equal(layer(sequence)[0], layer(sequence)[0])
    layer.eval()
    assert torch.equal(layer(sequence)[0], layer(sequence)[0])
    layer(sequence)[0].square().sum().backward()
    assert all(parameter.grad.any() for parameter in layer.parameters())
    assert isinstance(layer.attention, SelfAttention)


def test_what_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="norm must be one of pre, post, it is 'both'"):
        TransformerEncoderLayer(8, 2, 12, norm="both")
    with pytest.raises(ValueError, match="activation must be one of relu, gelu, swiglu, it is 'tanh'"):
        TransformerDecoderLayer(8, 2, 12, activation="tanh")
    layer = TransformerDecoderLayer(8, 2, 12)
    memory = layer.prepare(torch.randn(2, 5, 8), torch.tensor([5, 3]))
    with pytest.raises(
        ValueError, match="sequence must have the batch of memory times width 2, 4, it has shape"
    ):
        layer(torch.randn(3, 1, 8), memory, width=2)
    with pytest.raises(ValueError, match="size is 9, heads is 2"):
        TransformerEncoderLayer(9, 2, 12)


@pytest.mark.parametrize("mechanism", ["scaled_dot+rotary/softmax", "dot/softmax/window-1/alibi"])
def test_by_default_the_memory_is_looked_at_without_what_tells_distances(mechanism: str) -> None:
    torch.manual_seed(0)
    layer = TransformerDecoderLayer(8, 2, 12, mechanism).double()
    sequence, encoded = torch.randn(2, 4, 8).double(), torch.randn(2, 7, 8).double()
    lengths = torch.tensor([7, 3])
    whole, _, _ = layer(sequence, layer.prepare(encoded, lengths))
    cache = None
    for place in range(4):
        step, _, cache = layer(sequence[:, place : place + 1], layer.prepare(encoded, lengths), cache)
        torch.testing.assert_close(step, whole[:, place : place + 1])
    alone, _, _ = layer(sequence[1:], layer.prepare(encoded[1:, :3], lengths[1:]))
    torch.testing.assert_close(alone, whole[1:])  # padding counts for nothing


def test_what_the_memory_cannot_be_looked_at_with_is_named() -> None:
    with pytest.raises(
        ValueError, match=r"must have no mask, bias or rotary positions, .*: 'dot/softmax', it is"
    ):
        TransformerDecoderLayer(8, 2, 12, cross_mechanism="dot+rotary/softmax/window-2")
    for how in ({"mechanism": "dot/monotonic"}, {"cross_mechanism": "dot/monotonic_hard"}):
        with pytest.raises(ValueError, match=r"'dot/monotonic.*' does not: MonotonicAttention goes on"):
            TransformerDecoderLayer(8, 2, 12, **how)
    for rate in ("dropout", "attention_dropout"):
        with pytest.raises(ValueError, match=rf"^{rate} must be at least 0 and below 1, it is 1.5"):
            TransformerEncoderLayer(8, 2, 12, **{rate: 1.5})
    layer = TransformerDecoderLayer(8, 2, 12)
    with pytest.raises(TypeError, match=r"it is Tensor: call layer.prepare\(memory, lengths\) first"):
        layer(torch.randn(2, 1, 8), torch.randn(2, 5, 8))
