"""Steps with a single image, on which some networks cannot train."""

from __future__ import annotations

import torch
from torch import nn

from sesurgeon.errors import UsageError
from sesurgeon.finetune.data.sampler import UpdateSampler
from sesurgeon.finetune.scoring.forward import as_input
from sesurgeon.finetune.task import Task
from sesurgeon.finetune.training.phases import set_train_mode
from sesurgeon.models.copies import copy_of
from sesurgeon.modules import device_of
from sesurgeon.randomness import untouched

_OF_TORCH = "Expected more than 1 value per channel"


def check_single_images(model: nn.Module, task: Task, updates: UpdateSampler, *, sync_bn: bool) -> None:
    """If there will be steps with a single image, try one on a copy of the network.

    A BatchNorm behind the pooling sees one value per channel then, which has no variance.

    Raises:
        UsageError: the network has such a BatchNorm, and trains it.
    """
    if updates.fewest > 1 or (sync_bn and updates.size.processes > 1):
        return
    trial = copy_of(model)
    image = as_input(torch.zeros(1, *task.preprocessing.input_size), trial)
    try:
        with torch.no_grad(), untouched(device_of(trial)):
            for phase in task.phases:
                set_train_mode(trial, phase, task.new)
                trial(image)
    except ValueError as error:
        if _OF_TORCH not in str(error):
            raise
        raise UsageError(
            "Steps have a single image here, and a BatchNorm of the network, behind its pooling, cannot train on one "
            f"value per channel: batch_size (={updates.size.batch_size}), grad_accum_steps (={updates.size.steps}), "
            f"{updates.images} training images.",
            hint="Give --batch-size 2 or more, fewer --grad-accum-steps, or more images.",
        ) from error
