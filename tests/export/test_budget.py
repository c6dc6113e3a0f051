"""A bound on time: what goes, in which order, and when it ends; with times that are made up."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock

from sesurgeon.blocks import BlockConfig
from sesurgeon.errors import NoSiteError, UntraceableError
from sesurgeon.export import LatencyRatio, fit_latency
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


def made_up(times: dict[str, float], told: list[list[str]]) -> dict[str, Any]:
    """Blocks that take ``times``, and a network that takes ten milliseconds beside them."""

    def measure(base: nn.Module, augmented: nn.Module, inputs: tuple[Any, ...]) -> LatencyRatio:
        assert not blocks_of(base)
        told.append(list(blocks_of(augmented)))
        total = BASE + sum(times[path] for path in blocks_of(augmented))
        return LatencyRatio("torch", 2, BASE, total, total / BASE)

    return {"measure": measure, "each": lambda augmented, inputs: {path: times[path] for path in blocks_of(augmented)}}


def test_the_dearest_for_each_parameter_goes_first(network: nn.Module, found: Survey) -> None:
    told: list[list[str]] = []
    times = {"1.se": 0.5, "2.se": 0.6, "3.se": 1.0}  # the last one has ten times the parameters
    plan, ratio = fit_latency(network, planned(found), found, 0.151, **made_up(times, told))
    assert told == [["1.se", "2.se", "3.se"], ["1.se", "3.se"]]
    assert [entry.site for entry in plan.entries] == [planned(found).entries[i].site for i in (0, 2)]
    assert ratio.ratio == pytest.approx(1.15)
    dropped = plan.left_alone[-1]
    assert dropped.path == "2.se"
    assert "0.6 ms" in dropped.reason
    assert list(blocks_of(apply_plan(network, plan))) == ["1.se", "3.se"]


def test_what_fits_stays_whole(network: nn.Module, found: Survey) -> None:
    told: list[list[str]] = []
    plan, _ = fit_latency(
        network, planned(found), found, 0.1, **made_up(dict.fromkeys(("1.se", "2.se", "3.se"), 0.1), told)
    )
    assert plan == planned(found)
    assert len(told) == 1


def test_a_block_goes_each_time_though_the_medians_alone_would_fit(network: nn.Module, found: Survey) -> None:
    told: list[int] = []

    def measure(base: nn.Module, augmented: nn.Module, inputs: tuple[Any, ...]) -> LatencyRatio:
        told.append(len(blocks_of(augmented)))
        assert told == sorted(set(told), reverse=True)  # fewer each time
        return LatencyRatio("torch", 2, BASE, 10.4, 1.04 if told[-1] == 1 else 1.06)  # pairs are not their medians

    times = made_up(dict.fromkeys(("1.se", "2.se", "3.se"), 0.15), [])
    plan, ratio = fit_latency(network, planned(found), found, 0.05, **{**times, "measure": measure})
    assert told == [3, 2, 1]
    assert (len(plan.entries), ratio.ratio) == (1, 1.04)


def test_no_more_go_than_must_though_most_of_their_time_is_outside_them(network: nn.Module, found: Survey) -> None:
    def measure(base: nn.Module, augmented: nn.Module, inputs: tuple[Any, ...]) -> LatencyRatio:
        total = BASE + 0.4 * len(blocks_of(augmented))
        return LatencyRatio("torch", 2, BASE, total, total / BASE)

    within = made_up(dict.fromkeys(("1.se", "2.se", "3.se"), 0.1), [])
    plan, ratio = fit_latency(network, planned(found), found, 0.081, **{**within, "measure": measure})
    assert (len(plan.entries), ratio.ratio) == (2, 1.08)
    assert "0.4 ms" in plan.left_alone[-1].reason


def test_it_ends_where_nothing_fits_or_nothing_can_be_timed(network: nn.Module, found: Survey) -> None:
    told: list[list[str]] = []
    with pytest.raises(NoSiteError, match=r"takes more than 5\.0 % extra time"):
        fit_latency(network, planned(found), found, 0.05, **made_up(dict.fromkeys(("1.se", "2.se", "3.se"), 5.0), told))
    failing = {"measure": lambda *_: LatencyRatio("torch", 2, failure="it is tired")}
    with pytest.raises(UntraceableError, match="it is tired"):
        fit_latency(network, planned(found), found, 0.05, **failing)  # type: ignore[arg-type]
