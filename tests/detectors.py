"""torchvision's detection networks in small, around a backbone of the tests' own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, KeypointRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.ssd import SSD
from torchvision.ops import MultiScaleRoIAlign

from tests.networks import ResidualBlock, trained_like

KINDS = ("faster", "mask", "keypoint", "retina", "fcos", "ssd")
_WIDTH = 8  # FCOS has norms of 32 groups, so 32 there
_KEYPOINTS = 3


class Backbone(nn.Sequential):
    """A stem of stride 4 and one residual block, whose dropout reads ``self.training``."""

    def __init__(self, width: int = _WIDTH, out_channels: int | list[int] = _WIDTH) -> None:
        super().__init__(nn.Conv2d(3, width, 3, 4, 1), ResidualBlock(width))
        self.out_channels = out_channels


def detector(kind: str, classes: int = 3) -> nn.Module:
    """One of ``KINDS``, with the same weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return trained_like(_made(kind, classes)).eval()


def objects_in(images: list[Tensor]) -> list[dict[str, Tensor]]:
    """A target for each image."""
    return [{"boxes": torch.tensor([[2.0, 3.0, 20.0, 25.0]]), "labels": torch.tensor([1])} for _ in images]


def _made(kind: str, classes: int) -> nn.Module:
    sizes: dict[str, Any] = {"min_size": 32, "max_size": 64}
    anchors = AnchorGenerator(((16,),), ((1.0,),))
    if kind == "ssd":
        boxes = DefaultBoxGenerator([[2]], scales=[0.3, 0.6], steps=[4])
        return SSD(Backbone(out_channels=[_WIDTH]), boxes, (32, 32), classes)
    if kind == "retina":
        return RetinaNet(Backbone(), classes, anchor_generator=anchors, **sizes)
    if kind == "fcos":
        return FCOS(Backbone(32, 32), classes, anchor_generator=anchors, **sizes)
    heads: dict[str, Any] = {
        "num_classes": None,
        "rpn_anchor_generator": anchors,
        "box_roi_pool": MultiScaleRoIAlign(["0"], 3, 1),
        "box_head": nn.Sequential(nn.Flatten(), nn.Linear(9 * _WIDTH, 8)),
        "box_predictor": _Boxes(8, classes),
        "box_score_thresh": 0.0,
        "box_detections_per_img": 5,
        "rpn_post_nms_top_n_train": 20,
        "rpn_post_nms_top_n_test": 20,
        **sizes,
    }
    if kind == "mask":
        heads |= {"mask_roi_pool": MultiScaleRoIAlign(["0"], 4, 1), "mask_head": MaskRCNNHeads(_WIDTH, (8,), 1)}
        return MaskRCNN(Backbone(), **heads, mask_predictor=MaskRCNNPredictor(8, 8, classes))
    if kind == "keypoint":
        heads |= {
            "keypoint_roi_pool": MultiScaleRoIAlign(["0"], 4, 1),
            "keypoint_head": KeypointRCNNHeads(_WIDTH, (8,)),
        }
        return KeypointRCNN(Backbone(), **heads, keypoint_predictor=KeypointRCNNPredictor(8, _KEYPOINTS))
    return FasterRCNN(Backbone(), **heads)


class _Boxes(nn.Module):
    """Scores and boxes, as ``FastRCNNPredictor``."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(features, classes)
        self.bbox_pred = nn.Linear(features, classes * 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(x), self.bbox_pred(x)
