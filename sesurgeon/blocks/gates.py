"""Gates: from an excitation's logits to the factors that scale the channels.

Every gate has two forms. The plain one is the paper's. The other is exactly 1 at zero with a live gradient, so that
a block whose last layer is zero starts as the identity and learns. A plain sigmoid can only approach 1, where its
gradient dies; twice a sigmoid starts open and alive (CaSE, https://arxiv.org/abs/2206.09843).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GateName = Literal["sigmoid", "hard-sigmoid", "tanh"]


class TwiceSigmoid(nn.Module):
    """``2 * sigmoid(z)``: exactly 1.0 at z = 0 in fp32, fp16 and bf16, with slope 1/2 there."""

    def forward(self, logits: Tensor) -> Tensor:
        """Map logits of any shape to factors in (0, 2)."""
        return 2 * torch.sigmoid(logits)


class TwiceHardSigmoid(nn.Module):
    """``2 * relu6(z + 3) / 6``: exactly 1.0 at z = 0 in fp32, fp16 and bf16, with slope 1/3 there.

    The hard sigmoid is that of MobileNetV3, https://arxiv.org/abs/1905.02244.
    """

    def forward(self, logits: Tensor) -> Tensor:
        """Map logits of any shape to factors in [0, 2]."""
        return 2 * F.hardsigmoid(logits)


class OnePlusTanh(nn.Module):
    """``1 + tanh(z)``: exactly 1.0 at z = 0, with slope 1 there (GCT, https://arxiv.org/abs/1909.11519)."""

    def forward(self, logits: Tensor) -> Tensor:
        """Map logits of any shape to factors in [0, 2]."""
        return 1 + torch.tanh(logits)


@dataclass(frozen=True)
class Gate:
    """One gate in its two forms.

    Attributes:
        identity: the form that is 1 at zero.
        plain: the paper's form.
        scale: ``identity(z) / plain(z)``, a power of two and so exact; None where that is no constant.
    """

    identity: type[nn.Module]
    plain: type[nn.Module]
    scale: float | None


GATES: dict[GateName, Gate] = {
    "sigmoid": Gate(TwiceSigmoid, nn.Sigmoid, 2.0),
    "hard-sigmoid": Gate(TwiceHardSigmoid, nn.Hardsigmoid, 2.0),
    "tanh": Gate(OnePlusTanh, nn.Tanh, None),
}


def make_gate(name: GateName, *, identity: bool) -> nn.Module:
    """The gate of that name: the form that is 1 at zero, or the plain one."""
    gate = GATES[name]
    return gate.identity() if identity else gate.plain()


def without_factor(gate: nn.Module) -> tuple[nn.Module, float] | None:
    """The plain gate p and the factor s with ``gate(z) == s * p(z)`` bit for bit; None where there are none."""
    kind = next((kind for kind in GATES.values() if type(gate) is kind.identity), None)
    if kind is None:
        return gate, 1.0
    return None if kind.scale is None else (kind.plain(), kind.scale)


def ceiling_of(gate: nn.Module) -> float:
    """The largest factor that a gate of ours can give: 1 for a plain one, 2 for one that is 1 at zero."""
    return 2.0 if any(type(gate) is kind.identity for kind in GATES.values()) else 1.0
