"""The network before surgery: a small residual CNN, trained in the usual way."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sesurgeon.finetune import Data, batches, preprocessing_for
from sesurgeon.randomness import seeded

_WIDTH = 12
_BATCH_SIZE = 64


def small_resnet(classes: int) -> nn.Sequential:
    """Three of torchvision's residual blocks, for 8x8 grey images. All parts come from torch and torchvision."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, _WIDTH, 3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(_WIDTH),
            relu=nn.ReLU(inplace=True),
            block1=_residual(_WIDTH, _WIDTH),
            block2=_residual(_WIDTH, 2 * _WIDTH, stride=2),
            block3=_residual(2 * _WIDTH, 4 * _WIDTH, stride=2),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(4 * _WIDTH, classes),
        )
    )


def train_network(data: Data, *, epochs: int, seed: int, on_epoch: Callable[[int, float], None]) -> nn.Sequential:
    """Train a network on ``data`` with AdamW, one cycle of the learning rate, and shifts by one pixel.

    It is returned in eval mode. ``on_epoch`` gets the number of epochs done and the mean loss of the last one. The
    caller's random state is left as it was.
    """
    with seeded(seed):
        model = small_resnet(len(data.classes))
        images, labels = _all_images(model, data)
        steps = -(-len(images) // _BATCH_SIZE)
        optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=epochs * steps)
        for epoch in range(epochs):
            losses = []
            for chosen in torch.randperm(len(images)).chunk(steps):
                loss = F.cross_entropy(model(_shifted(images[chosen])), labels[chosen])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without types
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
            on_epoch(epoch + 1, sum(losses) / len(losses))
    return model.eval()


def _all_images(model: nn.Module, data: Data) -> tuple[Tensor, Tensor]:
    """The training set as two tensors, prepared as for evaluation."""
    parts = list(batches(data, preprocessing_for(model, data.split("train")), "train"))
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


def _shifted(images: Tensor) -> Tensor:
    """A batch, (N, C, H, W), shifted as a whole by at most one pixel in each direction; edges are repeated."""
    height, width = images.shape[2:]
    top, left = torch.randint(3, (2,)).tolist()
    return F.pad(images, (1, 1, 1, 1), mode="replicate")[..., top : top + height, left : left + width]


def _residual(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    from torchvision.models.resnet import BasicBlock

    shortcut = None
    if inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    block: nn.Module = BasicBlock(inputs, outputs, stride, shortcut)
    return block
