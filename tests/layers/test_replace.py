"""A model whose attention is replaced is the same model: parameters, optimiser, numbers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import regard
from regard.layers.multihead import MultiheadAttention
from regard.layers.replace import replace_attention

BATCH, LENGTH, SIZE, HEADS = 2, 4, 8, 2


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def encoder(**options: Any) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    options = {"dropout": 0.0, "batch_first": True, "dtype": torch.float64, **options}
    layer = nn.TransformerEncoderLayer(SIZE, HEADS, 16, **options)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def test_the_very_same_parameters_stay_so_that_an_optimizer_goes_on() -> None:
    model = encoder()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before, state = dict(model.named_parameters()), torch.random.get_rng_state()
    assert replace_attention(model, score="cosine") == 2
    assert torch.equal(torch.random.get_rng_state(), state)
    after = dict(model.named_parameters())
    learned = {f"layers.{i}.self_attn.score.scale" for i in range(2)}
    assert set(after) == set(before) | learned
    assert all(after[name] is before[name] for name in before)
    values = {name: parameter.detach().clone() for name, parameter in after.items()}
    model(draw(BATCH, LENGTH, SIZE)).square().sum().backward()
    optimizer.step()
    moved = [name for name, value in values.items() if not torch.equal(after[name], value)]
    assert {"layers.0.self_attn.in_proj_weight", "layers.1.self_attn.out_proj.bias"} <= set(moved)


@pytest.mark.parametrize("masks", ["none", "causal", "padding", "both"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_an_encoder_computes_the_same_in_training_and_evaluation(batch_first: bool, masks: str) -> None:
    theirs = encoder(batch_first=batch_first)
    ours = copy.deepcopy(theirs)
    assert replace_attention(ours) == 2
    sequence = draw(BATCH, LENGTH, SIZE) if batch_first else draw(LENGTH, BATCH, SIZE)
    arguments: dict[str, Any] = {}
    if masks in ("causal", "both"):
        arguments["mask"] = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    if masks in ("padding", "both"):
        arguments["src_key_padding_mask"] = torch.tensor([[False] * 4, [False, False, True, True]])
    found, expected = ours(sequence, **arguments), theirs(sequence, **arguments)
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        torch.autograd.grad(found.square().sum(), list(ours.parameters())),
        torch.autograd.grad(expected.square().sum(), list(theirs.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(sequence, **arguments), theirs.eval()(sequence, **arguments))


@pytest.mark.parametrize("norm_first", [False, True])
def test_a_decoder_computes_the_same_in_training_and_evaluation(norm_first: bool) -> None:
    torch.manual_seed(0)
    options = {"dropout": 0.0, "norm_first": norm_first, "dtype": torch.float64}
    theirs = nn.TransformerDecoder(nn.TransformerDecoderLayer(SIZE, HEADS, 16, **options), 2)
    ours = copy.deepcopy(theirs)
    assert replace_attention(ours) == 4
    target, memory = draw(3, BATCH, SIZE), draw(LENGTH, BATCH, SIZE, seed=1)
    arguments = {
        "tgt_mask": nn.Transformer.generate_square_subsequent_mask(3, dtype=torch.float64),
        "tgt_is_causal": True,
        "memory_key_padding_mask": torch.tensor([[False] * 4, [False, False, True, True]]),
    }
    for training in (True, False):
        theirs.train(training)
        ours.train(training)
        torch.testing.assert_close(ours(target, memory, **arguments), theirs(target, memory, **arguments))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
@pytest.mark.parametrize("normalizer", ["softmax", "sparsemax"])
def test_an_encoder_made_to_pass_nested_tensors_on_still_can(normalizer: str) -> None:
    plain = encoder()
    nested = nn.TransformerEncoder(plain.layers[0], 2)
    nested.load_state_dict(plain.state_dict())
    for model in (plain, nested):
        assert replace_attention(model.eval(), normalizer=normalizer) == 2
    sequence, padding = draw(BATCH, LENGTH, SIZE), torch.tensor([[False] * 4, [False, False, True, True]])
    with torch.no_grad():
        expected = plain(sequence, src_key_padding_mask=padding)
        found = nested(sequence, src_key_padding_mask=padding)
    torch.testing.assert_close(found[~padding], expected[~padding])


@pytest.mark.parametrize(
    "options",
    [
        {"bias": False},
        {"add_bias_kv": True, "add_zero_attn": True},
        {"kdim": 5, "vdim": 3, "dropout": 0.1, "batch_first": True},
    ],
)
def test_every_option_of_a_layer_is_kept(options: dict[str, Any]) -> None:
    model = nn.ModuleDict({"look": nn.MultiheadAttention(SIZE, HEADS, dtype=torch.float64, **options)})
    old = model["look"].eval()
    old.in_proj_bias is None or old.in_proj_bias.requires_grad_(False)
    tensors = [draw(LENGTH, BATCH, size) for size in (SIZE, old.kdim, old.vdim)]
    expected = old(*tensors)
    assert replace_attention(model) == 1
    new = model["look"]
    assert type(new) is MultiheadAttention
    assert not any(part.training for part in new.modules())
    assert new.dropout == old.dropout
    assert {n: p.requires_grad for n, p in new.named_parameters()} == {
        n: p.requires_grad for n, p in old.named_parameters()
    }
    for one, other in zip(new(*tensors), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_score_and_normalizer_reach_every_layer() -> None:
    model, score = nn.Transformer(SIZE, HEADS, 1, 1, 16, batch_first=True), regard.scores.Cosine(scale=4.0)
    assert replace_attention(model, score=score, normalizer="top-2") == 3
    layers = [part for part in model.modules() if isinstance(part, MultiheadAttention)]
    assert [layer.score() for layer in layers] == [score] * 3
    assert {layer.normalizer().spelling for layer in layers} == {"top-2"}
    assert replace_attention(model) == 0


def test_a_layer_in_two_places_stays_one_layer() -> None:
    shared = nn.MultiheadAttention(SIZE, HEADS)
    model = nn.ModuleList([nn.ModuleDict({"a": shared, "b": shared}), nn.ModuleDict({"a": shared})])
    assert replace_attention(model) == 1
    assert model[0]["a"] is model[0]["b"] is model[1]["a"]
    assert isinstance(model[0]["a"], MultiheadAttention)


def test_tied_parameters_stay_tied() -> None:
    model = nn.ModuleList([nn.MultiheadAttention(SIZE, HEADS, add_bias_kv=True) for _ in range(2)])
    model[1].in_proj_weight = model[0].in_proj_weight
    model[1].bias_v = model[1].bias_k
    assert replace_attention(model) == 2
    assert model[1].in_proj_weight is model[0].in_proj_weight
    assert model[1].bias_v is model[1].bias_k


def test_a_subclass_is_left_alone() -> None:
    class Special(nn.MultiheadAttention):
        pass

    model = nn.ModuleList([Special(SIZE, HEADS), nn.MultiheadAttention(SIZE, HEADS)])
    assert replace_attention(model) == 1
    assert [type(layer) for layer in model] == [Special, MultiheadAttention]


def add_parameter(layer: nn.MultiheadAttention) -> None:
    layer.scale = nn.Parameter(torch.ones(()))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda layer: layer.register_forward_hook(print), "'1' must have no hooks, it has .*_forward_hooks"),
        (lambda layer: layer.out_proj.register_forward_pre_hook(print), "_forward_pre_hooks"),
        (lambda layer: layer.register_full_backward_hook(print), "_backward_hooks"),
        (lambda layer: parametrizations.weight_norm(layer, "in_proj_weight"), "'1' must have no param"),
        (lambda layer: parametrizations.orthogonal(layer.out_proj), "'1' must have no param"),
        (lambda layer: prune.l1_unstructured(layer, "in_proj_weight", 0.5), "must have no hooks"),
        (add_parameter, "'1' must hold the parameters .* differs by scale"),
    ],
)  # fmt: skip
def test_what_a_new_layer_would_lose_is_refused_and_nothing_replaced(change: Any, sentence: str) -> None:
    model = nn.ModuleList([nn.MultiheadAttention(SIZE, HEADS) for _ in range(2)])
    change(model[1])
    before = list(model)
    with pytest.raises(ValueError, match=sentence):
        replace_attention(model)
    assert all(one is other for one, other in zip(model, before, strict=True))


def test_what_cannot_be_replaced_in_place_is_said() -> None:
    with pytest.raises(ValueError, match=r"it is a torch.nn.MultiheadAttention itself"):
        replace_attention(nn.MultiheadAttention(SIZE, HEADS))
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, it is list"):
        replace_attention([])  # type: ignore[arg-type]
    model = nn.ModuleList([nn.MultiheadAttention(SIZE, HEADS)])
    with pytest.raises(ValueError, match="did you mean 'cosine'"):
        replace_attention(model, score="cosin")
    assert type(model[0]) is nn.MultiheadAttention
