"""Hard attention learns from rewards: in the mean by the true gradient, and in fact."""

from __future__ import annotations

import pytest
import torch

import regard
from regard.layers import MemoryAttention, MovingBaseline, ReinforceLoss


@pytest.mark.parametrize("entropy", [0.0, 0.3])
def test_the_mean_gradient_over_the_draws_is_the_true_one(entropy: float) -> None:
    """Three keys can all be drawn: the mean is taken over them by their probabilities."""
    torch.manual_seed(0)
    query = torch.randn(1, 1, 2, dtype=torch.float64, requires_grad=True)
    key = torch.randn(1, 3, 2, dtype=torch.float64)
    rewards = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    soft = regard.weights(query, key)
    objective = -(soft * rewards).sum() - entropy * torch.special.entr(soft).sum()
    (expected,) = torch.autograd.grad(objective, query)
    for value in (0.0, 0.7):  # whatever the baseline
        found = {}
        while len(found) < 3:
            _, weights = regard.attend(query, key, key, normalizer="sample", return_weights=True)
            drawn = int(weights.argmax())
            loss = ReinforceLoss(entropy=entropy)
            loss.baseline.value.fill_(value)
            surrogate = loss(weights, rewards[None, drawn], regard.weights(query, key) if entropy else None)
            (found[drawn],) = torch.autograd.grad(surrogate, query)
        mean = sum(soft[0, 0, drawn].detach() * gradient for drawn, gradient in found.items())
        torch.testing.assert_close(mean, expected)


def test_it_learns_to_look_where_the_reward_is() -> None:
    """The key that answers a query must be found; nothing but the reward of the draw says which it is."""
    torch.manual_seed(0)
    look = MemoryAttention("scaled_dot/sample", 4, 4)
    loss, optimizer = ReinforceLoss(), torch.optim.Adam(look.parameters(), lr=0.05)
    memory = look.prepare
    lengths = torch.full((64,), 4)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        order = torch.rand(64, 4).argsort(-1)
        wanted = torch.randint(4, (64,))
        return torch.eye(4)[wanted][:, None], torch.eye(4)[order]

    rewards = []
    for _ in range(120):
        query, keys = batch()
        context, weights = look(query, memory(keys, lengths), return_weights=True)
        reward = (context.detach() * query).sum((1, 2))  # one if the key is the query's own, else zero
        optimizer.zero_grad()
        loss(weights, reward).backward()
        optimizer.step()
        rewards.append(reward.mean().item())
    assert sum(rewards[:5]) / 5 < 0.4
    assert sum(rewards[-5:]) / 5 > 0.9
    assert loss.baseline.value.item() > 0.8
    look.eval()
    query, keys = batch()
    assert torch.equal(look(query, memory(keys, lengths))[0], query)


def test_rewards_may_be_of_each_look_or_of_all() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    _, weights = regard.attend(x, x, x, normalizer="sample", return_weights=True)
    reward = torch.tensor([1.0, -1.0], dtype=torch.float64)
    gradients = [
        torch.autograd.grad(ReinforceLoss()(weights, one, None), x, retain_graph=True)[0]
        for one in (reward, reward[:, None].expand(2, 3), reward[:, None, None].expand(2, 3, 4))
    ]
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0])
    one = torch.zeros(2, 3, 4, dtype=torch.float64)
    one[1, 2, 3] = 1.0
    (alone,) = torch.autograd.grad(ReinforceLoss()(weights, one), x)
    assert not alone[0].any()
    assert not alone[1, :2].any()
    assert alone[1, 2].any()


def test_entropy_has_a_gradient_where_keys_are_hidden() -> None:
    x = torch.randn(1, 3, 4, requires_grad=True)
    mask = regard.masks.causal() & ~regard.masks.window(0)  # the first query sees nothing
    _, weights = regard.attend(x, x, x, normalizer="sample", mask=mask, return_weights=True)
    soft = regard.weights(x, x, mask=mask)
    ReinforceLoss(entropy=0.1)(weights, torch.ones(1), soft).backward()
    assert torch.isfinite(x.grad).all()


def test_the_baseline_is_the_mean_of_what_was_before() -> None:
    baseline = MovingBaseline(0.9)
    value = 0.0
    for step in range(5):
        reward = torch.tensor([float(step), step + 2.0])
        assert baseline(reward).item() == pytest.approx(value)
        value = 0.9 * value + 0.1 * (step + 1.0)
    baseline.eval()
    assert baseline(torch.tensor([100.0])).item() == pytest.approx(value)
    assert baseline(torch.tensor([100.0])).item() == pytest.approx(value)
    restored = MovingBaseline(0.9)
    restored.load_state_dict(baseline.state_dict())
    assert restored(torch.zeros(1)).item() == pytest.approx(value)


def test_bad_arguments_are_named() -> None:
    weights = torch.zeros(2, 1, 3, 4)
    with pytest.raises(
        ValueError, match=r"reward must have the first axes of weights .* it has shape \(3,\)"
    ):
        ReinforceLoss()(weights, torch.zeros(3))
    with pytest.raises(
        ValueError, match=r"must be given if entropy is above 0, and only then: entropy is 0.1"
    ):
        ReinforceLoss(entropy=0.1)(weights, torch.zeros(2))
    with pytest.raises(
        ValueError, match=r"soft must have the shape of weights \(2, 1, 3, 4\), it has \(3, 4\)"
    ):
        ReinforceLoss(entropy=0.1)(weights, torch.zeros(2), torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"decay must be at least 0 and below 1, it is 1.0"):
        MovingBaseline(1.0)


def test_one_head_needs_no_axis_in_the_reward() -> None:
    weights = torch.rand(2, 1, 3, 4, requires_grad=True)
    reward = torch.randn(2, 3)
    losses = [ReinforceLoss()(weights, given) for given in (reward, reward[:, None])]
    assert torch.equal(*losses)


def test_the_baseline_does_not_stop_in_half_precision() -> None:
    baseline = MovingBaseline(0.999).bfloat16()
    for _ in range(3000):
        baseline(torch.ones(1, dtype=torch.bfloat16))
    assert baseline.value.item() == pytest.approx(1 - 0.999**3000, rel=1e-3)
