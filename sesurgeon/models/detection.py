"""What torchvision's detection networks take: a list of images, and in train mode the true objects in each.

https://docs.pytorch.org/vision/stable/models.html#object-detection-instance-segmentation-and-person-keypoint-detection
"""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sesurgeon.blocks import Block

_HOME = "torchvision.models.detection."
_HEIGHT = 64  # two places at stride 32, the last of a ResNet
_OBJECTS = 2
_PERSON_KEYPOINTS = 17


def is_detector(model: nn.Module) -> bool:
    """Whether ``model`` is a whole detection network of torchvision's, or of a class derived from one.

    Known by name, so that torchvision is not imported for a network that has nothing to do with it.
    """
    return detects(model) and isinstance(getattr(model, "transform", None), nn.Module)


def detects(model: nn.Module) -> bool:
    """Whether ``model`` is a detection network of torchvision's or a part of one, or of a class derived from these."""
    return any(kind.__module__.startswith(_HOME) for kind in type(model).__mro__)


def image_sizes(model: nn.Module) -> Iterator[tuple[int, int]]:
    """Heights and widths of images for a detector, the one that costs least first.

    Its own transform scales every image until its shorter side has ``min_size`` pixels or its longer one ``max_size``
    (800 and 1333 as published), so that small images are no cheaper. A narrow image of the largest length is not
    scaled, and has a tenth of the places. So nothing of the network has to be changed.
    """
    transform: Any = model.transform
    if getattr(transform, "fixed_size", None):  # SSD scales every image to this
        width, height = transform.fixed_size
        yield height, width
        return
    yield _HEIGHT, getattr(transform, "max_size", 16 * _HEIGHT)
    yield 2 * _HEIGHT, 2 * _HEIGHT


def with_targets(model: nn.Module, images: Sequence[Tensor] | Tensor) -> Iterator[tuple[Any, ...]]:
    """Arguments for a pass of a detector in train mode: ``images``, and objects in each, as the network wants them.

    The objects are of class 1, or else of class 0, which is the only class of some networks and the background of
    others.

    Args:
        model: the network; masks and keypoints are given to those that learn them.
        images: of shape (channels, height, width) each.
    """
    for label in (1, 0):
        yield images, [_objects(model, image, label) for image in images]


@contextlib.contextmanager
def witnesses(model: nn.Module, followed: Container[str] = ()) -> Iterator[list[Tensor]]:
    """Copies of the tensors that a detector's children, and theirs, return meanwhile; none for another network.

    A detector may find nothing in noise, and two empty lists of boxes are equal without proving anything. Children
    without parameters, such as those that lay out anchors, say nothing of what it computes.

    Args:
        model: the network.
        followed: paths of modules within which tensors may be others than before: their children are no witnesses.
    """
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _arguments: Any, output: Any) -> None:
        seen.extend(leaf.detach().clone() for leaf in tree_leaves(output) if isinstance(leaf, Tensor))

    paths = [path for path, _ in model.named_modules() if path and path.count(".") < 2] if is_detector(model) else []
    parts = [model.get_submodule(path) for path in paths if path.rpartition(".")[0] not in followed]
    # blocks were not there before surgery
    telling = [part for part in parts if not isinstance(part, Block) and next(part.parameters(), None) is not None]
    hooks = [part.register_forward_hook(keep) for part in telling]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _objects(model: nn.Module, image: Tensor, label: int) -> dict[str, Tensor]:
    height, width = image.shape[-2:]
    side = min(height, width)
    boxes = torch.tensor([[0.125, 0.125, 0.625, 0.75], [0.25, 0.0, 0.9375, 0.5]]).to(image) * side
    objects = {"boxes": boxes, "labels": torch.full((_OBJECTS,), label, device=image.device)}
    heads = getattr(model, "roi_heads", None)
    if getattr(heads, "mask_predictor", None) is not None:
        objects["masks"] = torch.ones((_OBJECTS, height, width), dtype=torch.uint8, device=image.device)
    predictor = getattr(heads, "keypoint_predictor", None)
    if predictor is not None:
        last = getattr(predictor, "kps_score_lowres", None)
        points = getattr(last, "out_channels", _PERSON_KEYPOINTS)
        centre = torch.tensor([0.375, 0.375, 1.0]).to(image) * torch.tensor([side, side, 1.0]).to(image)  # in sight
        objects["keypoints"] = centre.expand(_OBJECTS, points, 3).clone()
    return objects
