"""The losses for images with several labels: each output is a binary classifier of its own."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class MultiLabelLoss(nn.Module):
    """Binary cross-entropy of each image: the mean over the classes, shape (N,).

    Args:
        smoothing: targets are moved by this share of the way to 0.5, as timm does it.
        positive_weights: for each output, what the images that show its class weigh; None for 1.
    """

    def __init__(self, smoothing: float = 0.0, positive_weights: Tensor | None = None) -> None:
        super().__init__()
        self.smoothing = smoothing
        self.positive_weights = positive_weights

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits and targets in [0, 1], both of shape (N, classes)."""
        smoothed = targets * (1 - self.smoothing) + 0.5 * self.smoothing
        losses = F.binary_cross_entropy_with_logits(
            logits, smoothed, pos_weight=self.positive_weights, reduction="none"
        )
        return losses.mean(1)


def positive_weights(counts: Sequence[int], images: int) -> list[float]:
    """For each class, the weight that gives the images that show it the same total weight as the others.

    Args:
        counts: how many images show each class; if none does, the weight is 1.
        images: how many images there are.
    """
    # if all show it, the weight would be 0, and nothing would be learned
    return [max(images - count, 1) / count if count else 1.0 for count in counts]


def multi_label_distillation_loss(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Like :func:`distillation_loss`, for each output by itself; the mean over images and classes.

    Args:
        logits: of the student, shape (N, classes).
        wanted: of the teacher, of the same shape.
        temperature: divides both; above 0.
    """
    student, teacher = logits / temperature, wanted / temperature
    shares = teacher.sigmoid()
    ours = F.binary_cross_entropy_with_logits(student, shares)
    return (ours - F.binary_cross_entropy_with_logits(teacher, shares)) * temperature**2
