"""The teacher of distillation: a frozen copy of the network before training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sesurgeon.finetune.scoring.forward import as_input, evaluating, main_logits
from sesurgeon.models.copies import copy_of
from sesurgeon.models.files.own_weights import take_weights


def make_teacher(model: nn.Module, images: Tensor) -> nn.Module:
    """A frozen copy of ``model`` in eval mode; without its blocks, which cost time, if its outputs stay the same.

    Args:
        model: the network before training.
        images: to compare the outputs on, of shape (N, C, H, W).
    """
    from sesurgeon.surgery import blocks_of, remove_se

    teacher = copy_of(model)
    if blocks_of(model):
        bare = remove_se(teacher)
        images = as_input(images, model)
        with evaluating(teacher), evaluating(bare), torch.no_grad():
            same = torch.equal(main_logits(bare(images)), main_logits(teacher(images)))
            teacher = bare if same else teacher
    return teacher.requires_grad_(False).eval()


def restore_teacher(model: nn.Module, weights: Mapping[str, Tensor], origin: str) -> nn.Module:
    """The teacher of a resumed run.

    Args:
        model: the network in training.
        weights: the tensors of the teacher that :func:`make_teacher` made.
        origin: the file that they come from.

    Raises:
        UnreadableFileError: the weights belong to another network.
    """
    from sesurgeon.surgery import blocks_of, remove_se

    had_blocks = any(name.startswith(f"{path}.") for path in blocks_of(model) for name in weights)
    teacher = copy_of(model) if had_blocks else remove_se(model)
    take_weights(teacher, weights, origin)
    return teacher.requires_grad_(False).eval()
