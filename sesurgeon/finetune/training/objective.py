"""What a step minimises: the labels' loss, and the distance from the network as it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sesurgeon.finetune.config import FinetuneConfig
from sesurgeon.finetune.scoring.outputs import main_logits
from sesurgeon.finetune.training.multilabel import MultiLabelLoss, multi_label_distillation_loss, positive_weights


def distillation_loss(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of softened outputs, times the temperature's square (Hinton et al., section 2.1).

    So its gradient keeps its size whatever the temperature (https://arxiv.org/abs/1503.02531).

    Args:
        logits: of the student, shape (N, classes).
        wanted: of the teacher, likewise.
        temperature: above 0.
    """
    student = F.log_softmax(logits / temperature, dim=1)
    teacher = F.log_softmax(wanted / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


@dataclass(frozen=True, eq=False)
class Objective:
    """A loss that is a plain mean over images, so that parts of an update add up to the whole.

    Attributes:
        criterion: labels' loss of each image, shape (N,).
        mixing: timm's Mixup; None where images stay apart.
        teacher: the network whose outputs are to be kept, in eval mode; None without distillation.
        weight: of the distance from the teacher; the labels get the rest.
        temperature: at which outputs are compared.
        distance: of the outputs from the teacher's at a temperature, mean over the images.
    """

    criterion: nn.Module
    mixing: Any | None = None
    teacher: nn.Module | None = None
    weight: float = 0.0
    temperature: float = 1.0
    distance: Callable[[Tensor, Tensor, float], Tensor] = distillation_loss

    def mixed(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) and targets: class indices (N,); or probabilities (N, classes) of mixed images, and where
        an image may have several labels.

        A last batch of odd size stays as it is: timm mixes pairs.
        """
        if self.mixing is None or len(images) % 2:
            return images, labels
        mixed: tuple[Tensor, Tensor] = self.mixing(images, labels)
        return mixed

    def loss(self, output: Any, targets: Tensor, images: Tensor) -> Tensor:
        """The mean over the images of what the model gave for them."""
        logits = main_logits(output).float()
        if self.teacher is None:
            return self._from_labels(logits, targets)
        with torch.no_grad():
            wanted = main_logits(self.teacher(images)).float()
        distance = self.distance(logits, wanted, self.temperature)
        if self.weight == 1:
            return distance
        return self.weight * distance + (1 - self.weight) * self._from_labels(logits, targets)

    def _from_labels(self, logits: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = self.criterion(logits, targets).mean()
        return loss


def make_objective(
    config: FinetuneConfig, counts: Sequence[int], images: int, device: torch.device, teacher: nn.Module | None
) -> Objective:
    """The objective that ``config`` asks for.

    Args:
        config: of the run.
        counts: training images by output index of the model; only their number matters without ``class_weights``.
        images: how many training images there are.
        device: where it is computed.
        teacher: the network as it was; needed for distillation.
    """
    criterion: nn.Module
    if config.multi_label:
        weights = torch.tensor(positive_weights(counts, images), device=device) if config.class_weights else None
        criterion = MultiLabelLoss(config.smoothing, weights)
    else:
        weights = torch.tensor(balancing_weights(counts), device=device) if config.class_weights else None
        criterion = nn.CrossEntropyLoss(weights, label_smoothing=config.smoothing, reduction="none")
    return Objective(
        criterion=criterion,
        mixing=_mixing(config, len(counts)),
        teacher=teacher if config.distill > 0 else None,
        weight=config.distill,
        temperature=config.kd_temperature,
        distance=multi_label_distillation_loss if config.multi_label else distillation_loss,
    )


def balancing_weights(counts: Sequence[int]) -> list[float]:
    """A weight for each class by which all of those that have images count alike; 1 on average over the images."""
    present = sum(count > 0 for count in counts)
    return [sum(counts) / (present * count) if count else 0.0 for count in counts]


def _mixing(config: FinetuneConfig, classes: int) -> Any | None:
    if config.mixup == config.cutmix == 0:
        return None
    from timm.data import Mixup

    several = {"multi_label": True} if config.multi_label else {}  # which older versions of timm do not have
    # smoothing is left to the criterion, which smooths mixed targets as well
    return Mixup(config.mixup, config.cutmix, label_smoothing=0.0, num_classes=classes, **several)
