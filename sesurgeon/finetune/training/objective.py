"""What training minimises: the loss on the labels, and the distance from the teacher."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sesurgeon.errors import UsageError
from sesurgeon.finetune.config import FinetuneConfig
from sesurgeon.finetune.scoring.forward import main_logits
from sesurgeon.finetune.training.multilabel import MultiLabelLoss, multi_label_distillation_loss, positive_weights


def distillation_loss(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the softened outputs, times the square of the temperature.

    The square keeps the size of the gradients independent of the temperature (Hinton et al., section 2.1,
    https://arxiv.org/abs/1503.02531).

    Args:
        logits: of the student, shape (N, classes).
        wanted: of the teacher, of the same shape.
        temperature: divides both; above 0.
    """
    student = F.log_softmax(logits / temperature, dim=1)
    teacher = F.log_softmax(wanted / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


@dataclass(frozen=True, eq=False)
class Distillation:
    """The distance from a teacher's outputs, as a part of the loss.

    Attributes:
        teacher: the network to stay close to, in eval mode.
        weight: of the distance; the labels get the rest.
        temperature: of the distance.
        distance: of the outputs from the teacher's, the mean over the images.
    """

    teacher: nn.Module
    weight: float
    temperature: float
    distance: Callable[[Tensor, Tensor, float], Tensor]

    def distance_of(self, logits: Tensor, images: Tensor) -> Tensor:
        """How far a student's ``logits`` (N, classes) for the images are from the teacher's."""
        with torch.no_grad():
            wanted = main_logits(self.teacher(images)).float()
        return self.distance(logits, wanted, self.temperature)


@dataclass(frozen=True, eq=False)
class Objective:
    """A loss that is a plain mean over images, so that parts of an update add up to the whole.

    Attributes:
        criterion: the loss of each image on its labels, shape (N,).
        mixing: timm's Mixup; None without mixup and CutMix.
        distillation: None without a teacher.
    """

    criterion: nn.Module
    mixing: Any | None = None
    distillation: Distillation | None = None

    def mixed(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) and their targets: class indices (N,), or probabilities (N, classes) if images were mixed
        or have several labels.

        A last batch of odd size is left as it is: timm mixes pairs.
        """
        if self.mixing is None or len(images) % 2:
            return images, labels
        mixed: tuple[Tensor, Tensor] = self.mixing(images, labels)
        return mixed

    def loss(self, output: Any, targets: Tensor, images: Tensor) -> Tensor:
        """The mean loss over the images, from the model's ``output`` for them."""
        logits = main_logits(output).float()
        if self.distillation is None:
            return self._from_labels(logits, targets)
        distance, weight = self.distillation.distance_of(logits, images), self.distillation.weight
        if weight == 1:  # the labels may mean nothing
            return distance
        return weight * distance + (1 - weight) * self._from_labels(logits, targets)

    def _from_labels(self, logits: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = self.criterion(logits, targets).mean()
        return loss


def make_objective(
    config: FinetuneConfig,
    classes: int,
    images: int,
    device: torch.device,
    *,
    counts: Sequence[int] | None = None,
    teacher: nn.Module | None = None,
) -> Objective:
    """The objective that ``config`` asks for.

    Args:
        config: of the run.
        classes: how many outputs the model has.
        images: how many training images there are.
        device: where it is computed.
        counts: training images of each output, to weight the classes by; None for a loss without weights.
        teacher: the network before training, or another; None without distillation.
    """
    criterion: nn.Module
    distance = multi_label_distillation_loss if config.multi_label else distillation_loss
    if config.multi_label:
        weights = None if counts is None else torch.tensor(positive_weights(counts, images), device=device)
        criterion = MultiLabelLoss(config.smoothing, weights)
    else:
        weights = None if counts is None else torch.tensor(balancing_weights(counts), device=device)
        criterion = nn.CrossEntropyLoss(weights, label_smoothing=config.smoothing, reduction="none")
    return Objective(
        criterion,
        _mixing(config, classes),
        None if teacher is None else Distillation(teacher, config.distill, config.kd_temperature, distance),
    )


def balancing_weights(counts: Sequence[int]) -> list[float]:
    """Weights that give all classes with images the same total weight; their mean over the images is 1."""
    present = sum(count > 0 for count in counts)
    return [sum(counts) / (present * count) if count else 0.0 for count in counts]


def check_mixing(config: FinetuneConfig) -> None:
    """Refuse to mix images with several labels if the installed timm cannot.

    Raises:
        UsageError: timm is older than 1.0.31.
    """
    import timm
    from timm.data import Mixup

    known = "multi_label" in inspect.signature(Mixup).parameters
    if config.multi_label and not config.mixup == config.cutmix == 0 and not known:
        raise UsageError(
            f"mixup (={config.mixup:g}) and cutmix (={config.cutmix:g}) with multi_label need timm 1.0.31 or newer; "
            f"installed is {timm.__version__}.",
            hint="pip install 'timm>=1.0.31', or leave --mixup and --cutmix out.",
        )


def _mixing(config: FinetuneConfig, classes: int) -> Any | None:
    if config.mixup == config.cutmix == 0:
        return None
    from timm.data import Mixup

    several = {"multi_label": True} if config.multi_label else {}  # see check_mixing
    # smoothing is left to the criterion, which smooths mixed targets as well
    return Mixup(config.mixup, config.cutmix, label_smoothing=0.0, num_classes=classes, **several)
