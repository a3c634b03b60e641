"""What a cache remembers is what a whole pass would have seen, however it is continued."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import regard
from regard.layers import Cache, SelfAttention

MECHANISMS = [
    "scaled_dot/softmax",
    "additive/sparsemax",
    "cosine/top-3",
    "general/entmax15",
    "dot/softmax/window-2",
    "scaled_dot/softmax/dilated-2-2",
    "scaled_dot/softmax/alibi",
    "scaled_dot/softmax/t5",
    "scaled_dot/softmax/relative-3",
    "scaled_dot+qknorm+softcap-5/entmax-1.3",
    "concat/relu",
    "location-9/softmax",
    "dot/sigmoid",
    "dot/sink",
    "dot/top_p-0.7",
    "dot/sample",
    "dot/monotonic",
    "dot/monotonic_hard",
    "scaled_dot+rotary/softmax",
    "cosine+rotary/sparsemax/window-3",
]


def made(mechanism: str) -> SelfAttention:
    torch.manual_seed(0)
    return SelfAttention(12, 3, mechanism).double().eval()


@pytest.mark.parametrize("differentiated", [True, False])
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_step_by_step_with_a_cache_equals_the_full_pass(mechanism: str, differentiated: bool) -> None:
    layer = made(mechanism)
    sequence = torch.randn(2, 9, 12, dtype=torch.float64)
    with torch.set_grad_enabled(differentiated):
        whole, weights, _ = layer(sequence, regard.masks.causal(), return_weights=True)
        cache: Cache | None = None
        for start, stop in ((0, 1), (1, 2), (2, 4), (4, 5), (5, 8), (8, 9)):
            step, seen, cache = layer(
                sequence[:, start:stop], regard.masks.causal(), cache, return_weights=True
            )
            torch.testing.assert_close(step, whole[:, start:stop])
            torch.testing.assert_close(seen, weights[:, :, start:stop, :stop])
    assert cache is not None
    assert cache.key.shape == (2, 3, 9, 4)


def test_a_monotonic_reader_goes_on_in_training_too() -> None:
    layer = made("dot/monotonic").train()
    sequence = torch.randn(2, 6, 12, dtype=torch.float64)
    whole, _, _ = layer(sequence, regard.masks.causal())
    first, _, cache = layer(sequence[:, :3], regard.masks.causal())
    rest, _, cache = layer(sequence[:, 3:], regard.masks.causal(), cache)
    torch.testing.assert_close(torch.cat([first, rest], 1), whole)
    alone, _, _ = layer(
        sequence[:, 3:], regard.masks.causal(), Cache(cache.key[:, :, :3], cache.value[:, :, :3])
    )
    assert not torch.allclose(alone, rest)  # what was read before matters
    swapped = cache.select(torch.tensor([1, 0]))
    torch.testing.assert_close(swapped.stopped, cache.stopped.flip(0))


@torch.no_grad()
def test_one_cache_can_be_continued_in_two_ways() -> None:
    layer = made("scaled_dot/softmax")
    start, one, two, end = torch.randn(4, 2, 3, 12, dtype=torch.float64)
    causal = regard.masks.causal()
    cache = layer(start, causal)[2]
    cache = layer(start, causal, cache)[2]  # now there is room
    after_one = layer(one, causal, cache)[2]
    after_two = layer(two, causal, cache)[2]
    again = layer(end, causal, after_one)[0]
    expected = layer(torch.cat([start, start, one, end], 1), causal)[0][:, -3:]
    torch.testing.assert_close(again, expected)
    expected = layer(torch.cat([start, start, two, end], 1), causal)[0][:, -3:]
    torch.testing.assert_close(layer(end, causal, after_two)[0], expected)


@torch.no_grad()
def test_chosen_rows_continue_their_own_past() -> None:
    layer = made("scaled_dot/softmax/alibi")
    past, new = torch.randn(3, 4, 12, dtype=torch.float64), torch.randn(4, 1, 12, dtype=torch.float64)
    causal = regard.masks.causal()
    cache = layer(past[:, 3:], causal, layer(past[:, :3], causal)[2])[2]
    rows = torch.tensor([2, 0, 0, 1])
    found = layer(new, causal, cache.select(rows))[0]
    torch.testing.assert_close(found, layer(torch.cat([past[rows], new], 1), causal)[0][:, -1:])


def test_a_cache_from_inference_can_be_continued_outside_it() -> None:
    layer = made("scaled_dot/softmax")
    sequence = torch.randn(1, 4, 12, dtype=torch.float64)
    causal = regard.masks.causal()
    with torch.inference_mode():
        cache = layer(sequence[:, :1], causal)[2]
        cache = layer(sequence[:, 1:3], causal, cache)[2]
    with torch.no_grad():
        found = layer(sequence[:, 3:], causal, cache)[0]
    torch.testing.assert_close(found, layer(sequence, causal)[0][:, 3:])


@torch.no_grad()
def test_many_steps_copy_each_place_a_few_times_only() -> None:
    """Doubling: the places written in all, new and moved, stay below four a step; by concatenation they would be half
    the steps."""

    class Written(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.numbers = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func in (torch.ops.aten.copy_.default, torch.ops.aten.cat.default):
                target = args[0] if isinstance(args[0], torch.Tensor) else torch.cat(list(args[0]), args[1])
                self.numbers += target.numel()
            return func(*args, **(kwargs or {}))

    key, steps = torch.randn(1, 1, 1, 1), 500
    cache = Cache(key, key)
    with Written() as written:
        for _ in range(steps):
            cache = cache.append(key, key)
    assert cache.key.shape[2] == steps + 1
    assert written.numbers < 4 * 2 * steps


def test_a_cache_of_another_batch_is_named() -> None:
    layer = made("scaled_dot/softmax")
    cache = layer(torch.randn(2, 3, 12, dtype=torch.float64))[2]
    with pytest.raises(ValueError, match="the cache must have the batch of the sequence, 3, it has 2"):
        layer(torch.randn(3, 1, 12, dtype=torch.float64), None, cache)


def test_without_gradients_disabled_nothing_that_is_held_changes() -> None:
    """Queries that are differentiated hold the keys; a step of a later branch must not write to their tensor."""
    cache = Cache(torch.ones(1, 1, 1, 2), torch.ones(1, 1, 1, 2))
    query = torch.ones(2, requires_grad=True)
    first = cache.append(*(torch.ones(1, 1, 1, 2),) * 2)
    output = (query * first.key).sum()
    first.append(*(torch.ones(1, 1, 1, 2),) * 2)
    output.backward()
    assert query.grad.tolist() == [2.0, 2.0]
