"""Constants for blocks of real networks go into the layers beside them."""

from __future__ import annotations

import pytest
import torch

import sesurgeon
from sesurgeon.surgery import blocks_of, plan_of, replace_block, survey_below
from tests.networks import trained_like

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "policy", "takers"),
    [
        ("torchvision:resnet18", "standard", {"bn2"}),
        ("torchvision:resnet18", "inner", {"bn1"}),
        ("torchvision:mobilenet_v2", "standard", {"2", "3"}),  # the norms of the projections
        ("torchvision:mobilenet_v2", "inner", {"1", "2"}),  # behind a ReLU6: the projections
        ("timm:efficientnet_lite0", "standard", {"bn2", "bn3"}),
        ("timm:efficientnet_lite0", "inner", {"conv_pw", "conv_pwl"}),
        ("timm:convnext_atto", "standard", {"fc2"}),
        ("torchvision:googlenet", "standard", {"bn"}),
    ],
)
def test_every_block_gives_way_to_constants(name: str, policy: str, takers: set[str]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = sesurgeon.add_se(trained_like(sesurgeon.load(name)), torch.randn(2, 3, 96, 96), policy=policy)
        plan = plan_of(model)
        assert plan is not None
        found = survey_below(model, plan)
        for path, entry in zip(blocks_of(model), plan.entries, strict=True):
            replacement = replace_block(model, path, torch.rand(entry.channels) * 1.5 + 0.2, found)
            assert {tensor.split(".")[-2] for tensor in replacement.tensors} <= takers
            assert replacement.tensors
