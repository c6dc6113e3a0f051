"""What a tensor is multiplied by: one factor, or one for each of its channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

import torch
from torch import Tensor, nn

_STEPS = (0, 2, -1, 3, -3, 1, -2)  # neighbours differ, so that channels that changed places are noticed


@dataclass(frozen=True)
class Scale:
    """Factors of a tensor.

    Attributes:
        values: one for the whole tensor, or one a channel.
        dim: that of the channels, counted from the back (-1 is the last); None for one factor.
        groups: more than 1 for the weight of a grouped convolution: its rows fall into as many parts, each with its
            own part of the channels as columns.
    """

    values: tuple[float, ...]
    dim: int | None = None
    groups: int = 1

    @classmethod
    def uniform(cls, factor: float) -> Scale:
        """The same factor for all."""
        return cls((factor,))

    @property
    def channels(self) -> int:
        return len(self.values)

    def exact(self) -> Scale:
        """The same shape with powers of two, which multiply without rounding.

        An operation that commutes with these exactly commutes with any factors, up to rounding. A single factor stays:
        those of gates are powers of two.
        """
        if self.dim is None:
            return self
        return self.with_values([2.0 ** _STEPS[channel % len(_STEPS)] for channel in range(self.channels)])

    def with_values(self, values: Sequence[float]) -> Scale:
        return replace(self, values=tuple(values))

    def along(self, dim: int | None) -> Scale:
        """The same factors for the channels in another dimension."""
        return replace(self, dim=dim)

    def fits(self, tensor: Tensor | None) -> bool:
        """Whether ``tensor`` has as many channels there as there are factors."""
        if self.dim is None or tensor is None:
            return self.dim is None
        return tensor.ndim >= -self.dim and tensor.shape[self.dim] == self.channels

    def times(self, tensor: Tensor) -> Tensor:
        """``tensor`` times the factors, rounded once, to its own type; factors of 1 change nothing."""
        if self.dim is None:
            return tensor * self.values[0]
        factors = torch.tensor(self.values, dtype=torch.float64).reshape(-1, *[1] * (-self.dim - 1))
        if self.groups > 1:
            by_group = factors.reshape(self.groups, -1, *factors.shape[1:])
            factors = by_group.repeat_interleave(len(tensor) // self.groups, 0)
        if tensor.device.type == "mps":  # which has no float64
            return tensor * factors.to(tensor.device, tensor.dtype)
        return (tensor.double() * factors.to(tensor.device)).to(tensor.dtype)


def multiply(module: nn.Module, by: Mapping[str, Scale]) -> None:
    """Multiply parameters and buffers of ``module``, by their names, in place."""
    with torch.no_grad():
        for name, scale in by.items():
            tensor = attrgetter(name)(module)
            tensor.copy_(scale.times(tensor))
