"""What all blocks share: they scale a tensor by the factors of a gate, and can make their gates plain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sesurgeon.blocks.gates import without_factor
from sesurgeon.blocks.kernel.excitation import Excitation
from sesurgeon.blocks.kernel.scaling import scaled_by_mean
from sesurgeon.blocks.layout import Convolution, Layout, Squeeze

_FACTOR = "gate_scale"  # in the metadata of a state dict


class Block(nn.Module):
    """What surgery inserts: a module from a tensor to a scaled tensor of the same shape."""

    def scalings(self) -> Sequence[Scaling]:
        """The parts that scale the tensor, in the order in which they do."""
        raise NotImplementedError

    def hidden(self) -> tuple[Convolution, Convolution] | None:
        """The layers before and behind the hidden units of the excitation.

        None where there are no such units, or where nothing can shift them because the layer before has no bias.
        """
        return None

    @property
    def gate_scale(self) -> float:
        """The factor between this block and the same block with plain gates; 1.0 where there is none."""
        factors = [plain[1] for part in self.scalings() if (plain := without_factor(part.gate)) is not None]
        return math.prod(factors, start=1.0)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        # beside the version, so that no key is new: by their keys weights from before and after a fold look alike
        getattr(destination, "_metadata", {}).get(prefix[:-1], {})[_FACTOR] = self.gate_scale

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        there = local_metadata.get(_FACTOR, self.gate_scale)
        if there != self.gate_scale:
            error_msgs.append(
                f"{prefix[:-1]}: these weights are for a gate with a factor of {there:g}, here it is "
                f"{self.gate_scale:g}: one of the two was folded (sesurgeon.fold_gate_scale), the other was not."
            )
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def fold(self) -> float | None:
        """Make the gates plain, in place; the tensor before the block is to be multiplied by their factor instead.

        The block's weights that read this tensor are divided by the factor. All factors are powers of two, so nothing
        is rounded.

        Returns:
            The s with ``folded_block(s * x) == block(x)``, bit for bit; 1.0 where the gates are plain already; None
            where there is no such factor, and then nothing was changed: 1 + tanh is no multiple of tanh, and a weight
            that is almost zero may have no exact half.
        """
        s = 1.0
        steps = []
        for part in reversed(self.scalings()):
            plain = without_factor(part.gate)
            if plain is None:
                return None
            gate, factor = plain
            s *= factor
            steps.append((part, gate, s))
        if not all(_divides(weight, by) for part, _, by in steps for weight in part.readers()):
            return None
        for part, gate, by in steps:
            for weight in part.readers():
                with torch.no_grad():
                    weight.div_(by)
            part.gate = gate
        return s


class Scaling(Block):
    """``x * excitation(x)``, with the factors from one gate."""

    layout: Layout
    gate: nn.Module

    def excitation(self, x: Tensor) -> Tensor:
        """The factors by which ``x`` is scaled: they broadcast to the shape of ``x``."""
        raise NotImplementedError

    def readers(self) -> Sequence[Tensor]:
        """The weights that are applied to ``x``, or to something proportional to it."""
        raise NotImplementedError

    def by_channel(self, factors: Tensor) -> Tensor:
        """The gate's factors for a batch as (N, channels, places), of one channel where all channels share them."""
        return factors.flatten(2) if factors.ndim > 2 else factors[..., None]

    def scalings(self) -> Sequence[Scaling]:
        return (self,)

    def forward(self, x: Tensor) -> Tensor:
        """Scale ``x`` of shape (N, C, *places), or (N, *places, C) for ``channel_dim=-1``; the shape stays.

        N may be missing.
        """
        return x * self.excitation(x)

    def extra_repr(self) -> str:
        return f"channel_dim={self.layout.channel_dim}"


class Squeezing(Scaling):
    """``x * factors(squeeze(x))``: the mean or the maximum over all places says by how much."""

    squeeze: Squeeze

    def factors(self, squeezed: Tensor) -> Tensor:
        """From means or maxima (N, C, 1, ...) to factors of the same shape.

        Must use no other tensor that needs gradients than these and the block's parameters.
        """
        raise NotImplementedError

    def excitation(self, x: Tensor) -> Tensor:
        """The factors by which ``x`` is scaled: as ``x``, but of size 1 in every spatial dimension."""
        return self.layout.restored(self.factors(self.layout.squeezed(x, self.squeeze)))

    def forward(self, x: Tensor) -> Tensor:
        """As :meth:`Scaling.forward`."""
        if self.squeeze == "avg":
            return scaled_by_mean(x, self)
        return super().forward(x)

    def by_hand(self, x: Tensor, parameters: Sequence[Tensor]) -> Excitation | None:
        """:meth:`factors` with hand-written gradients, for the means of ``x``; None where nobody wrote them.

        Args:
            x: what is scaled.
            parameters: all of the block's.
        """
        return None

    def extra_repr(self) -> str:
        return f"squeeze={self.squeeze}, {super().extra_repr()}"


def zero_(layer: nn.Module) -> None:
    """Set all parameters of ``layer`` to zero: the last one before a gate that is 1 at zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def oppose_(layer: Convolution) -> None:
    """Make every second unit of a random layer the negative of the one before it, and the first one's sum positive.

    So of each two units one passes the ReLU behind them, whatever the input. By chance, in one of 2 ** units blocks all
    units would be off for all images, and such a block never learns.
    """
    with torch.no_grad():
        layer.weight[0] *= layer.weight[0].sum().sign()
        for parameter in layer.parameters():
            parameter[1::2] = -parameter[:-1:2]


def _divides(weight: Tensor, by: float) -> bool:
    """Whether ``weight / by`` is exact: false for the smallest numbers of a floating-point format."""
    divided = weight.detach() / by
    return torch.equal(divided * by, weight)
