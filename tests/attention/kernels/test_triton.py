"""The Triton kernels: on the GPU where there is one, else in Triton's interpreter, in a process of its own.

The definition says what outputs and weights must be, PyTorch's derivatives of the plain formula in float64 what
gradients must be; errors may be twice those of the plain formula in the same dtype, plus rounding.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from regard.attention import normalizers, reference

if importlib.util.find_spec("triton") is None:
    pytest.skip("the package 'triton' is not installed", allow_module_level=True)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
RUNS = INTERPRETED or torch.cuda.is_available()
DEVICE = "cpu" if INTERPRETED else "cuda"
if RUNS:
    from regard.attention.kernels.gpu.additive import additive_scores, additive_scores_backward
    from regard.attention.kernels.gpu.attention import (
        attention,
        attention_backward,
        blocks_of,
        unsupported,
    )

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore:TRITON_DEFAULT_FP_FUSION")

SCORES = ["product", "distance", "additive"]
NORMALIZERS = [
    ("softmax", 0.7), ("sigmoid", -0.5), ("entmax", 1.5), ("entmax", 2.0), ("entmax", 1.1), ("entmax", 1.7),
    ("entmax", 3.0), ("top", 3.0), ("hardmax", 0.0),
]  # fmt: skip

# A key that has just come in has weights (alpha above 2) or gradients (above 1.5) as steep as can be: any rounding of
# its score shows, and only products are rounded much as the plain formula rounds them.
STEEP = [("entmax", 1.7), ("entmax", 3.0)]


@pytest.mark.skipif(RUNS, reason="this is the interpreter's process, or there is a GPU")
def test_in_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__]
    found = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout[-4000:] + found.stderr[-2000:]


@dataclass
class Call:
    """A call of the kernels. *Shape:* as `attention` says."""

    query: Tensor
    key: Tensor
    value: Tensor
    weight: Tensor | None = None
    ranges: Tensor | None = None
    mask: Tensor | None = None
    bias: Tensor | None = None
    score: str = "product"
    normalizer: str = "softmax"
    parameter: float = 1.0

    @property
    def leaves(self) -> list[Tensor]:
        return [
            t for t in (self.query, self.key, self.value, self.weight, self.bias) if isinstance(t, Tensor)
        ]

    def to(self, dtype: torch.dtype) -> Call:
        """The same call in another dtype, on the CPU and ready to be differentiated."""
        moved = {
            name: None if t is None else t.detach().cpu().to(dtype).clone().requires_grad_()
            for name, t in vars(self).items()
            if name in ("query", "key", "value", "weight", "bias")
        }
        return replace(self, **moved)

    @property
    def shown(self) -> Tensor:
        """*Shape:* `(N, Hq, Tq, Tk)`."""
        shown = torch.ones(*self.query.shape[:3], self.key.shape[2], dtype=torch.bool)
        places = torch.arange(self.key.shape[2])
        if self.ranges is not None:
            ranges = self.ranges.cpu()
            shown &= (places >= ranges[..., :1]) & (places < ranges[..., 1:])
        return shown if self.mask is None else shown & self.mask.cpu()

    def plain(self, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Output and weights by the plain formula; `kept` says how dropout changes the weights for the output."""
        group = self.query.shape[1] // self.key.shape[1]
        key, value = (t.repeat_interleave(group, 1) for t in (self.key, self.value))
        if self.score == "product":
            scores = self.query @ key.mT
        elif self.score == "distance":
            scores = -(self.query.unsqueeze(-2) - key.unsqueeze(-3)).square().sum(-1)
        else:
            assert self.weight is not None
            sums = torch.tanh(self.query.unsqueeze(-2) + key.unsqueeze(-3))
            scores = (sums @ self.weight[:, None, :, None]).squeeze(-1)
        if self.bias is not None:
            scores = scores + self.bias
        scores = scores.masked_fill(~self.shown, -torch.inf)
        blind = (scores == -torch.inf).all(-1, keepdim=True)
        weights = self.normaliser.weigh(scores.masked_fill(blind, 0.0)).masked_fill(blind, 0.0)
        return (weights if kept is None else weights * kept) @ value, weights

    @property
    def normaliser(self) -> normalizers.Normalizer:
        number = self.parameter
        if self.normalizer == "softmax":
            return normalizers.Softmax(number)
        if self.normalizer == "sigmoid":
            return normalizers.Sigmoid(number)
        if self.normalizer == "top":
            return normalizers.TopK(int(number))
        if self.normalizer == "hardmax":
            return normalizers.Hardmax()
        exact = {2.0: normalizers.Sparsemax(), 1.5: normalizers.Entmax15()}
        return exact.get(number, normalizers.Entmax(number))

    def expected(self) -> tuple[Tensor, Tensor]:
        """Output and weights by the definition."""
        call = self.to(torch.float64)
        field = {"softmax": "temperature", "sigmoid": "bias", "entmax": "alpha", "top": "k"}
        number = int(self.parameter) if self.normalizer == "top" else self.parameter
        scores = {"product": "dot", "distance": "distance", "additive": "additive"}
        parameters = {"scale": 1.0} if self.score == "distance" else {}
        if call.weight is not None:
            parameters = {"weight": tuple(call.weight.detach().numpy())}
        output, weights = reference.attend(
            *(t.detach().numpy() for t in (call.query, call.key, call.value)),
            score=scores[self.score],
            normalizer=self.normalizer,
            mask=self.shown.numpy(),
            bias=None if call.bias is None else call.bias.detach().numpy(),
            score_parameters=parameters,
            normalizer_parameters={field[self.normalizer]: number} if self.normalizer in field else {},
        )
        return torch.from_numpy(output), torch.from_numpy(weights)

    def forward(self, want_weights: bool = True, dropout: float = 0.0, seed: int = 3) -> tuple[Tensor, ...]:
        return attention(*vars(self).values(), dropout, seed, want_weights)

    def backward(
        self,
        found: tuple[Tensor, ...],
        of_output: Tensor,
        of_weights: Tensor | None,
        dropout: float = 0.0,
        seed: int = 3,
    ) -> list[Tensor]:
        """The gradients of `leaves`."""
        output, _, statistic, _, index, kept = found
        tensors, names = list(vars(self).values())[:7], list(vars(self).values())[7:]
        gradients = attention_backward(
            of_output, of_weights, *tensors, output, statistic, index, kept, *names, dropout, seed, True
        )
        return [one for one in gradients if one is not None]


def call_of(
    score: str = "product",
    normalizer: str = "softmax",
    parameter: float = 1.0,
    dtype: torch.dtype = torch.float32,
    heads: tuple[int, int] = (2, 1),
    lengths: tuple[int, int] = (17, 37),
    sizes: tuple[int, int] = (4, 18),
    ranges: str = "none",
    mask: bool = False,
    bias: str = "none",
    seed: int = 0,
) -> Call:
    """A random call."""
    torch.manual_seed(seed)
    queries, keys = lengths

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape).to(dtype).to(DEVICE)

    seen = None
    if ranges != "none":
        places = torch.arange(queries)
        high = places + keys - queries + 1
        low = torch.zeros_like(high) if ranges == "causal" else (high - 9).clamp(min=0)
        seen = torch.stack([low, high], -1).int()[None, None].to(DEVICE)
        if ranges == "window":
            # One query that sees nothing.
            seen[:, :, 5] = 3
    shown = torch.rand(1, 1, queries, keys) > 0.3
    shown[:, :, 7:8] = False
    shapes = {
        "tile": (1, heads[0], queries, keys),
        "row": (1, 1, queries, 1),
        "column": (1, heads[0], 1, keys),
    }
    return Call(
        normal(1, heads[0], queries, sizes[0]),
        normal(1, heads[1], keys, sizes[0]),
        normal(1, heads[1], keys, sizes[1]),
        normal(heads[0], sizes[0]) if score == "additive" else None,
        seen,
        shown.to(DEVICE) if mask else None,
        normal(*shapes[bias]) if bias in shapes else None,
        score,
        normalizer,
        parameter,
    )


def gradients(call: Call, of_output: Tensor, of_weights: Tensor, kept: Tensor | None = None) -> list[Tensor]:
    output, weights = call.plain(kept)
    loss = (output * of_output.to(output)).sum() + (weights * of_weights.to(output)).sum()
    found = torch.autograd.grad(loss, call.leaves, allow_unused=True)
    return [torch.zeros_like(t) if one is None else one for one, t in zip(found, call.leaves, strict=True)]


def near(found: Tensor, exact: Tensor, plain: Tensor, what: str) -> None:
    """The error is at most twice that of the plain computation in the same dtype, plus rounding."""
    epsilon = torch.finfo(plain.dtype).eps
    exact = exact.detach()
    error = (found.cpu().double() - exact).abs().max().item()
    allowed = 2 * (plain.detach().double() - exact).abs().max().item()
    # In float64 the plain formula has the very error that it is measured by.
    rounding = (32 if plain.dtype == torch.float64 else 8) * epsilon * max(1.0, exact.abs().max().item())
    assert error <= allowed + rounding, f"{what}: {error:.2e}, allowed are {allowed:.2e} + {rounding:.2e}"


def check(call: Call) -> None:
    """Output, weights and all gradients are those of the definition."""
    dtype = call.query.dtype
    output, weights = call.expected()
    plain = call.to(dtype)
    plain_output, plain_weights = plain.plain()
    found = call.forward()
    assert found[0].dtype == dtype
    near(found[0], output, plain_output, "output")
    near(found[1], weights, plain_weights, "weights")
    of_output = torch.randn(output.shape).to(dtype)
    of_weights = torch.randn(weights.shape).to(dtype)
    expected = gradients(call.to(torch.float64), of_output, of_weights)
    plainly = gradients(plain, of_output, of_weights)
    gradient = call.backward(found, of_output.to(DEVICE), of_weights.to(DEVICE))
    for place, (one, exact, rough) in enumerate(zip(gradient, expected, plainly, strict=True)):
        assert one.shape == exact.shape
        assert one.dtype == dtype
        near(one, exact, rough, f"gradient {place}")


@pytest.mark.parametrize(
    ("score", "normalizer", "parameter"),
    [(score, *one) for score in SCORES for one in NORMALIZERS if score == "product" or one not in STEEP],
)
def test_every_score_and_normaliser(score: str, normalizer: str, parameter: float) -> None:
    check(
        call_of(
            score,
            normalizer,
            parameter,
            ranges="causal",
            mask=True,
            bias="tile",
            heads=(1, 1),
            lengths=(17, 21),
        )
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("score", "normalizer", "parameter"),
    [
        ("product", "softmax", 1.0),
        ("distance", "sigmoid", 0.3),
        ("additive", "entmax", 1.5),
        ("product", "top", 5.0),
    ],
)
def test_dtypes(dtype: torch.dtype, score: str, normalizer: str, parameter: float) -> None:
    check(call_of(score, normalizer, parameter, dtype, ranges="window", lengths=(17, 21)))


@pytest.mark.parametrize("sizes", [(20, 80), (80, 24)])
@pytest.mark.parametrize(("normalizer", "parameter"), [("softmax", 1.0), ("entmax", 2.0)])
def test_sizes_and_grouped_heads(sizes: tuple[int, int], normalizer: str, parameter: float) -> None:
    call = call_of("product", normalizer, parameter, heads=(4, 2), lengths=(17, 20), sizes=sizes)
    check(replace(call, query=call.query / sizes[0] ** 0.5))


@pytest.mark.parametrize(
    ("ranges", "bias", "normalizer", "parameter"),
    [
        ("none", "row", "softmax", 1.0),
        ("causal", "column", "softmax", 1.0),
        ("window", "row", "softmax", 1.0),
        ("none", "column", "entmax", 1.5),
        ("window", "row", "entmax", 1.5),
    ],
)
def test_ranges_and_biases(ranges: str, bias: str, normalizer: str, parameter: float) -> None:
    check(call_of("product", normalizer, parameter, ranges=ranges, bias=bias, lengths=(34, 36), heads=(1, 1)))


@pytest.mark.parametrize(
    ("score", "normalizer", "parameter"),
    [("product", "softmax", 1.0), ("additive", "entmax", 1.5), ("distance", "top", 4.0)],
)
def test_queries_that_see_nothing_get_zeros(score: str, normalizer: str, parameter: float) -> None:
    call = call_of(score, normalizer, parameter, ranges="window", mask=True, lengths=(17, 21))
    output, weights, *_ = found = call.forward()
    ones = torch.ones_like(output)
    of_query = call.backward(found, ones, torch.ones_like(weights))[0]
    for query in (5, 7):
        assert not output[:, :, query].any()
        assert not weights[:, :, query].any()
        assert not of_query[:, :, query].any()


@pytest.mark.parametrize(("normalizer", "parameter"), [*NORMALIZERS, ("entmax", 1.01), ("top", 60.0)])
def test_equal_scores(normalizer: str, parameter: float) -> None:
    """Of equal scores the first keys win; else they share the weight."""
    call = call_of("product", normalizer, parameter, heads=(1, 1), lengths=(5, 37))
    check(replace(call, key=torch.ones_like(call.key)))


@pytest.mark.parametrize("scale", [100.0, 1e4])
@pytest.mark.parametrize(("normalizer", "parameter"), [("softmax", 1.0), *NORMALIZERS[2:8]])
def test_scores_of_any_size(scale: float, normalizer: str, parameter: float) -> None:
    call = call_of("product", normalizer, parameter, heads=(1, 1), lengths=(4, 37))
    call = replace(call, query=call.query * scale)
    output, weights, *_ = call.forward()
    near(output, call.expected()[0], call.to(torch.float32).plain()[0], "output")
    near(weights, call.expected()[1], call.to(torch.float32).plain()[1], "weights")


@pytest.mark.parametrize(("normalizer", "parameter"), NORMALIZERS)
def test_one_huge_score(normalizer: str, parameter: float) -> None:
    call = call_of("product", normalizer, parameter, heads=(1, 1), bias="tile", lengths=(5, 37))
    assert call.bias is not None
    call.bias[..., 20] = 1e6
    check(call)


def test_ties_at_the_threshold_of_top_k() -> None:
    call = call_of("product", "top", 5.0, heads=(1, 1), lengths=(7, 61), sizes=(4, 8))
    check(replace(call, query=call.query.round(), key=call.key.round()))


@pytest.mark.parametrize("score", ["additive", "distance"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_large_queries_and_keys(score: str, dtype: torch.dtype) -> None:
    """Additive sums of up to 60 and norms that no product can take apart do not overflow, nor lose figures."""
    call = call_of(score, "softmax", 1.0, dtype, lengths=(17, 21), heads=(1, 1))
    call.query.mul_(0.01 if score == "distance" else 30)
    call.key.mul_(0.01 if score == "distance" else 30)
    if score == "distance":
        call.query.add_(60)
        call.key.add_(60)
    check(call)


@pytest.mark.parametrize(
    ("score", "normalizer", "parameter"),
    [*(("product", *one) for one in NORMALIZERS), ("additive", "entmax", 1.5), ("distance", "softmax", 1.0)],
)
def test_nan_stays_in_its_row(score: str, normalizer: str, parameter: float) -> None:
    call = call_of(score, normalizer, parameter, heads=(1, 1), lengths=(9, 20), sizes=(3, 4))
    clean = call.forward()[0]
    query = call.query.clone()
    query[0, 0, 4, 1] = torch.nan
    output = replace(call, query=query).forward()[0]
    assert output[0, 0, 4].isnan().all()
    output[0, 0, 4] = clean[0, 0, 4]
    assert torch.equal(output, clean)


@pytest.mark.parametrize(
    ("normalizer", "parameter"), [("softmax", 1.0), ("entmax", 1.5), ("top", 6.0), ("hardmax", 0.0)]
)
def test_dropout_is_drawn_again(normalizer: str, parameter: float) -> None:
    call = call_of("product", normalizer, parameter, lengths=(17, 19), sizes=(6, 20))
    whole = replace(call, value=torch.eye(20, device=DEVICE)[:19].expand(1, 1, 19, 20).contiguous())
    again = whole.forward(dropout=0.4)
    weights = again[1]
    assert torch.equal(weights, whole.forward()[1])
    dropped = again[0][..., :19]
    assert torch.equal(dropped, whole.forward(dropout=0.4)[0][..., :19])
    assert not torch.equal(dropped, whole.forward(dropout=0.4, seed=4)[0][..., :19])
    kept = torch.where(weights > 0, dropped / weights, 0.0).cpu()
    assert torch.isclose(kept, torch.tensor(1 / 0.6), rtol=1e-4).logical_or(kept == 0).all()
    if normalizer == "softmax":
        assert 0.45 < (kept > 0).double().mean() < 0.75
        assert not torch.equal(kept[0, 0] > 0, kept[0, 1] > 0)
    kept = ((kept > 0) / 0.6).double()
    found = call.forward(dropout=0.4)
    of_output = torch.randn(found[0].shape)
    of_weights = torch.zeros_like(weights).cpu()
    expected = gradients(call.to(torch.float64), of_output, of_weights, kept)
    plainly = gradients(call.to(torch.float32), of_output, of_weights, kept.float())
    gradient = call.backward(found, of_output.to(DEVICE), None, dropout=0.4)
    for one, exact, rough in zip(gradient, expected, plainly, strict=True):
        near(one, exact, rough, "gradient")


@pytest.mark.parametrize(
    ("normalizer", "parameter"), [("entmax", 1.5), ("entmax", 2.0), ("top", 2.0), ("hardmax", 0.0)]
)
def test_kept_blocks_are_those_with_weight(normalizer: str, parameter: float) -> None:
    call = call_of("product", normalizer, parameter, lengths=(33, 64), sizes=(16, 16), heads=(1, 1))
    _, weights, _, _, _, kept = call.forward()
    rows, columns = blocks_of("product", torch.float32, 16, 16)
    blocks = torch.nn.functional.pad(weights, (0, -64 % columns, 0, -33 % rows))
    blocks = blocks.unflatten(3, (-1, columns)).unflatten(2, (-1, rows))
    assert torch.equal(kept > 0, (blocks > 0).any(-1).any(3))


@pytest.mark.parametrize("score", SCORES)
def test_two_runs_agree_bit_for_bit(score: str) -> None:
    call = call_of(score, "entmax", 1.5, ranges="causal", heads=(1, 1), lengths=(17, 21), sizes=(3, 4))
    found = call.forward()
    ones = torch.ones_like(found[0])
    first = call.backward(found, ones, None)
    assert all(map(torch.equal, found, call.forward()))
    assert all(map(torch.equal, first, call.backward(found, ones, None)))


def test_without_weights_the_output_is_the_same() -> None:
    call = call_of("product", "entmax", 1.5, lengths=(17, 21))
    output, weights, *_ = call.forward(want_weights=False)
    assert weights.numel() == 0
    assert torch.equal(output, call.forward()[0])


@pytest.mark.parametrize(("queries", "keys"), [(0, 5), (5, 0), (1, 1)])
def test_short_and_empty(queries: int, keys: int) -> None:
    for normalizer, parameter in (("softmax", 1.0), ("entmax", 1.5)):
        call = call_of("additive", normalizer, parameter, lengths=(8, 8))
        call = replace(call, query=call.query[:, :, :queries], key=call.key[:, :, :keys])
        call = replace(call, value=call.value[:, :, :keys])
        found = call.forward()
        gradient = call.backward(found, torch.ones_like(found[0]), None)
        assert found[0].shape == (1, 2, queries, 18)
        assert [one.shape for one in gradient] == [t.shape for t in call.leaves]
        if not queries * keys:
            assert not any(one.any() for one in [found[0], *gradient])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("scale", "key_heads"), [(1.0, 2), (30.0, 2), (1.0, 1)])
def test_additive_scores(dtype: torch.dtype, scale: float, key_heads: int) -> None:
    torch.manual_seed(1)
    query, key, weight = torch.randn(2, 2, 17, 6), torch.randn(2, key_heads, 21, 6), torch.randn(2, 6)
    query, key = query * scale, key * scale
    leaves = [t.to(dtype) for t in (query, key, weight)]
    grad = torch.randn(2, 2, 17, 21).to(dtype)

    def plain(kind: torch.dtype) -> list[Tensor]:
        q, k, w = (t.to(kind).clone().requires_grad_() for t in leaves)
        scores = (torch.tanh(q.unsqueeze(-2) + k.unsqueeze(-3)) @ w[:, None, :, None]).squeeze(-1)
        return [scores, *torch.autograd.grad(scores, (q, k, w), grad.to(kind))]

    moved = [t.to(DEVICE) for t in leaves]
    found = [additive_scores(*moved), *additive_scores_backward(grad.to(DEVICE), *moved)]
    for one, exact, rough in zip(found, plain(torch.float64), plain(dtype), strict=True):
        assert one.dtype == dtype
        assert one.shape == exact.shape
        near(one, exact, rough, "additive scores")


def test_unsupported_calls_say_why() -> None:
    assert unsupported("additive", "entmax", 1.3, torch.float16, 128, 64) == []
    assert "256 channels" in unsupported("product", "softmax", 1.0, torch.float16, 512, 64)[0]
    assert "softplus" in unsupported("product", "softplus", 1.0, torch.float32, 64, 64)[0]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("normalizer", ["entmax15", "top-3"])
@pytest.mark.parametrize("score", ["scaled_dot", "distance", "additive"])
def test_the_operators_reach_them(
    score: str, normalizer: str, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`regard.attend` through the operators, with the kernels of a GPU behind them wherever this runs."""
    import regard
    from regard.attention.kernels import gpu, operators

    monkeypatch.setattr(operators, "_kernels", lambda device: gpu)
    generator = torch.Generator().manual_seed(0)
    query, key, value, net, bias = (
        torch.randn(*shape, generator=generator).to(DEVICE).requires_grad_()
        for shape in ((1, 4, 21, 16), (1, 2, 26, 16), (1, 2, 26, 16), (16,), (26,))
    )
    made = regard.scores.Additive(weight=net) if score == "additive" else score
    mask = regard.masks.window(9, 3) & regard.masks.padding(torch.tensor([20])) if masked else None
    leaves = [query, key, value, bias, *([net] if score == "additive" else [])]

    def gradients(backend: str) -> list[Tensor]:
        output, weights = regard.attend(
            query, key, value, score=made, normalizer=normalizer, mask=mask, bias=bias, backend=backend,
            return_weights=True,
        )  # fmt: skip
        loss = output.cos().sum() + weights.square().sum()
        return [output, weights, *torch.autograd.grad(loss, leaves)]

    for found, expected in zip(gradients("sparse"), gradients("blockwise"), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


if not RUNS:
    # Triton reads its mode when it is imported, which another test may have done: these run in a process of their own.
    for name in [
        name for name in globals() if name.startswith("test_") and name != "test_in_the_interpreter"
    ]:
        del globals()[name]
