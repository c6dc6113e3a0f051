"""The network as it came to a run, to be kept in mind."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sesurgeon.finetune.scoring.outputs import as_input, evaluating
from sesurgeon.models.copies import copy_of
from sesurgeon.models.files.own_weights import take_weights


def make_teacher(model: nn.Module, images: Tensor) -> nn.Module:
    """A frozen copy of ``model`` in eval mode; without its blocks, which cost time, where they change nothing.

    Args:
        model: as it comes to the run.
        images: of shape (N, C, H, W), on which that is tried.
    """
    from sesurgeon.surgery import blocks_of, remove_se

    teacher = copy_of(model)
    if blocks_of(model):
        bare = remove_se(teacher)
        images = as_input(images, model)
        with evaluating(teacher), evaluating(bare), torch.no_grad():
            teacher = bare if torch.equal(bare(images), teacher(images)) else teacher
    return teacher.requires_grad_(False).eval()


def teacher_again(model: nn.Module, weights: Mapping[str, Tensor], origin: str) -> nn.Module:
    """The teacher of a run that goes on.

    Args:
        model: the network as it is now.
        weights: tensors of what :func:`make_teacher` gave.
        origin: the file that they come from.

    Raises:
        UnreadableFileError: they are of another network.
    """
    from sesurgeon.surgery import blocks_of, remove_se

    had_blocks = any(name.startswith(f"{path}.") for path in blocks_of(model) for name in weights)
    teacher = copy_of(model) if had_blocks else remove_se(model)
    take_weights(teacher, weights, origin)
    return teacher.requires_grad_(False).eval()
