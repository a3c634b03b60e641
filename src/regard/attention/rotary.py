"""Rotary positions: queries and keys are turned by angles that grow with their places."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from regard.attention.numbers import check_number, check_whole

__all__ = ["NTK", "Linear", "Llama3", "Scaling", "YaRN", "frequencies", "precision", "rotate"]


@dataclass(frozen=True)
class Scaling:
    """How the frequencies are changed, so that a model can read sequences longer than those it was trained on."""

    def scaled(self, plain: Tensor, base: float) -> Tensor:
        """The frequencies that take the place of the `plain` ones. *Shape:* `(size / 2,)`, both."""
        raise NotImplementedError

    @property
    def amplitude(self) -> float:
        """What the turned queries and keys are multiplied by."""
        return 1.0


@dataclass(frozen=True)
class Linear(Scaling):
    """Position interpolation: all places move closer together by `factor`.

    Raises `ValueError` unless the factor is a number above 0.

    Example:
        >>> frequencies(4, scaling=Linear(2.0))
        tensor([0.5000, 0.0050])

    Chen et al. 2023, section 2.3. Transformers' `rope_type="linear"`.
    """

    factor: float

    def __post_init__(self) -> None:
        check_number("factor of a rotary scaling", self.factor)

    def scaled(self, plain: Tensor, base: float) -> Tensor:
        return plain / self.factor


@dataclass(frozen=True)
class NTK(Scaling):
    r"""A larger base: the lowest frequency is divided by `factor`, the highest stays.

    $$\mathrm{base}' = \mathrm{base} \cdot \mathrm{factor}^{D / (D - 2)}$$

    Raises `ValueError` unless the factor is a number above 0.

    Example:
        >>> frequencies(4, scaling=NTK(2.0))
        tensor([1.0000, 0.0050])

    bloc97 2023 ("NTK-aware scaled RoPE"); Peng et al. 2023 (YaRN), section 3.1. Transformers' `rope_type="dynamic"`
    lets the factor grow with the length, so that what was turned before would have to be turned anew.
    """

    factor: float

    def __post_init__(self) -> None:
        check_number("factor of a rotary scaling", self.factor)

    def scaled(self, plain: Tensor, base: float) -> Tensor:
        count = plain.shape[-1]
        return plain / self.factor ** (
            torch.arange(count, device=plain.device).to(plain.dtype) / max(count - 1, 1)
        )


@dataclass(frozen=True)
class YaRN(Scaling):
    r"""Low frequencies are divided by `factor`, high ones stay, those between change gradually.

    What turns less than `slow` times within the `original` length is divided, what turns more than `fast` times stays.
    Queries and keys are multiplied by `attention`, $0.1 \ln(\mathrm{factor}) + 1$ unless it is given.

    Raises `ValueError` unless all are numbers above 0.

    Example:
        >>> scaling = YaRN(factor=4.0, original=4096)
        >>> frequencies(8, scaling=scaling)
        tensor([1.0000e+00, 1.0000e-01, 6.2500e-03, 2.5000e-04])
        >>> round(scaling.amplitude, 4)
        1.1386

    Peng et al. 2023, section 3.2, definition 2, and section 3.4. As in the authors' code and Transformers'
    `rope_type="yarn"`, the change is linear in the number of the frequency, from a whole number to a whole number.
    """

    factor: float
    original: int
    fast: float = 32.0
    slow: float = 1.0
    attention: float | None = None

    def __post_init__(self) -> None:
        check_number("factor of a rotary scaling", self.factor)
        check_whole("original length of a rotary scaling", self.original, 1)
        check_number("slow of a rotary scaling", self.slow)
        check_number("fast of a rotary scaling", self.fast, self.slow)
        if self.attention is not None:
            check_number("attention of a rotary scaling", self.attention)

    @property
    def amplitude(self) -> float:
        return max(0.1 * math.log(self.factor) + 1.0, 1.0) if self.attention is None else self.attention

    def scaled(self, plain: Tensor, base: float) -> Tensor:
        size = 2 * plain.shape[-1]

        def turning(turns: float) -> float:
            """The number of the frequency that turns so often within the original length."""
            return size * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(base))

        low = max(math.floor(turning(self.fast)), 0)
        high = min(math.ceil(turning(self.slow)), size - 1)
        number = torch.arange(size // 2, device=plain.device).to(plain.dtype)
        share = (number - low) / (high - low if high != low else 0.001)
        return torch.lerp(plain, plain / self.factor, share.clamp(0, 1))


@dataclass(frozen=True)
class Llama3(Scaling):
    r"""Low frequencies are divided by `factor`, high ones stay, those between change gradually.

    What turns less than `low` times within the `original` length is divided, what turns more than `high` times stays.

    Raises `ValueError` unless all are numbers above 0.

    Example:
        >>> frequencies(8, base=500000.0, scaling=Llama3())
        tensor([1.0000e+00, 3.7606e-02, 5.2485e-04, 6.6479e-06])

    Llama 3.1, by its authors' code, as in Transformers' `rope_type="llama3"`; unlike in YaRN the change is linear in
    the number of turns.
    """

    factor: float = 8.0
    low: float = 1.0
    high: float = 4.0
    original: int = 8192

    def __post_init__(self) -> None:
        check_number("factor of a rotary scaling", self.factor)
        check_number("low of a rotary scaling", self.low)
        check_number("high of a rotary scaling", self.high, self.low)
        check_whole("original length of a rotary scaling", self.original, 1)

    def scaled(self, plain: Tensor, base: float) -> Tensor:
        turns = self.original * plain / (2 * math.pi)
        share = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)
        return torch.lerp(plain / self.factor, plain, share)


def frequencies(
    size: int,
    base: float = 10000.0,
    scaling: Scaling | None = None,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    r"""By how much each pair of `size` numbers is turned from one place to the next, in radians.

    $$\theta_i = \mathrm{base}^{-2i / D}, \quad i = 0 \dots D/2 - 1$$

    *Shape:* `(size / 2,)`. `scaling` changes them for sequences longer than a model was trained on: `Linear`,
    `NTK`, `YaRN` or `Llama3`. Raises `ValueError` unless the size is even and the base a number above 1.

    Example:
        >>> frequencies(8)
        tensor([1.0000, 0.1000, 0.0100, 0.0010])

    Su et al. 2021, section 3.2.2. Transformers calls them `inv_freq`, and the base `rope_theta`.
    """
    if size % 2:
        raise ValueError(f"size of rotary positions must be even, it is {size}")
    check_number("base of rotary positions", base, 1.0)
    plain = 1.0 / base ** (torch.arange(0, size, 2, device=device).to(dtype) / max(size, 1))
    return plain if scaling is None else scaling.scaled(plain, base)


def precision(x: Tensor) -> torch.dtype:
    """The dtype in which angles are computed and `x` is turned."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def rotate(
    x: Tensor, positions: Tensor, frequencies: Tensor, interleaved: bool = False, amplitude: float = 1.0
) -> Tensor:
    r"""Vectors turned by their places: each pair of numbers, as a complex number, times $a e^{\mathrm{i} p \theta}$.

    The pairs are a number of the first half and its counterpart in the second, or neighbours when `interleaved`. With
    fewer frequencies than pairs, the first numbers are turned, the others stay as they are.

    *Shape:* x `(..., length, size)`, positions broadcastable to `(..., length)`, frequencies `(turned / 2,)` -> that of
    x, in its dtype. float16 and bfloat16 are turned in float32. Raises `ValueError` when there are more frequencies
    than pairs.

    Example:
        >>> rotate(torch.tensor([[1.0, 0.0]]), torch.tensor([2.0]), torch.tensor([0.5]))
        tensor([[0.5403, 0.8415]])

    Su et al. 2021, section 3.2.2, whose pairs are neighbours (also GPT-J's, and those of Meta's Llama); GPT-NeoX and
    Transformers' Llama pair halves. Weights trained for one are right for the other after a permutation.
    """
    turned = 2 * frequencies.shape[-1]
    if turned > x.shape[-1]:
        raise ValueError(
            f"frequencies must be of at most half the size {x.shape[-1]} of x, they are {turned // 2}"
        )
    dtype = precision(x)
    angles = positions[..., None].to(dtype) * frequencies.to(dtype)
    cos, sin = angles.cos() * amplitude, angles.sin() * amplitude
    part = x[..., :turned].to(dtype)
    one, two = (part[..., ::2], part[..., 1::2]) if interleaved else part.chunk(2, dim=-1)
    pair = one * cos - two * sin, two * cos + one * sin
    found = torch.stack(pair, dim=-1).flatten(-2) if interleaved else torch.cat(pair, dim=-1)
    return torch.cat([found.to(x.dtype), x[..., turned:]], dim=-1)
