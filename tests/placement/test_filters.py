"""Which of a policy's sites are kept."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from sesurgeon import NoSiteError, UsageError, make_plan
from sesurgeon.graph import Site, find_sites
from sesurgeon.placement import POLICIES, Filters, plan_from_data, plan_to_data, plan_to_yaml
from tests.networks import PlainNet

IMAGES = torch.randn(2, 3, 64, 64)


@pytest.fixture(scope="module")
def residuals() -> list[Site]:
    return POLICIES["standard"](find_sites(torchvision.models.resnet18(), IMAGES))


@pytest.fixture(scope="module")
def units() -> list[Site]:
    return POLICIES["conv"](find_sites(torchvision.models.mobilenet_v2(), IMAGES))


def owners(sites: list[Site]) -> list[str]:
    return [site.owner for site in sites]


def test_kernel_sizes_are_numbers_or_shapes(units: list[Site]) -> None:
    spatial = Filters(kernel=[3]).keep(units)
    assert len(spatial) == 18  # the stem and 17 depthwise ones
    assert Filters(kernel=[(3, 3)]).keep(units) == spatial
    assert len(Filters(kernel=[1, 3]).keep(units)) == len(units) == 52
    with pytest.raises(NoSiteError, match=r"--kernel 5") as caught:
        Filters(kernel=[5]).keep(units)
    assert caught.value.hint == f"Sites before it: {', '.join(site.id for site in units[:5])}, …. Sizes: 1x1, 3x3."


@pytest.mark.parametrize(
    ("kernel", "sizes"),
    [
        (7, ["7x7"]),
        ([1, 7], ["1x1", "7x7"]),
        ((1, 7), ["1x1", "7x7"]),
        ([(1, 7)], ["1x7"]),
        (((1, 7), (7, 1)), ["1x7", "7x1"]),
    ],
    ids=str,
)
def test_kernel_lists_sizes_and_a_size_of_two_numbers_stands_in_that_list(kernel: Any, sizes: list[str]) -> None:
    net = nn.Sequential()
    for size in ((1, 1), (1, 7), (7, 1), (7, 7)):
        unit = nn.Sequential(nn.Conv2d(4, 4, size, padding=(size[0] // 2, size[1] // 2)), nn.ReLU())
        net.add_module("{}x{}".format(*size), unit)
    net.add_module("pool", nn.AvgPool2d(2))
    plan = make_plan(net, torch.randn(2, 4, 16, 16), policy="conv", kernel=kernel)
    assert [entry.site.partition(".")[0] for entry in plan.entries] == sizes


def test_depthwise_convolutions_alone_or_none_of_them(units: list[Site]) -> None:
    assert len(Filters(depthwise=True).keep(units)) == 17
    assert len(Filters(depthwise=False).keep(units)) == 35


def test_filters_of_convolutions_let_other_sites_pass(residuals: list[Site]) -> None:
    assert Filters(kernel=[7], depthwise=True).keep(residuals) == residuals


def test_the_last_stage_is_skipped(residuals: list[Site]) -> None:
    assert owners(Filters(skip_last_stage=True).keep(residuals)) == [f"layer{s}.{b}" for s in (1, 2, 3) for b in (0, 1)]
    # it is the policy's last stage, whatever else is asked for
    assert owners(Filters(stages=[3, 4], skip_last_stage=True).keep(residuals)) == [
        f"layer{s}.{b}" for s in (2, 3) for b in (0, 1)
    ]


def test_every_second_is_counted_after_the_other_filters(residuals: list[Site]) -> None:
    assert owners(Filters(every=2).keep(residuals)) == [f"layer{s}.0" for s in (1, 2, 3, 4)]
    assert owners(Filters(every=3, exclude=["layer1.*"]).keep(residuals)) == ["layer2.0", "layer3.1"]


@pytest.mark.parametrize(("settings", "words"), [
    ({"every": 0}, "every (=0) must be a whole number, at least 1"),
    ({"every": 1.5}, "every (=1.5) must be a whole number"),
    ({"min_channels": 0}, "min_channels (=0) must be a whole number, at least 1"),
    ({"min_channels": "8"}, "min_channels (='8') must be a whole number"),
    ({"include": None}, "include (=None) must be globs"),
    ({"exclude": [3]}, "exclude (=(3,)) must be globs"),
    ({"stages": 1.0}, "stages (=1.0) must be whole numbers"),
    ({"stages": "1"}, "stages (=('1',)) must be whole numbers"),
    ({"kernel": "3"}, "kernel (=('3',)) must be sizes"),
    ({"kernel": [[3, 3]]}, "kernel (=([3, 3],)) must be sizes"),
    ({"depthwise": "yes"}, "depthwise (='yes') must be one of: True, False, None"),
    ({"skip_last_stage": 2}, "skip_last_stage (=2) must be one of: True, False"),
    ({"policy": None}, "policy (=None) must be a name, or a list of names"),
    ({"policy": [["conv"]]}, "policy (=[['conv']]) must be a name"),
    ({"every": 0, "stages": 1.5}, "stages (=1.5) must be whole numbers; every (=0)"),
])  # fmt: skip
def test_what_no_site_can_be_chosen_by_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        make_plan(PlainNet(), torch.randn(2, 3, 16, 16), **settings)


@pytest.mark.parametrize(
    ("given", "as_usual"),
    [
        ({"min_channels": np.int64(9)}, {"min_channels": 9}),
        ({"every": np.int32(2)}, {"every": 2}),
        ({"stages": np.array([0, 1])}, {"stages": [0, 1]}),
        ({"stages": np.int64(1)}, {"stages": 1}),
        ({"stages": (stage for stage in (0, 1))}, {"stages": [0, 1]}),
        ({"include": (f"{number}:*" for number in (2, 5))}, {"include": ["2:*", "5:*"]}),
        ({"policy": (name for name in ("conv",))}, {"policy": ["conv"]}),
        ({"kernel": [np.int64(3)]}, {"kernel": [3]}),
        ({"rd_ratio": np.float32(0.25), "rd_divisor": np.int64(4)}, {"rd_ratio": 0.25, "rd_divisor": 4}),
        ({"rd_channels": np.int64(4)}, {"rd_channels": 4}),
    ],
)
def test_numbers_of_numpy_and_iterators_are_taken(given: dict[str, Any], as_usual: dict[str, Any]) -> None:
    net, images = PlainNet(), torch.randn(2, 3, 16, 16)
    plan = make_plan(net, images, **{"policy": "conv", **given})
    assert plan == make_plan(net, images, **{"policy": "conv", **as_usual})
    assert plan_from_data(plan_to_data(plan)) == plan
    assert plan_to_yaml(plan)  # which knows none of NumPy's


def test_an_empty_selection_lists_the_nearest_ids() -> None:
    with pytest.raises(NoSiteError, match=r"No site is left after --include 3:conv") as caught:
        make_plan(PlainNet(), torch.randn(2, 3, 16, 16), include=["3:conv"])
    assert caught.value.hint is not None
    assert "2:conv" in caught.value.hint


def test_a_pattern_that_matches_nothing_is_a_warning() -> None:
    plan = make_plan(PlainNet(), torch.randn(2, 3, 16, 16), include=["2:*"], exclude=["9:*"])
    assert plan.warnings == ("The pattern '9:*' matches no site of the policy.",)
    assert [entry.site for entry in plan.entries] == ["2:conv"]


def test_filters_of_convolutions_say_so_where_the_policy_has_none() -> None:
    plan = make_plan(torchvision.models.resnet18().eval(), policy="standard", kernel=3, depthwise=False)
    assert plan.warnings == (
        "--kernel is for conv sites, of which the policy has none.",
        "--[no-]depthwise is for conv sites, of which the policy has none.",
    )
    assert make_plan(torchvision.models.resnet18().eval(), policy="conv", kernel=3).warnings == ()
