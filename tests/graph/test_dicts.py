"""Modules that take and give dictionaries, as backbones and feature pyramids do."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FeaturePyramidNetwork

from sesurgeon.blocks import BlockConfig
from sesurgeon.graph import survey
from sesurgeon.surgery import operate


class Pyramid(nn.Module):
    """torchvision's body and feature pyramid, and what follows on the values of a dictionary."""

    def __init__(self, neck: type[nn.Module]) -> None:
        super().__init__()
        self.body = IntermediateLayerGetter(resnet18(width_per_group=64), {"layer1": "0", "layer2": "1"})
        self.neck = neck()

    def forward(self, x: Tensor) -> Any:
        return self.neck(self.body(x))


class Torchvisions(FeaturePyramidNetwork):
    def __init__(self) -> None:
        super().__init__([64, 128], 8)


class OfValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lateral, self.conv = nn.Conv2d(128, 64, 1), nn.Conv2d(64, 64, 3, 1, 1)

    def forward(self, maps: dict[str, Tensor]) -> Tensor:
        fine, coarse = maps.values()
        fine = fine + F.interpolate(self.lateral(coarse), scale_factor=2)
        return fine + F.relu(self.conv(fine))


class OfItems(OfValues):
    def forward(self, maps: dict[str, Tensor]) -> Tensor:
        named = {f"map{name}": x for name, x in maps.items()}
        return super().forward(named)


@pytest.mark.parametrize("neck", [Torchvisions, OfValues, OfItems])
def test_bodies_and_necks_are_followed(neck: type[nn.Module]) -> None:
    found = survey(Pyramid(neck), torch.randn(2, 3, 32, 32))
    assert found.left_alone == ()
    assert {"", "body", "neck"} <= set(found.graphs[False].graphs)
    assert any(site.owner == "body" for site in found.sites)


def test_a_body_that_is_rewritten_gives_an_ordered_dictionary_still() -> None:
    images = torch.randn(2, 3, 32, 32)
    model = Pyramid(OfValues).body
    surgery = operate(model, BlockConfig(), policies=("conv",), example_inputs=images)
    assert ".:conv" in {entry.site for entry in surgery.plan.entries}
    assert (surgery.proof.in_eval, surgery.proof.in_train) == (True, True)
    assert type(surgery.model(images)) is OrderedDict
