"""A bound on time: what goes, in which order, and when it ends; with times that are made up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock

from sesurgeon.blocks import BlockConfig
from sesurgeon.errors import NoSiteError, UntraceableError
from sesurgeon.export import BlockShare, LatencyRatio, fit_latency
from sesurgeon.export.cost import budget
from sesurgeon.graph import Survey, survey
from sesurgeon.placement import Filters, Plan, plan_from_survey
from sesurgeon.surgery import apply_plan, blocks_of

BASE = 10.0


@pytest.fixture
def network() -> nn.Module:
    down = nn.Sequential(nn.Conv2d(8, 32, 1), nn.BatchNorm2d(32))
    blocks = [BasicBlock(8, 8), BasicBlock(8, 8), BasicBlock(8, 32, downsample=down)]
    return nn.Sequential(nn.Conv2d(3, 8, 3), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3))


@pytest.fixture
def found(network: nn.Module) -> Survey:
    return survey(network, torch.randn(2, 3, 8, 8))


def planned(found: Survey) -> Plan:
    return plan_from_survey(found, ("standard",), BlockConfig(), Filters())


class Timings:
    """Blocks that take ``times``, and by default a network that takes ten milliseconds beside them.

    Attributes:
        measure: times a network, given the paths of its blocks; may be replaced.
        told: these paths, for each network that was timed.
    """

    def __init__(self) -> None:
        self.times = dict.fromkeys(("1.se", "2.se", "3.se"), 0.1)
        self.told: list[list[str]] = []
        self.measure: Callable[[list[str]], LatencyRatio] = lambda blocks: taking(sum(map(self.times.get, blocks)))

    def of_networks(self, base: nn.Module, augmented: nn.Module, *_: Any, **options: Any) -> list[LatencyRatio]:
        assert not blocks_of(base)
        assert options == {"batches": (2,), "runtimes": ("torch",)}
        self.told.append(list(blocks_of(augmented)))
        return [self.measure(self.told[-1])]

    def of_blocks(self, augmented: nn.Module, inputs: Any) -> list[BlockShare]:
        return [BlockShare(path, 2, self.times[path], 0.1) for path in blocks_of(augmented)]


def taking(added: float) -> LatencyRatio:
    return LatencyRatio("torch", 2, BASE, BASE + added, (BASE + added) / BASE)


@pytest.fixture
def timings(monkeypatch: pytest.MonkeyPatch) -> Timings:
    made_up = Timings()
    monkeypatch.setattr(budget, "measure_latency", made_up.of_networks)
    monkeypatch.setattr(budget, "block_shares", made_up.of_blocks)
    return made_up


def test_the_dearest_for_each_parameter_goes_first(network: nn.Module, found: Survey, timings: Timings) -> None:
    timings.times = {"1.se": 0.5, "2.se": 0.6, "3.se": 1.0}  # the last one has ten times the parameters
    plan, ratio = fit_latency(network, planned(found), found, 0.151)
    assert timings.told == [["1.se", "2.se", "3.se"], ["1.se", "3.se"]]
    assert [entry.site for entry in plan.entries] == [planned(found).entries[i].site for i in (0, 2)]
    assert ratio.ratio == pytest.approx(1.15)
    dropped = plan.left_alone[-1]
    assert dropped.path == "2.se"
    assert "0.6 ms" in dropped.reason
    assert list(blocks_of(apply_plan(network, plan))) == ["1.se", "3.se"]


def test_what_fits_stays_whole(network: nn.Module, found: Survey, timings: Timings) -> None:
    plan, _ = fit_latency(network, planned(found), found, 0.1)
    assert plan == planned(found)
    assert len(timings.told) == 1


def test_a_block_goes_each_time_though_the_medians_alone_would_fit(
    network: nn.Module, found: Survey, timings: Timings
) -> None:
    # pairs are not their medians
    timings.measure = lambda blocks: LatencyRatio("torch", 2, BASE, 10.4, 1.04 if len(blocks) == 1 else 1.06)
    plan, ratio = fit_latency(network, planned(found), found, 0.05)
    assert list(map(len, timings.told)) == [3, 2, 1]
    assert (len(plan.entries), ratio.ratio) == (1, 1.04)


def test_no_more_go_than_must_though_most_of_their_time_is_outside_them(
    network: nn.Module, found: Survey, timings: Timings
) -> None:
    timings.measure = lambda blocks: taking(0.4 * len(blocks))
    plan, ratio = fit_latency(network, planned(found), found, 0.081)
    assert (len(plan.entries), ratio.ratio) == (2, 1.08)
    assert "0.4 ms" in plan.left_alone[-1].reason


def test_it_ends_where_nothing_fits_or_nothing_can_be_timed(
    network: nn.Module, found: Survey, timings: Timings
) -> None:
    timings.times = dict.fromkeys(timings.times, 5.0)
    with pytest.raises(NoSiteError, match=r"takes more than 5\.0 % extra time"):
        fit_latency(network, planned(found), found, 0.05)
    timings.measure = lambda blocks: LatencyRatio("torch", 2, failure="it is tired")
    with pytest.raises(UntraceableError, match="it is tired"):
        fit_latency(network, planned(found), found, 0.05)
