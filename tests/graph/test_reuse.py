"""A graph of eval mode is taken for train mode where nothing can be different, and only there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sesurgeon.graph.tracing.local_graphs import trace_local_graphs

X = torch.randn(2, 4, 6, 6)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.calls = 0

    def body(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(x))
        return y

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + x


class AsksItself(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.body(x), 0.5, self.training) + x


class AsksAChild(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) if self.bn.training else self.body(x) + x


class OwnMode(Block):
    training = property(lambda self: self.bn.training, lambda self, value: None)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) if self.training else self.body(x) + x


class OwnTrain(Block):
    def train(self, mode: bool = True) -> OwnTrain:
        self.calls = int(mode)
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.calls


class Crops(nn.Sequential):
    """Gives its parent less in train mode."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self[0](x)
        return y[:, :, : 3 if self.training else 6]


class GetsLess(Block):
    def __init__(self) -> None:
        super().__init__()
        self.crop = Crops(nn.Conv2d(4, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.crop(x)
        return self.body(y) + x if y.shape == x.shape else self.body(y)


class Writes(Block):
    """Its first layer writes into what it was given in train mode alone."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Sequential(nn.Dropout(0.5, inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.start(x)) + x


class HoldsAList(Block):
    def __init__(self) -> None:
        super().__init__()
        self.parts = [nn.Dropout(0.5)]

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.parts[0](self.body(x))
        return y + x


class OfAnotherClass:
    """No module: what is in it is in no footprint."""

    def __init__(self) -> None:
        self.on = False


class Switched(Block):
    def __init__(self) -> None:
        super().__init__()
        self.switch = OfAnotherClass()

    def train(self, mode: bool = True) -> Switched:
        self.switch.on = mode
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) if self.switch.on else self.body(x) + x


def paths_taken(model: nn.Module, inputs: tuple[Any, ...] = (X,), in_train: tuple[Any, ...] = (X,)) -> set[str]:
    in_eval = trace_local_graphs(model, inputs, training=False)
    trained = trace_local_graphs(model, in_train, training=True, known=in_eval)
    anew = trace_local_graphs(model, in_train, training=True)
    assert {path: str(graph) for path, graph in trained.graphs.items()} == {
        path: str(graph) for path, graph in anew.graphs.items()
    }
    assert list(trained.graphs) == list(anew.graphs)
    assert trained.unfollowed == anew.unfollowed
    return {path for path, graph in trained.graphs.items() if graph is in_eval.graphs.get(path)}


def test_a_forward_that_asks_for_no_mode_is_traced_once() -> None:
    assert paths_taken(nn.Sequential(Block(), nn.Sequential(Block()))) == {"", "0", "1", "1.0"}
    assert "training" not in vars(nn.Module)


@pytest.mark.parametrize("make", [AsksItself, AsksAChild, GetsLess, Writes, HoldsAList])
def test_one_that_may_see_the_mode_is_traced_in_each(make: type[nn.Module]) -> None:
    taken = paths_taken(nn.Sequential(Block(), make()))
    assert "1" not in taken
    assert "0" in taken


@pytest.mark.parametrize("make", [OwnMode, OwnTrain, Switched])
def test_nothing_is_taken_where_a_class_has_a_way_of_its_own_with_modes(make: type[nn.Module]) -> None:
    assert paths_taken(nn.Sequential(Block(), make())) == set()


def test_what_a_forward_sets_hinders_no_other_module() -> None:
    class Counts(Block):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                self.calls += 1
            return self.body(x) + x

    assert paths_taken(nn.Sequential(Block(), Counts())) == {"", "0"}


def test_other_arguments_are_traced() -> None:
    model = nn.Sequential(Block(), nn.Sequential(Block()))
    assert paths_taken(model, in_train=(torch.randn(2, 4, 8, 8),)) == set()
    assert paths_taken(model, in_train=(X.double().float().to(memory_format=torch.channels_last),)) == set()
