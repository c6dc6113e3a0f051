from __future__ import annotations

from torch import nn

from sesurgeon.placement.architecture import architecture_of


class Counting(nn.Conv2d):
    """Keeps something in the state dict that is no tensor."""

    def get_extra_state(self) -> object:
        return {"calls": 3}

    def set_extra_state(self, state: object) -> None:
        pass


def net(width: int) -> nn.Module:
    return nn.Sequential(Counting(3, width, 1), nn.Flatten(), nn.Linear(width, 2))


def test_extra_state_does_not_enter() -> None:
    assert "0._extra_state" in net(4).state_dict()
    assert architecture_of(net(4)) == architecture_of(net(4))
    assert architecture_of(net(4)) != architecture_of(net(5))
