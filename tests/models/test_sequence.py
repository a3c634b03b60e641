"""What every sequence-to-sequence model promises."""

from __future__ import annotations

import io
import json

import pytest
import torch
from torch.nn import functional

from regard.errors import UserError
from regard.models import RecurrentSettings, TransformerSettings, build, describe

NAMES = [
    "bahdanau",
    "bahdanau-lstm",
    "bahdanau-none",
    "bahdanau-heads",
    "luong",
    "luong-lstm-none",
    "luong-plain",
    "luong-plain-lstm",
    "transformer",
    "transformer-post",
    "transformer-additive",
    "transformer-places",
    "transformer-window",
    "pointer-generator",
    "pointer-generator-lstm",
    "pointer-generator-sigmoid",
]
# What is copied is not smoothed: tests/models/test_pointer_generator.py
SMOOTHED = [name for name in NAMES if not name.startswith("pointer")]
EXACT = {"rtol": 1e-10, "atol": 1e-12}


@pytest.mark.parametrize("name", NAMES)
def test_step_by_step_equals_all_at_once(tiny, batch, name):
    source, lengths, target, _ = batch
    model = tiny(name)
    expected = model.project(model(source, lengths, target[:, :-1]))
    looked = model.alignment(source, lengths, target[:, :-1])
    state = model.encode(source, lengths)
    for place in range(target.shape[1] - 1):
        scores, state, weights = model.step(target[:, place], state)
        torch.testing.assert_close(scores, expected[:, place], **EXACT)
        if looked is None:
            assert weights is None
        else:
            torch.testing.assert_close(weights, looked[:, -1, :, place].mean(1), **EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_padding_never_changes_a_result(tiny, batch, name):
    source, lengths, target, target_lengths = batch
    model = tiny(name)
    together = model(source, lengths, target[:, :-1])
    looked = model.alignment(source, lengths, target[:, :-1])
    for row, (source_length, target_length) in enumerate(zip(lengths, target_lengths, strict=True)):
        alone = (
            source[row : row + 1, :source_length],
            lengths[row : row + 1],
            target[row : row + 1, :target_length],
        )
        torch.testing.assert_close(model(*alone)[0], together[row, :target_length], **EXACT)
        if looked is not None:
            weights = looked[row, :, :, :target_length]
            torch.testing.assert_close(model.alignment(*alone)[0], weights[..., :source_length], **EXACT)
            assert not weights[..., source_length:].any()


@pytest.mark.parametrize("name", NAMES)
def test_padding_gets_no_gradient_and_everything_else_does(tiny, batch, name):
    source, lengths, target, target_lengths = batch
    model = tiny(name).train()
    loss, _, tokens = model.loss(source, lengths, target, target_lengths, 0.1)
    loss.backward()
    assert tokens == target_lengths.sum()
    still = [key for key, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    # Adding one vector to all keys changes no softmax: the bias of keys has no gradient by nature.
    assert not [key for key in still if "bias" not in key]
    if model.embeddings.output is not None:
        assert not model.embeddings.source.grad[0].any()


@pytest.mark.parametrize("name", NAMES)
def test_the_future_is_not_seen(tiny, batch, name):
    source, lengths, target, _ = batch
    model = tiny(name)
    before = model(source, lengths, target[:, :-1])
    changed = target[:, :-1].clone()
    changed[:, 3:] = 5
    after = model(source, lengths, changed)
    torch.testing.assert_close(after[:, :3], before[:, :3], **EXACT)
    assert not torch.allclose(after[:, 3:], before[:, 3:])


@pytest.mark.parametrize("name", NAMES)
def test_selected_rows_continue_as_if_alone(tiny, batch, name):
    source, lengths, target, _ = batch
    model = tiny(name)
    _, state, _ = model.step(target[:, 0], model.encode(source, lengths))
    expected, _, _ = model.step(target[:, 1], state)
    # One row per sentence, in another order.
    order = torch.tensor([2, 0])
    found, _, _ = model.step(target[order, 1], state.select(order))
    torch.testing.assert_close(found, expected[order], **EXACT)
    # Three rows of each sentence, one sentence dropped; then again, from rows that share a source.
    wide = state.select(torch.tensor([[3, 3, 3], [1, 1, 1]]))
    tokens = torch.tensor([4, 5, 6, 7, 8, 9])
    _, wide, _ = model.step(tokens, wide)
    narrow = wide.select(torch.tensor([[5, 3]]))
    found, _, _ = model.step(torch.tensor([7, 8]), narrow)
    _, single, _ = model.step(torch.tensor([9, 7]), state.select(torch.tensor([1, 1])))
    expected, _, _ = model.step(torch.tensor([7, 8]), single)
    torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("name", SMOOTHED)
def test_loss_is_the_cross_entropy_of_the_tokens(tiny, batch, name):
    source, lengths, target, target_lengths = batch
    model = tiny(name)
    loss, surprise, tokens = model.loss(source, lengths, target, target_lengths, 0.2)
    scores = model.project(model(source, lengths, target[:, :-1])).flatten(0, 1)
    wanted = target[:, 1:].masked_fill(torch.arange(5) >= target_lengths[:, None], -100).flatten()
    torch.testing.assert_close(
        loss, functional.cross_entropy(scores, wanted, reduction="sum", label_smoothing=0.2)
    )
    torch.testing.assert_close(surprise, functional.cross_entropy(scores, wanted, reduction="sum"))
    assert tokens == 12


@pytest.mark.parametrize("name", ["bahdanau", "luong", "transformer"])
def test_a_checkpoint_is_a_plain_state_dict_without_tables_twice(tiny, batch, name):
    source, lengths, target, _ = batch
    model = tiny(name, tie_embeddings="all", target_vocabulary=12, source_vocabulary=12)
    storages = [value.data_ptr() for value in model.state_dict().values()]
    assert len(storages) == len(set(storages))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    again = build(json.loads(json.dumps(describe(model.settings)))).double().eval()
    again.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(
        again(source, lengths, target), model(source, lengths, target), rtol=0.0, atol=0.0
    )


@pytest.mark.parametrize("tying", ["none", "output", "all"])
def test_tied_tables_are_one(tying):
    model = build(TransformerSettings(9, 9, size=8, heads=2, tie_embeddings=tying))
    assert (model.output_weight is model.embeddings.target) == (tying != "none")
    tables = [value for value in model.embeddings.parameters() if value.shape == (9, 8)]
    assert len(tables) == {"none": 3, "output": 2, "all": 1}[tying]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": "perceptron"}, "model must be one of rnn, transformer, .*, got 'perceptron'"),
        ({"model": "rnn", "source_vocabulary": 9}, "needs the setting 'target_vocabulary'"),
        ({"model": "rnn", "source_vocabulary": 9, "target_vocabulary": 9, "size": 3}, "no setting 'size'"),
        ({"model": "rnn", "source_vocabulary": 9, "target_vocabulary": 9, "cell": "rnn"}, "cell must be"),
        ({"model": "rnn", "source_vocabulary": 9, "target_vocabulary": 9, "wiring": "x"}, "wiring must be"),
        ({"model": "rnn", "source_vocabulary": 9, "target_vocabulary": 9, "dropout": 1.0}, "dropout"),
        ({"model": "rnn", "source_vocabulary": 9, "target_vocabulary": 8, "tie_embeddings": "all"}, "all"),
        ({"model": "transformer", "source_vocabulary": 9, "target_vocabulary": 9, "heads": 3}, "multiple"),
        ({"model": "transformer", "source_vocabulary": 9, "target_vocabulary": 9, "heads": 0}, "heads"),
        (
            {"model": "transformer", "source_vocabulary": 9, "target_vocabulary": 9, "attention": "none"},
            "choose the model 'rnn'",
        ),
        (
            {"model": "rnn", "source_vocabulary": 9, "target_vocabulary": 9, "attention": "additiv/softmax"},
            "attention: .*did you mean 'additive'",
        ),
        (
            {
                "model": "rnn",
                "source_vocabulary": 9,
                "target_vocabulary": 9,
                "attention": "dot/softmax/causal",
            },
            "without mask, bias and rotary positions",
        ),
        (
            {
                "model": "rnn",
                "source_vocabulary": 9,
                "target_vocabulary": 9,
                "attention": "dot/softmax/alibi",
            },
            "without mask, bias and rotary positions",
        ),
        (
            {
                "model": "rnn",
                "source_vocabulary": 9,
                "target_vocabulary": 9,
                "attention": "dot+rotary+softcap-30/softmax",
            },
            "softcap-30/softmax.; got",
        ),
        (
            {"model": "rnn", "source_vocabulary": 9, "target_vocabulary": 9, "attention": "dot/monotonic"},
            "must weigh each query by itself",
        ),
    ],
)
def test_bad_settings_are_named(settings, said):
    with pytest.raises(UserError, match=said):
        build(settings)


def test_the_source_is_looked_at_without_what_hangs_on_places():
    settings = TransformerSettings(9, 9, attention="dot+rotary+softcap-30/sparsemax/window-2/alibi")
    assert settings.over_source.spelling == "dot+softcap-30/sparsemax"


def test_settings_survive_json():
    settings = RecurrentSettings(7, 8, wiring="luong", attention="dot/top-4")
    assert build(json.loads(json.dumps(describe(settings)))).settings == settings


def test_learned_positions_say_when_they_end():
    model = build(TransformerSettings(9, 9, size=8, heads=2, positions="learned", longest=4))
    with pytest.raises(UserError, match="5 tokens is longer than the 4 places"):
        model.encode(torch.full((1, 5), 4), torch.tensor([5]))


def test_sinusoidal_positions_have_no_end():
    model = build(TransformerSettings(9, 9, size=8, heads=2, longest=4))
    early = model.positions(0, 4).clone()
    late = model.positions(0, 40)
    torch.testing.assert_close(late[:4], early)
    place, rate = 37, 10000 ** (-2 / 8)
    torch.testing.assert_close(late[place, 3], torch.cos(torch.tensor(place * rate)))


@pytest.mark.parametrize(
    "name", ["bahdanau", "bahdanau-none", "luong", "luong-plain", "transformer", "pointer-generator"]
)
def test_learns_to_copy(tiny, name):
    more = {"dropout": 0.0, "source_vocabulary": 11, "target_vocabulary": 11}
    model = tiny(name, **more).float().train()
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(3, 11, (8, 3), generator=generator)
    lengths = torch.full((8,), 3)
    ends = torch.full((8, 1), 2)
    target = torch.cat([torch.ones_like(ends), source, ends], 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(120):
        optimizer.zero_grad()
        loss, _, tokens = model.loss(source, lengths, target, lengths + 1)
        loss.backward()
        optimizer.step()
    assert loss.item() / tokens < 0.1


def test_only_matrices_that_hold_several_projections_begin_as_several():
    torch.manual_seed(0)
    model = build(TransformerSettings(9, 9, size=32, ffn_size=64, heads=2))
    layer = model.decoder[0]
    for weight, blocks in (
        (layer.feed_forward.widen.weight, 1),
        (layer.attention.query_key_value.weight, 3),
        (layer.cross_attention.key_value.weight, 2),
    ):
        bound = (6 / (32 + weight.shape[0] / blocks)) ** 0.5
        assert 0.98 * bound < weight.abs().max() <= bound
