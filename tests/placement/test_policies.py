"""Which sites each policy of the paper takes, on networks of different kinds."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from sesurgeon import NoSiteError, UsageError, make_plan
from sesurgeon.graph import Site, find_sites
from sesurgeon.placement import POLICIES, choose
from tests.networks import FunctionalResNet, OddNet, PlainNet

IMAGES = torch.randn(2, 3, 64, 64)


@pytest.fixture(scope="module")
def bottlenecks() -> list[Site]:
    return find_sites(torchvision.models.resnet50(), IMAGES)


@pytest.fixture(scope="module")
def inverted() -> list[Site]:
    return find_sites(torchvision.models.mobilenet_v2(), IMAGES)


@pytest.mark.parametrize(("policy", "follows", "channels"), [
    ("standard", ["bn3"] * 16, 256),
    ("pre", ["x"] * 16, 64),
    ("post", ["relu"] * 16, 256),
    ("identity", ["downsample", "x", "x"], 256),
    ("inner", ["relu"] * 16, 64),
])  # fmt: skip
def test_where_each_policy_goes_in_a_bottleneck(
    bottlenecks: list[Site], policy: str, follows: list[str], channels: int
) -> None:
    sites = POLICIES[policy](bottlenecks)
    assert len(sites) == 16
    assert [site.follows for site in sites[: len(follows)]] == follows
    assert sites[0].channels == channels
    assert [site.owner for site in sites[:3]] == ["layer1.0", "layer1.1", "layer1.2"]


def test_conv_takes_every_unit_and_inner_the_spatial_ones_among_them(bottlenecks: list[Site]) -> None:
    units = POLICIES["conv"](bottlenecks)
    assert len(units) == 53
    assert {site.convolution for site in POLICIES["inner"](bottlenecks)} == {
        f"layer{stage}.{block}.conv2" for stage, blocks in ((1, 3), (2, 4), (3, 6), (4, 3)) for block in range(blocks)
    }


def test_inner_takes_the_depthwise_unit_as_mobilenet_v3_does(inverted: list[Site]) -> None:
    sites = POLICIES["inner"](inverted)
    assert len(sites) == 17
    assert all(site.depthwise for site in sites)
    assert (sites[1].owner, sites[1].channels) == ("features.2.conv.1.2", 96)


def test_inner_takes_no_unit_at_the_end_of_the_branch() -> None:
    sites = POLICIES["inner"](find_sites(torchvision.models.resnet18(), IMAGES))
    assert {str(site.convolution).rpartition(".")[2] for site in sites} == {"conv1"}


def test_inner_works_behind_a_norm_on_channels_in_the_last_place() -> None:
    sites = find_sites(timm.create_model("convnext_tiny", depths=(1, 1, 1, 1)), IMAGES)
    assert [(site.follows, site.channel_dim) for site in POLICIES["inner"](sites)] == [("norm", -1)] * 4


def test_blocks_without_a_shortcut_are_left_alone_with_a_reason_by_the_policies_that_need_one(
    inverted: list[Site],
) -> None:
    for policy, reason in (("pre", "one tensor"), ("post", "no sum"), ("identity", "no shortcut")):
        sites, left_alone = choose(inverted, [policy])
        assert (len(sites), len(left_alone)) == (10, 7)
        assert reason in left_alone[0].reason
        assert left_alone[0].path == "features.1"


@pytest.mark.parametrize("policy", ["pre", "post", "identity", "inner"])
def test_a_network_without_residual_branches_has_no_site_for_policies_around_them(policy: str) -> None:
    with pytest.raises(NoSiteError, match=f"no site for policy '{policy}', which has others only \\(conv\\)"):
        make_plan(PlainNet(), torch.randn(2, 3, 16, 16), policy=policy)


def test_attention_that_is_there_keeps_every_policy_out() -> None:
    sites = find_sites(timm.create_model("seresnet18"), IMAGES)
    for policy in ("standard", "pre", "post", "identity", "inner"):
        assert {site.attention is None for site in POLICIES[policy](sites)} == {False}
    gated = {site.convolution for site in POLICIES["conv"](sites) if site.attention is not None}
    assert gated == {f"layer{stage}.{block}.conv2" for stage in (1, 2, 3, 4) for block in (0, 1)}


@pytest.mark.parametrize("name", ["ecaresnet26t", "eca_nfnet_l0"])
def test_attention_is_seen_where_its_gate_is_expanded_to_the_tensors_size(name: str) -> None:
    sites = find_sites(timm.create_model(name), IMAGES)
    assert {site.attention is None for site in POLICIES["standard"](sites)} == {False}


def test_attention_is_seen_behind_a_unit_of_another_module() -> None:
    sites = find_sites(timm.create_model("rexnet_100"), IMAGES)  # ConvNormAct, then se, in the block's own forward
    gated = [site for site in POLICIES["conv"](sites) if site.attention is not None]
    assert len(gated) == 13
    assert all(site.depthwise for site in gated)


def test_a_stack_of_policies_puts_no_tensor_under_two_blocks(bottlenecks: list[Site], inverted: list[Site]) -> None:
    both, _ = choose(bottlenecks, ["standard", "conv"])
    assert len(both) == 16 + 53 - 16  # the last unit of each branch is its end
    assert [site.kind for site in both] == ["residual"] * 16 + ["conv"] * 37
    assert len(choose(inverted, ["inner", "conv"])[0]) == 52
    assert len({site.tensor for site in both}) == len(both)


def test_forks_and_shortcuts_of_one_tensor_are_different_places(bottlenecks: list[Site]) -> None:
    both, _ = choose(bottlenecks, ["pre", "identity", "post"])
    assert len(both) == 48


def test_two_branches_in_one_forward_have_their_own_forks_and_sums() -> None:
    sites = {site.id: site for site in find_sites(FunctionalResNet(), torch.randn(2, 3, 16, 16))}
    assert [site.residual for site in POLICIES["pre"](list(sites.values()))] == [".:residual", ".:residual#2"]
    assert (sites[".:shortcut#2"].follows, sites[".:shortcut#2"].channels) == ("project", 16)
    assert (sites[".:sum"].follows, sites[".:sum#2"].follows) == ("relu", "relu")


def test_odd_networks_have_places_for_each_policy() -> None:
    sites = find_sites(OddNet(), torch.randn(2, 3, 16, 16))
    assert {policy: len(choose(sites, [policy])[0]) for policy in POLICIES} == {
        "standard": 5, "pre": 4, "post": 4, "identity": 4, "inner": 4, "conv": 9,
    }  # fmt: skip


class AllBranch(nn.Module):
    """Its input and one branch, which is all of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.act = nn.BatchNorm2d(channels), nn.ReLU()
        self.inside = nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.out = nn.Conv2d(8, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(self.inside(self.act(self.norm(x))))


@pytest.mark.parametrize(("channels", "kind"), [(3, "conv"), (16, "residual")])
def test_a_branch_that_is_all_of_a_network_is_one_but_standard_prefers_units_to_correcting_images(
    channels: int, kind: str
) -> None:
    sites = find_sites(AllBranch(channels), torch.randn(2, channels, 8, 8))
    assert {policy: [site.kind for site in POLICIES[policy](sites)] for policy in POLICIES if policy != "conv"} == {
        "standard": [kind], "pre": ["fork"], "post": ["sum"], "identity": ["shortcut"], "inner": ["conv"],
    }  # fmt: skip


class InPlaceFork(nn.Module):
    """A ReLU in place where the branch starts: the shortcut sees its result too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.act(x)) + x


def test_a_fork_that_is_changed_in_place_is_taken_as_changed() -> None:
    sites = find_sites(InPlaceFork(), torch.randn(2, 3, 8, 8))
    assert {site.kind: site.follows for site in sites if site.kind in ("fork", "shortcut")} == {
        "fork": "act",
        "shortcut": "x",
    }


def test_unknown_policies_and_choices_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no policy 'outer'") as caught:
        make_plan(PlainNet(), policy="outer")
    assert caught.value.hint == "Known policies: standard, pre, post, identity, inner, conv."
    with pytest.raises(UsageError, match="No policy was given"):
        make_plan(PlainNet(), policy=[])
    with pytest.raises(UsageError, match="no setting 'polcy'") as caught:
        make_plan(PlainNet(), polcy="standard")  # type: ignore[call-arg]
    assert caught.value.hint == "Did you mean: policy?"
