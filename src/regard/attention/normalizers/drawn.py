"""Normalisers that draw the key to look at."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from regard.attention.grid import Block
from regard.attention.normalizers.hard import Hardmax
from regard.attention.normalizers.normalizer import Normalizer
from regard.attention.normalizers.softmax import Softmax
from regard.attention.numbers import check_number
from regard.attention.parts import spelt

__all__ = ["GumbelSoftmax", "Sample"]


@dataclass(frozen=True, eq=False)
class GumbelSoftmax(Normalizer):
    r"""Softmax of scores with Gumbel noise: a draw of one key by its softmax weight, made soft enough to learn from.

    $$w = \mathrm{softmax}\Bigl(\frac{s + g}{t}\Bigr), \qquad g_i = -\log(-\log u_i), \quad u_i \sim U(0, 1)$$

    The best key of $s + g$ is distributed as $\mathrm{softmax}(s)$; `temperature` $t$ towards 0 puts all weight there.
    With `hard` the weights are that key's alone, and their gradient that of the soft ones (straight-through). Raises
    `ValueError` for a temperature that is not above 0.

    `regard.attend` draws anew at each call, from PyTorch's generator. Without noise (`settled`, which layers use
    outside training, and `weigh`) it is softmax with that temperature, or hardmax.

    *Shape:* scores `(..., query_len, key_len)` -> weights of the same shape.

    Example:
        >>> GumbelSoftmax(0.5, hard=True).settled()
        Hardmax()
        >>> GumbelSoftmax(0.5).weigh(torch.tensor([2.0, 0.0, 1.0]))
        tensor([0.8668, 0.0159, 0.1173])

    Jang et al. 2017, equation 2, and section 2.2 for `hard`; Maddison et al. 2017 (the concrete distribution).
    `torch.nn.functional.gumbel_softmax` is the same, draws in evaluation, too, and gives NaN where all keys are hidden:
    `regard.attend` gives zeros.
    """

    temperature: float = 1.0
    _: KW_ONLY
    hard: bool = False
    name: ClassVar[str] = "gumbel"
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number("the temperature of gumbel", self.temperature)

    @property
    def spelling(self) -> str:
        """`gumbel` or `gumbel_hard`, and the temperature if it is not 1."""
        return spelt(self, "gumbel_hard" if self.hard else "gumbel")

    def settled(self) -> Normalizer:
        """Softmax with the same temperature, or hardmax."""
        return Hardmax() if self.hard else Softmax(self.temperature)

    def weigh(self, scores: Tensor) -> Tensor:
        return self.settled().weigh(scores)

    def weigh_block(self, scores: Tensor, block: Block) -> Tensor:
        scores = scores + _gumbel(scores, block)
        weights = torch.softmax(scores / self.temperature, dim=-1)
        if not self.hard:
            return weights
        return _one_hot(scores.detach()) + (weights - weights.detach())


@dataclass(frozen=True, eq=False)
class Sample(Normalizer):
    r"""Hard attention: one key, drawn by its softmax weight, gets all the weight.

    $$w_i = [i = a], \qquad a \sim p = \mathrm{softmax}(s), \qquad \nabla w_i = [i = a]\, \nabla \log p_a$$

    The output is the value of that key, and its gradient reaches the values, not the scores. Those learn by REINFORCE
    from the returned weights, which carry the gradient of the log-probability of the draw: for a reward $R$ and a
    baseline $b$, the gradient of `-(reward - baseline).detach() * weights.sum(-1)` is $-(R - b) \nabla \log p_a$,
    whose mean over the draws is the gradient of minus the expected reward. So are the higher derivatives.

    `regard.attend` draws anew at each call, from PyTorch's generator. Without a draw (`settled`, which layers use
    outside training, and `weigh`) it is hardmax.

    *Shape:* scores `(..., query_len, key_len)` -> weights of the same shape.

    Example:
        >>> import regard
        >>> x = torch.randn(3, 4, requires_grad=True)
        >>> output, weights = regard.attend(x, x, x, normalizer="sample", return_weights=True)
        >>> reward = -output.detach().square().sum(-1)
        >>> loss = -((reward - reward.mean()) * weights.sum(-1)).mean()
        >>> loss.backward()

    Xu et al. 2015, section 4.1, with Gumbel noise for the draw; the factor of value 1 that carries the gradient:
    Foerster et al. 2018 (DiCE). `torch.nn.functional.gumbel_softmax(hard=True)` draws alike, but its
    gradient is the biased one of the soft weights.
    """

    name: ClassVar[str] = "sample"
    random: ClassVar[bool] = True
    through: ClassVar[bool] = False

    def settled(self) -> Normalizer:
        """Hardmax: the most probable key."""
        return Hardmax()

    def weigh(self, scores: Tensor) -> Tensor:
        return self.settled().weigh(scores)

    def weigh_block(self, scores: Tensor, block: Block) -> Tensor:
        noisy = scores.detach() + _gumbel(scores, block)
        likelihood = scores.gather(-1, noisy.argmax(-1, keepdim=True)) - scores.logsumexp(-1, keepdim=True)
        return _one_hot(noisy) * (likelihood - likelihood.detach()).exp()


def _gumbel(scores: Tensor, block: Block) -> Tensor:
    """Standard Gumbel noise, finite, so that a hidden key stays hidden and a visible one visible."""
    uniform = block.uniform(scores)
    return -(-uniform.clamp(min=torch.finfo(uniform.dtype).tiny).log()).log().to(scores.dtype)


def _one_hot(scores: Tensor) -> Tensor:
    """One at the best key, zero at the others."""
    return torch.zeros_like(scores).scatter(-1, scores.argmax(-1, keepdim=True), 1.0)
