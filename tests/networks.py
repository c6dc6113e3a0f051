"""Small networks that tests operate on: odd but legal code, as people write it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """A sum in place, an activation used twice, functional dropout that reads ``self.training``."""

    def __init__(self, channels: int, stride: int = 1, width: int | None = None) -> None:
        super().__init__()
        width = width or channels
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.act = nn.ReLU(inplace=True)
        self.stride = stride

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        if shortcut is None:
            shortcut = x
        x = self.act(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        x = F.dropout(x, 0.1, training=self.training)
        x += shortcut
        return self.act(x)


class SizedBlock(nn.Module):
    """Another computation for small images."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if x.shape[-1] > 8:
            y = 2 * y
        return x + y


class DropConnectBlock(nn.Module):
    """Takes a float that steers it, and draws a random mask by shape, as EfficientNet's first PyTorch code."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels)
        self.project = nn.Conv2d(channels, channels, 1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor, rate: float | None = None) -> Tensor:
        inputs = x
        x = self.norm(self.project(F.relu6(self.conv(x))))
        if rate:
            x = self.drop(x, rate)
        return x + inputs

    def drop(self, x: Tensor, rate: float) -> Tensor:
        if not self.training:
            return x
        keep = 1 - rate
        mask = keep
        mask += torch.rand([x.shape[0], 1, 1, 1], dtype=x.dtype, device=x.device)  # rebinds a number
        return x / keep * torch.floor(mask)


class Inception(nn.Module):
    """Four branches and a concatenation, one branch with a nested one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(channels, 4, 1)
        self.b = nn.Sequential(nn.Conv2d(channels, 4, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1))
        self.c = nn.Conv2d(channels, 2, 3, padding=1)
        self.d = nn.Conv2d(channels, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        nested = torch.cat([self.c(x), self.d(x)], 1)
        return F.relu(torch.cat([self.a(x), self.b(x), nested, F.max_pool2d(x, 3, 1, 1)], dim=1))


class OddNet(nn.Module):
    """A loop over a plain list of calls, a float argument, a shape that steers, a layer used twice."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.shared = ResidualBlock(8)
        self.blocks = nn.ModuleList([DropConnectBlock(8), DropConnectBlock(8)])
        self.mixed = Inception(8)
        self.last = ResidualBlock(22)
        self.fc = nn.Linear(22, classes)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] % 2:
            x = F.pad(x, (0, 1, 0, 1))
        x = self.stem(x)
        x = self.shared(self.shared(x))
        for index, block in enumerate(self.blocks):
            x = block(x, rate=0.2 * (index + 1))
        x = self.last(self.mixed(x[:, :8]))
        return self.fc(x.mean((2, 3)))

    def features_of(self, x: Tensor) -> Tensor:
        """A method of its own, which surgery must not lose."""
        return self.stem(x)


class PlainNet(nn.Sequential):
    """VGG in small: the units lie in a Sequential."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(16, 5),
        )  # fmt: skip


class FunctionalResNet(nn.Module):
    """All in one forward, without blocks: two sums, a projection in one."""

    def __init__(self) -> None:
        super().__init__()
        self.c0, self.c1, self.c2 = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.c3, self.c4 = nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1)
        self.project = nn.Conv2d(8, 16, 1, 2)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.c0(x))
        x = F.relu(torch.add(self.c2(F.relu(self.c1(x))), x))
        x = F.relu(self.c4(F.relu(self.c3(x))).add_(self.project(x)))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def conv(channels: int = 8, out: int = 8) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size."""
    return nn.Conv2d(channels, out, 3, padding=1)


class Residual(nn.Module):
    """``branch(x) + x``."""

    def __init__(self, *branch: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + x


def trained_like(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every norm layer weights and statistics as training would: a fresh zero would hide what is behind it."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.ndim == 1:
            weight.data.copy_(torch.rand(weight.shape, generator=generator) + 0.5)
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) * 0.1)
    return model


def assert_same_weights(model: nn.Module, expected: nn.Module) -> None:
    """Names in the same order, and values bit for bit."""
    own = model.state_dict()
    assert list(own) == list(expected.state_dict())
    assert all(torch.equal(own[name], value) for name, value in expected.state_dict().items())
