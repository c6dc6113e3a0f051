"""What a copy of a network can do that the network can."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from sesurgeon.models import copy_of, view_of


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
@pytest.mark.parametrize("copied_by", [copy_of, view_of])
def test_a_part_in_torchscript_can_be_trained(copied_by: Callable[[nn.Module], nn.Module]) -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)))
    list(scripted.parameters())[2].requires_grad_(False)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), scripted)
    copied = copied_by(model)
    assert all(parameter.is_leaf for parameter in copied.parameters())
    assert [one.requires_grad for one in copied.parameters()] == [one.requires_grad for one in model.parameters()]
    copied(torch.ones(2, 3, 2, 2)).square().sum().backward()
    torch.optim.SGD(copied.parameters(), lr=1.0).step()
    assert not torch.equal(copied.state_dict()["1.0.weight"], model.state_dict()["1.0.weight"])
