"""What the operator promises beside numbers: choice of backend, dropout, chosen weights, bad input, memory."""

from __future__ import annotations

import gc
import subprocess
import sys
from typing import Any

import pytest
import torch

import regard
from regard.attention.backends import BACKENDS, blockwise
from regard.attention.kernels import missing

Q = torch.randn(2, 4, 10, 8, generator=torch.Generator().manual_seed(0))


def test_fused_kernel_is_chosen_whenever_it_can(capsys: pytest.CaptureFixture[str]) -> None:
    assert regard.explain(Q, Q, Q).backend == "sdpa"
    assert regard.explain(Q, Q, Q, score="cosine", mask=regard.masks.causal()).backend == "sdpa"
    refused = regard.explain(Q, Q, Q, score="additive", normalizer="sparsemax")
    assert refused.backend == ("blockwise" if missing("cpu") else "sparse")
    assert len(refused.refused["sdpa"]) == 2
    plain = regard.explain(Q, Q, Q, score="additive", normalizer="softmax")
    assert plain.backend == ("blockwise" if missing("cpu") else "dense")
    assert regard.explain(Q, Q, Q, score="dot+softcap-2", normalizer="sparsemax").backend == "blockwise"
    printed = capsys.readouterr().out
    assert "not a product" in printed
    assert "'sparsemax' is not softmax" in printed


def test_masks_too_large_to_write_out_are_left_to_blocks() -> None:
    long = torch.empty(1, 1, 4096, 8)
    for mask, refused in (("window-8", "would be written out"), ("causal", "'dense' takes less time")):
        found = regard.explain(long, long, long, mask=mask)
        assert found.backend == (
            "dense" if not missing("cpu") else "blockwise" if mask == "window-8" else "sdpa"
        )
        assert missing("cpu") or refused in found.refused["sdpa"][0]


def test_causal_is_aligned_at_the_end_on_every_backend() -> None:
    for backend in ("sdpa", "blockwise"):
        whole = regard.attend(Q, Q, Q, mask=regard.masks.causal(), backend=backend)
        last = regard.attend(Q[..., 7:, :], Q, Q, mask=regard.masks.causal(), backend=backend)
        torch.testing.assert_close(last, whole[..., 7:, :])


def test_dropout_is_unbiased_repeatable_and_differentiable() -> None:
    query = torch.randn(1, 1, 400, 8)
    value = torch.ones(1, 1, 400, 1)
    for block in (2000, 10**9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(blockwise, "BLOCK_BYTES", block)
            torch.manual_seed(3)
            once = regard.attend(query, query, value, dropout=0.25)
            torch.manual_seed(3)
            again = regard.attend(query, query, value, dropout=0.25)
            assert torch.equal(once, again)
            assert not torch.equal(once, regard.attend(query, query, value, dropout=0.25))
            assert once.mean().item() == pytest.approx(1, abs=0.02)
            assert once.std().item() > 0.01

            def run(q: torch.Tensor) -> Any:
                torch.manual_seed(0)
                return regard.attend(q, q, q, dropout=0.5)

            leaf = torch.randn(1, 1, 6, 3, dtype=torch.float64, requires_grad=True)
            assert torch.autograd.gradcheck(run, leaf, fast_mode=True)
            assert torch.autograd.gradgradcheck(run, leaf, fast_mode=True)


def test_weights_come_before_dropout() -> None:
    torch.manual_seed(0)
    _, weights = regard.attend(Q, Q, Q, dropout=0.5, return_weights=True)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 10))


@pytest.mark.parametrize("score", ["scaled_dot", "additive"])
def test_chosen_and_reduced_weights_equal_the_full_ones(score: str) -> None:
    settings: dict[str, Any] = {"score": score, "mask": regard.masks.causal()}
    _, full = regard.attend(Q, Q, Q, return_weights=True, **settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blockwise, "BLOCK_BYTES", 2000)
        torch.testing.assert_close(regard.weights(Q, Q, **settings), full)
        torch.testing.assert_close(
            regard.weights(Q, Q, rows=[7, 0, -1], **settings), full[..., [7, 0, -1], :]
        )
        torch.testing.assert_close(regard.weights(Q, Q, reduce="heads", **settings), full.mean(1))
        torch.testing.assert_close(regard.weights(Q, Q, reduce="received", **settings), full.mean(-2))
        values, keys = regard.weights(Q, Q, reduce="top-3", **settings)
        torch.testing.assert_close(values, full.topk(3).values)
        torch.testing.assert_close(full.gather(-1, keys), values)
    assert regard.weights(Q, Q, rows=[], **settings).shape == (2, 4, 0, 10)


@pytest.mark.parametrize("reduce", ["received", "top-3", "heads"])
def test_reductions_of_weights_keep_their_result_and_one_block(
    reduce: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many blocks there are, no more tensors are alive: holes between them are what memory is lost to."""
    monkeypatch.setattr(blockwise, "BLOCK_BYTES", 2000)
    alive: list[int] = []
    weigh = blockwise.Plan.weigh

    def counting(*arguments: Any) -> torch.Tensor:
        alive.append(sum(type(one) is torch.Tensor for one in gc.get_objects()))
        return weigh(*arguments)

    monkeypatch.setattr(blockwise.Plan, "weigh", counting)
    query = torch.randn(2, 60, 8)
    regard.weights(query, query, reduce=reduce)
    assert len(alive) > 10
    assert alive[-1] <= alive[2]


@pytest.mark.parametrize(
    ("changes", "kind", "sentence"),
    [
        ({"key": Q[..., :7]}, ValueError, "query has 8, key has 7"),
        ({"key": Q[:, :3], "value": Q[:, :3]}, ValueError, "query has 4, key has 3"),
        (
            {"key": Q[:1], "value": Q[:1]},
            ValueError,
            r"key must have the leading axes of query \(2, 4, 10, 8\)",
        ),
        ({"value": Q[..., :9, :]}, ValueError, r"value must have the axes of key .* \(2, 4, 9, 8\)"),
        ({"query": Q.double()}, TypeError, "one dtype"),
        ({"query": Q.int()}, TypeError, "query must be of a floating-point type, it is torch.int32"),
        ({"query": [1.0]}, TypeError, "query must be a tensor, it is list"),
        ({"query": torch.ones(3)}, ValueError, r"query must be .* it has shape \(3,\)"),
        ({"mask": torch.ones(10, 10)}, TypeError, "mask must be boolean, True where the query may look"),
        (
            {"mask": torch.ones(3, 10, dtype=torch.bool)},
            ValueError,
            r"mask must be broadcastable .* \(3, 10\)",
        ),
        ({"mask": torch.ones(5, 1, 1, 10, 10, dtype=torch.bool)}, ValueError, "mask must be broadcastable"),
        ({"mask": regard.masks.padding(torch.tensor([1, 2, 3]))}, ValueError, "lengths of a padding mask"),
        ({"bias": torch.ones(9)}, ValueError, r"bias must be broadcastable"),
        ({"bias": torch.ones(10, dtype=torch.bool)}, TypeError, "who may look is `mask`"),
        ({"score": "aditive"}, ValueError, "did you mean 'additive'"),
        ({"score": 3}, TypeError, "score must be"),
        ({"normalizer": "spasemax"}, ValueError, "did you mean 'sparsemax'"),
        ({"normalizer": "top-0"}, ValueError, "at least 1"),
        ({"dropout": 1.0}, ValueError, "dropout must be"),
        ({"backend": "cuda"}, ValueError, f"unknown backend 'cuda'; there are {', '.join(BACKENDS)}"),
        (
            {"backend": "sdpa", "score": "additive"},
            ValueError,
            "'sdpa' cannot run this call: the score 'additive'",
        ),
        (
            {"score": regard.scores.Additive(torch.ones(7))},
            ValueError,
            r"must be \(8,\) or \(4, 8\), it is \(7,\)",
        ),
        ({"score": regard.scores.General(torch.ones(7, 8))}, ValueError, r"must be \(8, 8\)"),
        ({"score": regard.scores.Additive(torch.ones(3, 8))}, ValueError, r"or \(4, 8\), it is \(3, 8\)"),
        ({"score": regard.scores.General([1.0])}, TypeError, "must be a tensor, it is list"),
        ({"dropout": "a"}, TypeError, "dropout must be a number, it is str"),
        ({"bias": torch.ones(10, device="meta")}, ValueError, "bias must be on the device of query"),
        ({"mask": torch.ones(10, device="meta").bool()}, ValueError, "mask must be on the device of query"),
    ],
)
def test_bad_input_is_named(changes: dict[str, Any], kind: type[Exception], sentence: str) -> None:
    arguments: dict[str, Any] = {"query": Q, "key": Q, "value": Q, **changes}
    query, key, value = (arguments.pop(name) for name in ("query", "key", "value"))
    with pytest.raises(kind, match=sentence):
        regard.attend(query, key, value, **arguments)


def test_spelling_of_mechanisms() -> None:
    for spelling in (
        "additive/softmax",
        "cosine/sparsemax",
        "dot/top-4/window-64",
        "dot/softmax/causal/window-3-0",
        "scaled_dot+rotary+qknorm+softcap-30/entmax-1.3/causal/alibi",
    ):
        assert regard.Mechanism.parse(spelling).spelling == spelling
    for wrong, sentence in {
        "additive": "it is spelt score/normalizer.* did you mean additive/softmax",
        "additive/": "it is spelt score/normalizer",
        "/softmax": "it is spelt score/normalizer",
        "dot/softmax/widow-3": r"unknown mask or bias 'widow-3' \(did you mean 'window'\?\); masks and biases",
        "dot/softmax/window": r"it is spelt window-LEFT\[-RIGHT\]",
        "dot/top-x": r"unknown normalizer 'top-x' \(it is spelt top\[-K\]\)",
        "dot+softcup/softmax": r"unknown modifier 'softcup' \(did you mean 'softcap'\?\); modifiers are qknorm",
    }.items():
        with pytest.raises(ValueError, match=sentence):
            regard.Mechanism.parse(wrong)


def test_memory_of_forward_and_backward_grows_linearly() -> None:
    """The largest tensor held while differentiating, counted by the allocator, not by the clock."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, tuple | list) else (result,):
                if isinstance(tensor, torch.Tensor):
                    Largest.size = max(Largest.size, tensor.untyped_storage().nbytes())
            return result

    for score in ("scaled_dot", "additive"):
        for normalizer in ("softmax", "sparsemax"):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(blockwise, "BLOCK_BYTES", 2**16)
                sizes = []
                for length in (256, 512, 1024):
                    leaf = torch.randn(1, 1, length, 4, requires_grad=True)
                    Largest.size = 0
                    with Largest():
                        regard.attend(leaf, leaf, leaf, score=score, normalizer=normalizer).sum().backward()
                    sizes.append(Largest.size)
                assert sizes[-1] <= max(2**17, 5 * sizes[0]), (score, normalizer, sizes)


def test_importing_regard_imports_nothing_heavy() -> None:
    code = (
        "import sys, torch; before = set(sys.modules); import regard; "
        "print(sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "['regard']"
