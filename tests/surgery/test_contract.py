"""What every policy with every block must keep on every kind of network."""

from __future__ import annotations

import copy
import functools

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from sesurgeon import NoSiteError, remove_se
from sesurgeon.blocks import BlockConfig
from sesurgeon.graph import Survey, same, survey
from sesurgeon.placement import POLICIES, Filters, plan_from_survey
from sesurgeon.surgery import blocks_of
from sesurgeon.surgery.add import operate_by
from tests.networks import FunctionalResNet, OddNet, PlainNet, trained_like


class Sequence1d(nn.Module):
    """A residual network on signals."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(2, 8, 3, 2, 1), nn.BatchNorm1d(8), nn.ReLU())
        self.conv1, self.conv2 = nn.Conv1d(8, 8, 3, padding=1), nn.Conv1d(8, 8, 3, padding=1)
        self.norm1, self.norm2 = nn.BatchNorm1d(8), nn.BatchNorm1d(8)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return self.fc(x.mean(-1))


NETWORKS = {
    "odd": (OddNet, (2, 3, 16, 16)),
    "plain": (PlainNet, (2, 3, 16, 16)),
    "functional": (FunctionalResNet, (2, 3, 16, 16)),
    "one-dimensional": (Sequence1d, (2, 2, 32)),
    "video": (lambda: torchvision.models.video.r3d_18(num_classes=3), (2, 3, 4, 32, 32)),
    "channels last": (
        lambda: timm.create_model("convnext_tiny", depths=(1, 1, 1, 1), dims=(8, 16, 16, 16), num_classes=3),
        (2, 3, 64, 64),
    ),
    "inverted residuals": (
        lambda: torchvision.models.mobilenet_v2(width_mult=0.25, num_classes=3),
        (2, 3, 64, 64),
    ),
}
BLOCKS = {
    "se": BlockConfig("se"),
    "ese": BlockConfig("ese"),
    "eca": BlockConfig("eca"),
    # of so few channels timm's own width is a single one, which a ReLU may have shut
    "cbam": BlockConfig("cbam", rd_channels=4),
    "gc": BlockConfig("gc", rd_channels=4),
    "ge": BlockConfig("ge", rd_channels=4),
}
EVERY_RUN = {("odd", "standard"), ("one-dimensional", "pre"), ("channels last", "inner"), ("video", "identity"),
             ("functional", "post"), ("plain", "conv")}  # fmt: skip


@functools.cache
def surveyed(network: str) -> Survey:
    torch.manual_seed(0)
    make, shape = NETWORKS[network]
    return survey(trained_like(make()), torch.randn(shape))


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(("network", "policy"), [
    pytest.param(network, policy, marks=[] if (network, policy) in EVERY_RUN else pytest.mark.slow)
    for network in NETWORKS for policy in POLICIES
])  # fmt: skip
def test_the_contract(network: str, policy: str, block: str) -> None:
    found = surveyed(network)
    model, images = found.model, found.inputs[0]
    keys = list(model.state_dict())
    try:
        plan = plan_from_survey(found, [policy], BLOCKS[block], Filters())
    except NoSiteError:
        assert network == "plain"
        assert policy not in ("standard", "conv")
        return
    surgery = operate_by(plan, found)
    augmented = surgery.model

    assert (surgery.proof.in_eval, surgery.proof.in_train) == (True, True)
    others = torch.randn(images.shape, generator=torch.Generator().manual_seed(3))
    for training in (False, True):
        assert same(*(run(net, others, training=training) for net in (model, augmented)))
    new = [key for key in augmented.state_dict() if key not in set(keys)]
    assert [key for key in augmented.state_dict() if key in set(keys)] == keys
    inside = tuple(f"{path}." for path in blocks_of(augmented))
    assert len(inside) == len(plan.entries) > 0
    assert all(key.startswith(inside) for key in new)

    trained = copy.deepcopy(augmented)
    assert unreached(trained, images) == []
    assert same(run(copy.deepcopy(trained), others, training=False), run(trained, others, training=False))
    base = remove_se(augmented)
    assert list(base.state_dict()) == keys
    assert type(base) is type(model)
    assert same(run(base, others, training=False), run(model, others, training=False))


def run(network: nn.Module, images: Tensor, *, training: bool) -> Tensor:
    torch.manual_seed(1)
    with torch.no_grad():
        return copy.deepcopy(network).train(training)(images.clone())  # type: ignore[no-any-return]


def unreached(network: nn.Module, images: Tensor) -> list[str]:
    """Parameters of blocks without a gradient in the second of two steps, whatever was drawn.

    A mask may drop all images of a branch, and a ReLU let none through: what got no gradient is tried again from the
    start, with other random numbers.
    """
    names = [f"{path}.{name}" for path, block in blocks_of(network).items() for name, _ in block.named_parameters()]
    # timm's gc has that bias, but a softmax does not see what all its inputs share
    left = {name for name in names if not name.endswith("conv_attn.bias")}
    for seed in range(5):
        tried = copy.deepcopy(network)
        train_two_steps(tried, images, seed)
        left -= {name for name, one in tried.named_parameters() if one.grad is not None and one.grad.any()}
    network.load_state_dict(tried.state_dict())
    return sorted(left)


def train_two_steps(network: nn.Module, images: Tensor, seed: int) -> None:
    torch.manual_seed(seed)
    network.train()
    optimizer = torch.optim.SGD([p for block in blocks_of(network).values() for p in block.parameters()], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        output = network(images.clone())
        (output * torch.randn(output.shape)).sum().backward()
        optimizer.step()
