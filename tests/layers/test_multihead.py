"""The drop-in is PyTorch's layer: the same parameters, the same numbers, but for what its docstring says."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import regard
from regard.attention.scores import SCORES
from regard.layers.multihead import MultiheadAttention

BATCH, QUERIES, KEYS, SIZE, HEADS = 2, 3, 4, 8, 2

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no bias": {"bias": False},
    "bias_kv": {"add_bias_kv": True},
    "zero_attn": {"add_zero_attn": True},
    "both extra keys": {"add_bias_kv": True, "add_zero_attn": True},
    "other sizes": {"kdim": 5, "vdim": 3},
    "other sizes, no bias": {"kdim": 5, "bias": False},
    "all": {"kdim": 5, "vdim": 3, "add_bias_kv": True, "add_zero_attn": True},
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hide(*shape: int, seed: int = 1) -> Tensor:
    """A boolean mask, True at hidden keys, that hides the first key from nobody."""
    hidden = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    hidden[..., 0] = False
    return hidden


MASKS: dict[str, dict[str, Tensor]] = {
    "no mask": {},
    "pairs": {"attn_mask": hide(QUERIES, KEYS)},
    "pairs of each head": {"attn_mask": hide(BATCH * HEADS, QUERIES, KEYS)},
    "padding": {"key_padding_mask": hide(BATCH, KEYS, seed=2)},
    "both": {"attn_mask": hide(QUERIES, KEYS), "key_padding_mask": hide(BATCH, KEYS, seed=2)},
    "added to pairs": {"attn_mask": draw(QUERIES, KEYS)},
    "added to pairs of each head": {"attn_mask": draw(BATCH * HEADS, QUERIES, KEYS)},
    "added to keys": {"key_padding_mask": draw(BATCH, KEYS, seed=2)},
    "both added": {
        "attn_mask": draw(BATCH * HEADS, QUERIES, KEYS),
        "key_padding_mask": draw(BATCH, KEYS, seed=2),
    },
}


def pair(**options: Any) -> tuple[nn.MultiheadAttention, MultiheadAttention]:
    """PyTorch's layer and ours with the same parameters, none of them zero."""
    options = {"dtype": torch.float64, **options}
    theirs = nn.MultiheadAttention(SIZE, HEADS, **options)
    ours = MultiheadAttention(SIZE, HEADS, **options)
    for number, parameter in enumerate(theirs.parameters()):
        parameter.data = draw(*parameter.shape, seed=10 + number).to(parameter.dtype) / 2
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs, ours


def inputs(layer: nn.MultiheadAttention, batched: bool = True) -> list[Tensor]:
    shapes = [(QUERIES, SIZE), (KEYS, layer.kdim), (KEYS, layer.vdim)]
    if not batched:
        return [draw(*shape, seed=20 + i) for i, shape in enumerate(shapes)]
    return [
        draw(*((BATCH, length) if layer.batch_first else (length, BATCH)), size, seed=20 + i)
        for i, (length, size) in enumerate(shapes)
    ]


def ends(layer: nn.Module, tensors: list[Tensor], **arguments: Any) -> Iterator[Tensor]:
    """Output, weights, and the gradients of inputs and parameters through both."""
    tensors = [tensor.clone().requires_grad_() for tensor in tensors]
    output, weights = layer(*tensors, **arguments)
    yield output
    loss = (output * draw(*output.shape, seed=30)).sum()
    assert (weights is not None) == arguments["need_weights"]
    if weights is not None:
        yield weights
        loss = loss + (weights * draw(*weights.shape, seed=31)).sum()
    names = dict(layer.named_parameters())
    yield from torch.autograd.grad(loss, [*tensors, *(names[name] for name in sorted(names))])


def same(theirs: nn.Module, ours: nn.Module, tensors: list[Tensor], **arguments: Any) -> None:
    expected, found = list(ends(theirs, tensors, **arguments)), list(ends(ours, tensors, **arguments))
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("options", OPTIONS)
def test_output_weights_and_gradients_are_pytorchs(options: str, mask: str, need_weights: bool) -> None:
    theirs, ours = pair(**OPTIONS[options])
    same(theirs, ours, inputs(theirs), need_weights=need_weights, **MASKS[mask])


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("mask", ["no mask", "pairs of each head", "both", "both added"])
@pytest.mark.parametrize("options", ["plain", "all"])
def test_batch_first_and_weights_of_each_head(options: str, mask: str, average: bool) -> None:
    theirs, ours = pair(batch_first=True, **OPTIONS[options])
    arguments = {"need_weights": True, "average_attn_weights": average, **MASKS[mask]}
    same(theirs, ours, inputs(theirs), **arguments)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("options", ["plain", "all"])
@pytest.mark.parametrize(
    "masks",
    [
        {},
        {"key_padding_mask": hide(KEYS, seed=2)},
        {"attn_mask": hide(QUERIES, KEYS), "key_padding_mask": hide(KEYS, seed=2)},
        {"attn_mask": draw(HEADS, QUERIES, KEYS)},
    ],
    ids=["none", "padding", "both", "added"],
)
def test_without_a_batch(masks: dict[str, Tensor], options: str, batch_first: bool, average: bool) -> None:
    theirs, ours = pair(batch_first=batch_first, **OPTIONS[options])
    arguments = {"need_weights": True, "average_attn_weights": average, **masks}
    same(theirs, ours, inputs(theirs, batched=False), **arguments)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_tensors_given_twice_are_projected_once_with_the_same_numbers(batch_first: bool, bias: bool) -> None:
    theirs, ours = pair(batch_first=batch_first, bias=bias)
    query, memory = draw(BATCH, 3, SIZE), draw(BATCH, 3, SIZE, seed=1)
    for tensors in [(query, query, query), (query, memory, memory), (query, query, memory)]:
        apart = [tensor.clone() for tensor in tensors]
        for one, other, third in zip(theirs(*tensors), ours(*tensors), ours(*apart), strict=True):
            torch.testing.assert_close(other, one)
            torch.testing.assert_close(third, one)


def test_masks_of_different_types_combine() -> None:
    theirs, ours = pair()
    tensors, pairs, keys = inputs(theirs), hide(QUERIES, KEYS), hide(BATCH, KEYS, seed=2)
    added, added_keys = draw(QUERIES, KEYS), draw(BATCH, KEYS, seed=2)

    def number(hidden: Tensor) -> Tensor:
        return torch.zeros(hidden.shape, dtype=torch.float64).masked_fill(hidden, -torch.inf)

    for attn, padding in [(pairs, added_keys), (added, keys)]:
        expected = theirs(
            *tensors,
            attn_mask=number(attn) if attn.dtype == torch.bool else attn,
            key_padding_mask=number(padding) if padding.dtype == torch.bool else padding,
        )
        for need_weights in (False, True):
            found = ours(*tensors, attn_mask=attn, key_padding_mask=padding, need_weights=need_weights)
            torch.testing.assert_close(found[0], expected[0])
        torch.testing.assert_close(found[1], expected[1])


def test_numbers_to_be_added_may_be_of_another_type() -> None:
    _, ours = pair()
    tensors, mask = inputs(ours), draw(QUERIES, KEYS).bfloat16()
    for need_weights in (False, True):
        expected, _ = ours(*tensors, attn_mask=mask.double(), need_weights=need_weights)
        found, _ = ours(*tensors, attn_mask=mask, need_weights=need_weights)
        torch.testing.assert_close(found, expected)


def test_numbers_to_be_added_may_be_learned() -> None:
    theirs, ours = pair()
    tensors, grads = inputs(theirs), []
    for layer in (theirs, ours):
        mask = draw(QUERIES, KEYS).requires_grad_()
        layer(*tensors, attn_mask=mask)[0].square().sum().backward()
        grads.append(mask.grad)
    torch.testing.assert_close(grads[1], grads[0])


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("queries", [3, 4, 6])
@pytest.mark.parametrize("options", ["plain", "both extra keys"])
def test_causality_alone_is_what_its_mask_would_be(options: str, queries: int, batched: bool) -> None:
    theirs, ours = pair(batch_first=True, **OPTIONS[options])
    shape = (BATCH,) if batched else ()
    query, key = draw(*shape, queries, SIZE), draw(*shape, KEYS, SIZE, seed=1)
    mask = torch.ones(queries, KEYS, dtype=torch.bool).triu(1)
    expected, weights = theirs(query, key, key, attn_mask=mask)
    for given in (None, mask, torch.zeros(mask.shape, dtype=torch.float64).masked_fill(mask, -torch.inf)):
        found = ours(query, key, key, attn_mask=given, is_causal=True)
        torch.testing.assert_close(found[0], expected)
        torch.testing.assert_close(found[1], weights)
        output, none = ours(query, key, key, attn_mask=given, is_causal=True, need_weights=False)
        assert none is None
        torch.testing.assert_close(output, expected)
    padding = hide(*shape, KEYS)
    expected, weights = theirs(query, key, key, padding, attn_mask=mask, is_causal=True)
    for given in (None, mask):
        found = ours(query, key, key, padding, attn_mask=given, is_causal=True)
        torch.testing.assert_close(found[0], expected)
        torch.testing.assert_close(found[1], weights)


def test_a_causal_hint_is_taken_at_its_word_like_pytorchs() -> None:
    theirs, ours = pair()
    sequence, mask = draw(KEYS, BATCH, SIZE), torch.zeros(KEYS, KEYS, dtype=torch.bool)
    arguments = {"attn_mask": mask, "is_causal": True, "need_weights": False}
    expected = theirs(sequence, sequence, sequence, **arguments)[0]
    torch.testing.assert_close(ours(sequence, sequence, sequence, **arguments)[0], expected)
    output, weights = ours(sequence, sequence, sequence, attn_mask=mask, is_causal=True)
    torch.testing.assert_close(output, expected)
    assert not weights.triu(1).any()
    padding = hide(BATCH, KEYS)
    expected = theirs(sequence, sequence, sequence, padding, **arguments)[0]
    torch.testing.assert_close(ours(sequence, sequence, sequence, padding, **arguments)[0], expected)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_no_further_off_than_pytorchs(dtype: torch.dtype, need_weights: bool) -> None:
    theirs, ours = pair(dtype=dtype)
    exact = copy.deepcopy(theirs).double()
    tensors, mask = [t.to(dtype) for t in inputs(theirs)], hide(QUERIES, KEYS)
    expected, _ = exact(*(t.double() for t in tensors), attn_mask=mask)
    plain, _ = theirs(*tensors, attn_mask=mask, need_weights=need_weights)
    output, weights = ours(*tensors, attn_mask=mask, need_weights=need_weights)
    assert output.dtype == dtype
    assert weights is None or weights.dtype == dtype
    bound = 2 * (plain - expected).abs().max() + torch.finfo(dtype).eps * expected.abs().max()
    assert (output - expected).abs().max() <= bound


def test_autocast_computes_in_the_smaller_type() -> None:
    _, ours = pair(dtype=torch.float32, add_bias_kv=True, add_zero_attn=True)
    tensors, mask = [t.float() for t in inputs(ours)], draw(QUERIES, KEYS).float()
    expected, _ = ours(*tensors, attn_mask=mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, weights = ours(*tensors, attn_mask=mask)
    assert output.dtype == weights.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_same_seed_draws_pytorchs_parameters(options: str) -> None:
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(SIZE, HEADS, **OPTIONS[options])
    after = torch.rand(3)
    torch.manual_seed(0)
    ours = MultiheadAttention(SIZE, HEADS, **OPTIONS[options])
    torch.testing.assert_close(torch.rand(3), after, rtol=0, atol=0)
    expected, found = theirs.state_dict(), ours.state_dict()
    assert list(found) == list(expected)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("options", OPTIONS)
def test_a_state_loads_either_way_and_attributes_agree(options: str) -> None:
    theirs = nn.MultiheadAttention(SIZE, HEADS, dropout=0.1, batch_first=True, **OPTIONS[options])
    ours = MultiheadAttention(SIZE, HEADS, dropout=0.1, batch_first=True, **OPTIONS[options])
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    for name in vars(theirs):
        assert name.startswith("_") or getattr(ours, name) == getattr(theirs, name), name
    assert ours._qkv_same_embed_dim == theirs._qkv_same_embed_dim
    for name in (
        "in_proj_weight",
        "q_proj_weight",
        "k_proj_weight",
        "v_proj_weight",
        "in_proj_bias",
        "bias_k",
    ):
        assert (getattr(ours, name) is None) == (getattr(theirs, name) is None), name


def test_copies_and_pickles_are_the_same_layer() -> None:
    ours = MultiheadAttention(
        SIZE, HEADS, add_bias_kv=True, dtype=torch.float64, score="additive", normalizer="sink"
    )
    buffer = io.BytesIO()
    torch.save(ours, buffer)
    buffer.seek(0)
    tensors = inputs(ours)
    expected = ours(*tensors)
    for twin in (copy.deepcopy(ours), torch.load(buffer, weights_only=False)):
        for one, other in zip(expected, twin(*tensors), strict=True):
            torch.testing.assert_close(other, one, rtol=0, atol=0)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("number", [False, True])
def test_a_query_that_may_look_at_nothing_gets_zero(number: bool, need_weights: bool) -> None:
    theirs, ours = pair()
    tensors = [tensor.requires_grad_() for tensor in inputs(theirs)]
    pairs, keys = torch.zeros(QUERIES, KEYS, dtype=torch.bool), torch.zeros(BATCH, KEYS, dtype=torch.bool)
    pairs[1], keys[1] = True, True
    for name, hidden in (("attn_mask", pairs), ("key_padding_mask", keys)):
        mask = (
            torch.zeros(hidden.shape, dtype=torch.float64).masked_fill(hidden, -torch.inf)
            if number
            else hidden
        )
        output, weights = ours(*tensors, need_weights=need_weights, **{name: mask})
        blind = output[1] if name == "attn_mask" else output[:, 1]
        torch.testing.assert_close(blind, ours.out_proj.bias.expand_as(blind), rtol=0, atol=0)
        assert theirs(*tensors, need_weights=True, **{name: mask})[0].isnan().any()
        if weights is not None:
            assert not (weights[:, 1] if name == "attn_mask" else weights[1]).any()
        grads = torch.autograd.grad(output.sum(), [*tensors, *ours.parameters()])
        assert all(grad.isfinite().all() for grad in grads)
        assert not (grads[0][1] if name == "attn_mask" else grads[0][:, 1]).any()


def test_a_hidden_key_changes_nothing() -> None:
    _, ours = pair(batch_first=True)
    query, key, value = inputs(ours)
    hidden = torch.tensor([[False, False, True, False], [False, True, False, True]])
    expected, _ = ours(query, key, value, hidden)
    key, value = key + 100 * hidden[..., None], value - 100 * hidden[..., None]
    torch.testing.assert_close(ours(query, key, value, hidden)[0], expected, rtol=0, atol=0)


@pytest.mark.parametrize("normalizer", ["softmax", "sparsemax", "sigmoid", "top-2", "sink"])
@pytest.mark.parametrize("score", list(SCORES))
def test_any_score_and_normalizer_is_the_operator_between_projections(score: str, normalizer: str) -> None:
    layer = MultiheadAttention(
        SIZE, HEADS, dtype=torch.float64, batch_first=True, score=score, normalizer=normalizer
    )
    sequence = draw(BATCH, KEYS, SIZE)
    output, weights = layer(sequence, sequence, sequence, is_causal=True, average_attn_weights=False)
    query, key, value = (
        part.reshape(BATCH, KEYS, HEADS, -1).transpose(1, 2)
        for part in (sequence @ layer.in_proj_weight.T + layer.in_proj_bias).split(SIZE, dim=-1)
    )
    heads, expected = regard.attend(
        query,
        key,
        value,
        score=layer.score(),
        normalizer=layer.normalizer(),
        mask=regard.masks.causal(),
        return_weights=True,
    )
    torch.testing.assert_close(weights, expected)
    torch.testing.assert_close(output, layer.out_proj(heads.transpose(1, 2).reshape(BATCH, KEYS, SIZE)))
    alone, _ = layer(sequence, sequence, sequence, is_causal=True, need_weights=False)
    torch.testing.assert_close(alone, output)


def test_dropout_acts_in_training_on_the_weights_but_not_on_those_returned() -> None:
    torch.manual_seed(0)
    theirs, ours = pair(dropout=0.5)
    tensors = inputs(theirs)
    expected, weights = theirs.eval()(*tensors)
    output, found = ours(*tensors)
    assert not torch.allclose(output, expected)
    torch.testing.assert_close(found, weights)
    mean = torch.stack([ours(*tensors)[0] for _ in range(2000)]).mean(0)
    torch.testing.assert_close(mean, expected, rtol=0, atol=0.15)
    torch.testing.assert_close(ours.eval()(*tensors)[0], expected)


def encoder_layer(**options: Any) -> nn.TransformerEncoderLayer:
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(
        SIZE, HEADS, 16, dropout=0.0, batch_first=True, dtype=torch.float64, **options
    )


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("normalizer", ["softmax", "sparsemax"])
def test_an_encoder_layer_calls_the_layer_in_evaluation_too(normalizer: str, norm_first: bool) -> None:
    encoder = encoder_layer(norm_first=norm_first)
    sequence, padding = draw(BATCH, KEYS, SIZE), hide(BATCH, KEYS)
    original = encoder(sequence, src_key_padding_mask=padding)
    ours = MultiheadAttention(SIZE, HEADS, batch_first=True, dtype=torch.float64, normalizer=normalizer)
    ours.load_state_dict(encoder.self_attn.state_dict())
    encoder.self_attn = ours
    expected = encoder(sequence, src_key_padding_mask=padding)
    assert torch.allclose(expected, original) == (normalizer == "softmax")
    with torch.no_grad():
        found = encoder.eval()(sequence, src_key_padding_mask=padding)
    torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
def test_an_encoder_may_pass_the_batch_on_as_a_nested_tensor() -> None:
    layer = encoder_layer()
    ours = MultiheadAttention(SIZE, HEADS, batch_first=True, dtype=torch.float64, normalizer="sparsemax")
    ours.load_state_dict(layer.self_attn.state_dict())
    layer.self_attn = ours
    plain = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    nested = nn.TransformerEncoder(layer, 2, enable_nested_tensor=True).eval()
    sequence = draw(BATCH, KEYS, SIZE)
    padding = torch.tensor([[False, False, True, True], [False, False, False, True]])
    with torch.no_grad():
        expected = plain(sequence, src_key_padding_mask=padding)
        found = nested(sequence, src_key_padding_mask=padding)
    assert found.shape == (BATCH, KEYS, SIZE)
    torch.testing.assert_close(found[~padding], expected[~padding])
    ragged = torch.nested.as_nested_tensor([draw(2, SIZE), draw(3, SIZE)])
    with pytest.raises(ValueError, match="key_padding_mask and attn_mask must be None"):
        ours(ragged, ragged, ragged, padding)
    with pytest.raises(ValueError, match="a nested query must be key and value too"):
        ours(ragged, sequence, sequence)


def test_an_output_can_be_viewed_like_pytorchs() -> None:
    for batch_first in (False, True):
        _, ours = pair(batch_first=batch_first)
        for need_weights in (False, True):
            output, _ = ours(*inputs(ours), need_weights=need_weights)
            assert output.is_contiguous()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"embed_dim": 10, "num_heads": 3}, "embed_dim is 10, num_heads is 3"),
        ({"embed_dim": 0, "num_heads": 1}, "must be a positive multiple of num_heads"),
        ({"embed_dim": 8, "num_heads": 2, "score": "cosinus"}, "did you mean 'cosine'"),
        ({"embed_dim": 8, "num_heads": 2, "normalizer": "sparsmax"}, "did you mean 'sparsemax'"),
    ],
)
def test_bad_settings_are_named(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        MultiheadAttention(**options)


Q, K = draw(QUERIES, BATCH, SIZE), draw(KEYS, BATCH, SIZE)


@pytest.mark.parametrize(
    ("tensors", "masks", "sentence"),
    [
        ((Q[..., :6], K, K), {}, r"query must have size 8, it has shape \(3, 2, 6\)"),
        ((Q, K, K[..., :6]), {}, r"value must have size 8, it has shape \(4, 2, 6\)"),
        ((Q[:, 0], K, K), {}, "query has 2, key has 3"),
        ((Q[None], K, K), {}, "query has 4"),
        ((Q, K, K[:3]), {}, r"value must have the axes of key \(4, 2, 8\) but for the last"),
        ((Q[:, :1], K, K), {}, "one batch size: query has 1, key has 2"),
        ((Q.float(), K, K), {}, "query must be of the layer's type, torch.float64, it is torch.float32"),
        ((Q, K.tolist(), K), {}, "key must be a tensor, it is list"),
        ((Q, K, K), {"attn_mask": hide(4, 3)}, r"\(3, 4\) or \(4, 3, 4\), it has \(4, 3\)"),
        ((Q, K, K), {"attn_mask": hide(2, 3, 4)}, r"\(3, 4\) or \(4, 3, 4\), it has \(2, 3, 4\)"),
        ((Q, K, K), {"key_padding_mask": hide(4, 2)}, r"must have shape \(2, 4\), it has \(4, 2\)"),
        ((Q[:, 0], K[:, 0], K[:, 0]), {"key_padding_mask": hide(2, 4)}, r"must have shape \(4,\)"),
        ((Q, K, K), {"attn_mask": hide(3, 4).long()}, "attn_mask must be boolean, True where a key is hidden"),
        ((Q, K, K), {"key_padding_mask": [[False]]}, "key_padding_mask must be a tensor, it is list"),
        ((Q, K, K), {"attn_mask": hide(3, 3), "is_causal": True}, r"it has \(3, 3\)"),
    ],
)  # fmt: skip
def test_bad_input_is_named(tensors: tuple[Any, ...], masks: dict[str, Any], sentence: str) -> None:
    layer = MultiheadAttention(SIZE, HEADS, dtype=torch.float64)
    with pytest.raises((TypeError, ValueError), match=sentence):
        layer(*tensors, **masks)


def test_numbers_to_be_added_are_added_beside_is_causal() -> None:
    torch.manual_seed(0)
    theirs = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    ours = MultiheadAttention(8, 2, batch_first=True)
    ours.load_state_dict(theirs.state_dict())
    x, added = torch.randn(2, 5, 8), torch.randn(5, 5) + torch.full((5, 5), -torch.inf).triu(1)
    expected = theirs(x, x, x, attn_mask=added, is_causal=True)
    found = ours(x, x, x, attn_mask=added, is_causal=True)
    torch.testing.assert_close(found, expected)
    silent, _ = ours(x, x, x, attn_mask=added, is_causal=True, need_weights=False)
    torch.testing.assert_close(silent, expected[0])


def test_a_score_may_be_a_function_or_a_module() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 8)
    near = MultiheadAttention(8, 2, batch_first=True, score=lambda q, k: -(q - k).square().sum(-1))
    named = MultiheadAttention(8, 2, batch_first=True, score="distance")
    named.load_state_dict(near.state_dict(), strict=False)
    factor = named.score().compare(torch.zeros(1, 4), torch.ones(1, 4)).item() / -4
    near = MultiheadAttention(8, 2, batch_first=True, score=lambda q, k: -factor * (q - k).square().sum(-1))
    near.load_state_dict(named.state_dict(), strict=False)
    torch.testing.assert_close(near(x, x, x)[0], named(x, x, x)[0])

    class Weighed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(4))

        def forward(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            return (self.weight * query * key).sum(-1)

    layer = MultiheadAttention(8, 2, batch_first=True, score=Weighed())
    layer(x, x, x)[0].square().sum().backward()
    assert layer.score.parameters_0.grad.any()
    with pytest.raises(TypeError, match="score must be a regard score, its name or a function"):
        MultiheadAttention(8, 2, score=3)
    with pytest.raises(TypeError, match="normalizer must be a regard normalizer or its name, it is 3"):
        MultiheadAttention(8, 2, normalizer=3)
    with pytest.raises(ValueError, match=r"dropout must be at least 0 and below 1, it is 1.0"):
        MultiheadAttention(8, 2, 1.0)
