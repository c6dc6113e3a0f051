"""Small networks that a checkpoint can name: the folder of a test file is importable. And what a checkpoint holds."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from sesurgeon import load


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.bn(self.conv(x)))


class TinyNet(nn.Module):
    """A residual network for grey images."""

    def __init__(self, classes: int = 2, channels: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.block = Residual(8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(0.1)
        self.fc = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(torch.relu(self.bn(self.stem(x))))
        return self.fc(self.drop(self.pool(x).flatten(1)))


class HeadFirst(nn.Module):
    """Declares its head before its backbone, the last layer of which could be taken for one."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.fc = nn.Linear(8, classes)
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.block = Residual(8)
        self.mix = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.mix(self.block(self.stem(x))).mean((2, 3)))


def weights(path: Path) -> dict[str, Tensor]:
    return load(path, trust_pickle=True).state_dict()
