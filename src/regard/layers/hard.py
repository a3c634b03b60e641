"""How hard attention learns: from the reward of where it looked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from regard.attention.numbers import check_number

__all__ = ["MovingBaseline", "ReinforceLoss"]


class MovingBaseline(nn.Module):
    r"""What reward is to be expected: a moving average of those before.

    $$b_k = \gamma\, b_{k-1} + (1 - \gamma)\, \bar R_k, \qquad b_0 = 0$$

    A call gives $b_{k-1}$, which hangs on no draw of step $k$ and so changes no mean of gradients, and then, in
    training, takes the mean reward $\bar R_k$ in. Raises `ValueError` unless `decay` ($\gamma$) is at least 0 and below
    1.

    *Shape:* rewards of any shape -> `()`, in single precision at least, of whatever type the module is.

    Example:
        >>> import torch
        >>> baseline = MovingBaseline(decay=0.5)
        >>> [baseline(torch.tensor([1.0, 3.0])).item() for _ in range(3)]
        [0.0, 1.0, 1.5]

    Xu et al. 2015, section 4.1, with $\gamma = 0.9$. PyTorch has no counterpart.
    """

    value: Tensor

    def __init__(self, decay: float = 0.9) -> None:
        super().__init__()
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay must be at least 0 and below 1, it is {decay!r}")
        self.decay = decay
        self.register_buffer("value", torch.zeros(()))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        # In half precision small steps of a mean are lost.
        self.value = self.value.to(torch.promote_types(self.value.dtype, torch.float32))
        return self

    def forward(self, reward: Tensor) -> Tensor:
        expected = self.value.clone()
        if self.training and reward.numel():
            with torch.no_grad():
                self.value.lerp_(reward.detach().to(self.value.dtype).mean().to(self.value), 1 - self.decay)
        return expected

    def extra_repr(self) -> str:
        return f"decay={self.decay}"


class ReinforceLoss(nn.Module):
    r"""The loss whose gradient teaches hard attention (`.../sample`) where to look.

    $$\nabla \ell = -\frac{1}{N} \sum_n \sum_i \Bigl( \lambda_r\, (R_n - b)\, \nabla \log p_{n,i}(a_{n,i})
    + \lambda_e\, \nabla H[p_{n,i}] \Bigr)$$

    over all looks $i$ of the $N$ sequences of a batch; $a$ is the key that was drawn, $R$ its reward (the higher the
    better: for a model of sentences $\log p(y)$) and $b$ a `MovingBaseline`. The mean over the draws is the gradient of
    minus the expected reward. The entropy $H$ keeps the draws from settling too early; it needs the weights that
    softmax would have given. Only the gradient of the result means something, its value does not. The rest of the model
    learns from its own loss, whose gradient stops at the draws.

    *Shape:* weights, as `regard.attend` returns them under `sample`, `(batch, ..., query_len, key_len)`; reward
    `(batch,)`, or one for each look, `(batch, ..., query_len)`, or anything between; with one head also
    `(batch, query_len)`; soft weights as weights -> `()`.

    Raises `ValueError` for weights or a decay out of range.

    Example:
        >>> import torch, regard
        >>> x = torch.randn(4, 2, 3, 8, requires_grad=True)
        >>> output, weights = regard.attend(x, x, x, normalizer="sample", return_weights=True)
        >>> soft = regard.weights(x, x)
        >>> reward = -output.detach().square().sum((1, 2, 3))
        >>> ReinforceLoss(entropy=0.01)(weights, reward, soft).backward()

    Xu et al. 2015, section 4.1, with weights $\lambda_r$ and $\lambda_e$ that they tune. Another
    trick of theirs, to look softly in half of all cases, is the caller's choice of normaliser. Williams 1992. PyTorch
    leaves all of it to the user (`torch.distributions`); Keras has no counterpart.
    """

    def __init__(self, *, weight: float = 1.0, entropy: float = 0.0, decay: float = 0.9) -> None:
        super().__init__()
        check_number("weight", weight)
        if not 0.0 <= entropy < float("inf"):
            raise ValueError(f"entropy must be a number of at least 0, it is {entropy!r}")
        self.weight, self.entropy = weight, entropy
        self.baseline = MovingBaseline(decay)

    def forward(self, weights: Tensor, reward: Tensor, soft: Tensor | None = None) -> Tensor:
        """The loss; raises `ValueError` for shapes that do not fit and where `soft` is needed or not."""
        looks = weights.shape[:-1]
        if weights.ndim == 4 and weights.shape[1] == 1 and tuple(reward.shape) == (looks[0], looks[2]):
            reward = reward.unsqueeze(1)
        if weights.ndim < 3 or reward.ndim < 1 or tuple(reward.shape) != tuple(looks[: reward.ndim]):
            raise ValueError(
                f"reward must have the first axes of weights {tuple(weights.shape)}, from (batch,) to "
                f"(batch, ..., query_len), it has shape {tuple(reward.shape)}"
            )
        if (soft is None) != (self.entropy == 0):
            raise ValueError(
                f"soft, the weights that softmax would have given, must be given if entropy is above 0, and only "
                f"then: entropy is {self.entropy}"
            )
        batch = max(weights.shape[0], 1)
        gain = reward.detach() - self.baseline(reward).to(reward)
        gain = gain.reshape(*gain.shape, *(1,) * (len(looks) - gain.ndim))
        loss = -self.weight * (gain * weights.sum(-1)).sum() / batch
        if soft is None:
            return loss
        if soft.shape != weights.shape:
            raise ValueError(
                f"soft must have the shape of weights {tuple(weights.shape)}, it has {tuple(soft.shape)}"
            )
        # Hidden keys have no logarithm.
        logarithm = soft.masked_fill(soft == 0, 1.0).log()
        return loss + self.entropy * (soft * logarithm).sum() / batch

    def extra_repr(self) -> str:
        return f"weight={self.weight}, entropy={self.entropy}"
