"""Gates: from an excitation's logits to the factors that scale the channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TwiceSigmoid(nn.Module):
    """``2 * sigmoid(z)``: exactly 1.0 at z = 0 in fp32, fp16 and bf16, with slope 1/2 there.

    A plain sigmoid can only approach 1, where its gradient dies; this one starts open and alive
    (CaSE, https://arxiv.org/abs/2206.09843).
    """

    def forward(self, logits: Tensor) -> Tensor:
        """Map logits of any shape to factors in (0, 2)."""
        return 2 * torch.sigmoid(logits)
