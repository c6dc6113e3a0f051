"""From the means of channels to their factors, and the gradients of that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Factors = Callable[[Tensor], Tensor]
"""From means (N, C, 1, ...) to factors of that shape."""


@dataclass(frozen=True)
class Returned:
    """What a backward pass gives.

    Attributes:
        factors: as in the forward pass.
        of_mean: the gradient of the means; None where the factors do not depend on them, or nothing asks.
        of_parameters: the gradients of the parameters; None for those that need none.
    """

    factors: Tensor
    of_mean: Tensor | None
    of_parameters: Sequence[Tensor | None]


class Excitation(Protocol):
    """A function of the means and of the block's parameters, and its backward pass."""

    def forth(self, mean: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        """The factors for the means, both (N, C, 1, ...), and the tensors that :meth:`back` needs."""

    def back(
        self, kept: Sequence[Tensor], parameters: Sequence[Tensor], of_factors: Tensor, needed: Sequence[bool]
    ) -> Returned:
        """From the gradient of the factors those of the mean and of each parameter, where they are ``needed``."""


@dataclass(frozen=True)
class ByAutograd:
    """Any function, differentiated by autograd.

    Its graph is small, and is kept from the forward pass by a saved tensor, so that autograd frees it as soon as this
    block's backward pass is done.
    """

    factors: Factors

    def forth(self, mean: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        """See :class:`Excitation`."""
        with torch.enable_grad():
            mean = mean.detach().requires_grad_()
            factors = self.factors(mean)
        return factors.detach(), (mean, factors)

    def back(
        self, kept: Sequence[Tensor], parameters: Sequence[Tensor], of_factors: Tensor, needed: Sequence[bool]
    ) -> Returned:
        """See :class:`Excitation`."""
        mean, factors = kept
        of_mean, *of_parameters = gradients(factors, (mean, *parameters), needed, of_factors.to(factors.dtype))
        return Returned(factors.detach(), of_mean, of_parameters)


@dataclass(frozen=True)
class TwoLayers:
    """``ceiling * sigmoid(fc2(relu(fc1(mean))))``, differentiated by hand.

    Autograd would build a graph, and keep the sigmoid and, where the ceiling is 2, its double.

    Attributes:
        ceiling: 1.0 for the paper's gate, 2.0 for the one that is 1 at zero.
    """

    ceiling: float

    def forth(self, mean: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        """See :class:`Excitation`; the parameters are weight and bias of ``fc1`` and of ``fc2``."""
        weight1, bias1, weight2, bias2 = parameters
        means = mean.flatten(1)
        hidden = F.linear(means, weight1.flatten(1), bias1).relu_()
        factors = F.linear(hidden, weight2.flatten(1), bias2).sigmoid_().mul_(self.ceiling)
        return factors.view_as(mean), (means, hidden, factors)

    def back(
        self, kept: Sequence[Tensor], parameters: Sequence[Tensor], of_factors: Tensor, needed: Sequence[bool]
    ) -> Returned:
        """See :class:`Excitation`."""
        means, hidden, factors = kept
        weight1, _, weight2, _ = parameters
        mean_needs, *need = needed
        of_sigmoid = of_factors.flatten(1).to(factors.dtype) * self.ceiling
        of_logits = torch.ops.aten.sigmoid_backward(of_sigmoid, factors / self.ceiling)
        of_hidden = torch.ops.aten.threshold_backward(of_logits @ weight2.flatten(1), hidden, 0)
        return Returned(
            factors.view_as(of_factors),
            (of_hidden @ weight1.flatten(1)).view_as(of_factors) if mean_needs else None,
            (
                (of_hidden.t() @ means).view_as(weight1) if need[0] else None,
                of_hidden.sum(0) if need[1] else None,
                (of_logits.t() @ hidden).view_as(weight2) if need[2] else None,
                of_logits.sum(0) if need[3] else None,
            ),
        )


def gradients(
    output: Tensor, inputs: Sequence[Tensor], needed: Sequence[bool], grad: Tensor, *, create_graph: bool = False
) -> list[Tensor | None]:
    """Those of the inputs that need one; None for the others. The graph is kept: a user may go backward twice."""
    if not output.requires_grad:
        return [None] * len(inputs)
    wanted = [one for one, needs in zip(inputs, needed, strict=True) if needs]
    found = iter(
        torch.autograd.grad(output, wanted, grad, retain_graph=True, create_graph=create_graph, allow_unused=True)
    )
    return [next(found) if needs else None for needs in needed]
