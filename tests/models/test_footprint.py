"""A footprint finds every attribute and container that was changed, and puts back the very objects."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from sesurgeon.models.footprint import Footprint


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.register_buffer("mean", torch.zeros(4))
        self.seen: list[Any] = []
        self.names, self.sizes = ["a", "b"], {"a": 1, "b": 2}
        self.counts, self.meter = {"all": ({"n": 0},)}, SimpleNamespace(n=0, last=[])
        self.order, self.kinds = OrderedDict(a=1, b=2), {"a", "b"}
        self.scale = 1000


def network() -> nn.Sequential:
    return nn.Sequential(Holder(), nn.Sequential(Holder()))


CHANGES: list[tuple[str, Callable[[Any], Any]]] = [
    ("scale", lambda holder: setattr(holder, "scale", holder.scale + 0.0)),  # equal, but another object
    ("scale", lambda holder: delattr(holder, "scale")),
    ("extra", lambda holder: setattr(holder, "extra", None)),
    ("training", lambda holder: holder.eval()),
    ("seen", lambda holder: holder.seen.append(1)),
    ("names", lambda holder: holder.names.reverse()),
    ("names", lambda holder: holder.names.clear()),
    ("sizes", lambda holder: holder.sizes.update(c=3)),
    ("sizes", lambda holder: holder.sizes.update(a=[])),
    ("order", lambda holder: holder.order.move_to_end("a")),
    ("kinds", lambda holder: holder.kinds.add("c")),
    ("counts", lambda holder: holder.counts["all"][0].update(n=1)),
    ("meter", lambda holder: setattr(holder.meter, "n", 1)),
    ("meter", lambda holder: holder.meter.last.append(1)),
    ("_parameters", lambda holder: setattr(holder.conv, "weight", nn.Parameter(torch.ones(4, 3, 1, 1)))),
    ("_buffers", lambda holder: setattr(holder, "mean", torch.ones(4))),
    ("_modules", lambda holder: delattr(holder, "conv")),
    ("_modules", lambda holder: holder.add_module("another", nn.ReLU())),
    ("_forward_hooks", lambda holder: holder.register_forward_hook(print)),
]


@pytest.mark.parametrize(("name", "change"), CHANGES)
def test_a_change_is_named_and_taken_back(name: str, change: Callable[[Any], Any]) -> None:
    model = network()
    holder = model[1][0]
    attributes, containers = (
        dict(vars(holder)),
        {key: list(getattr(holder, key)) for key in ("names", "sizes", "order")},
    )
    weight, mean = holder.conv.weight, holder.mean
    footprint = Footprint(model)
    assert footprint.restore() == []
    change(holder)
    assert name in footprint.restore()
    assert footprint.restore() == []
    assert list(vars(holder)) == list(attributes)
    assert all(value is attributes[key] for key, value in vars(holder).items())
    assert {key: list(getattr(holder, key)) for key in containers} == containers
    assert list(holder._modules) == ["conv"]
    assert holder.conv.weight is weight
    assert holder.mean is mean
    assert not holder.seen
    assert not holder._forward_hooks
    assert (holder.counts, holder.meter) == ({"all": ({"n": 0},)}, SimpleNamespace(n=0, last=[]))
    assert all(module.training for module in model.modules())


def test_one_module_and_what_is_below_it_can_be_put_back_alone() -> None:
    model = network()
    footprint = Footprint(model)
    model[0].scale = model[1][0].scale = 1
    assert footprint.restore(model[1]) == ["scale"]
    assert model[1][0].scale == 1000
    assert model[0].scale == 1
    assert footprint.restore() == ["scale"]
    assert model[0].scale == 1000


def test_what_was_taken_out_is_put_back_whole() -> None:
    model = network()
    inner = model[1]
    footprint = Footprint(model)
    inner[0].seen.append(1)
    model[1] = nn.Identity()
    assert sorted(footprint.restore()) == ["_modules", "seen"]
    assert model[1] is inner
    assert inner[0].seen == []


def test_a_module_that_is_used_twice_is_looked_at_once() -> None:
    shared = Holder()
    model = nn.Sequential(shared, nn.Sequential(shared))
    footprint = Footprint(model)
    shared.scale = 1
    assert footprint.restore() == ["scale"]


def test_objects_that_hold_each_other_and_the_network_come_to_an_end() -> None:
    model = network()
    holder = model[1][0]
    holder.meter.owner, holder.meter.itself, holder.names = [model], holder.meter, list(range(10**5))
    footprint = Footprint(model)
    model[0].scale = 1
    holder.meter.n = 1
    assert footprint.restore(holder) == ["meter"]
    assert footprint.restore() == ["scale"]


def test_two_footprints_are_compared_in_depth() -> None:
    model = network()
    before = Footprint(model)
    model[0].meter.last.append(1)
    assert before.differences(Footprint(model)) == {"meter"}
