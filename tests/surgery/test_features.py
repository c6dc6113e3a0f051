"""A network with blocks is still one that torchvision takes features from."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torchvision.models.feature_extraction import create_feature_extractor

import sesurgeon
from sesurgeon.blocks import BlockName


@pytest.mark.parametrize("block", ["se", "ge", "cbam"])
def test_features_are_those_inside_the_network(block: BlockName) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 32)
    model = sesurgeon.add_se(torchvision.models.resnet18(), images, block=block)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.05)
    features = create_feature_extractor(model, ["layer4", "fc"])  # traced in both modes
    for training in (True, False):
        found, logits = features.train(training)(images), model.train(training)(images)
        torch.testing.assert_close(found["fc"], logits)
        assert found["layer4"].shape == (2, 512, 1, 1)
