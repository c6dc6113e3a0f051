"""Places in code that is written otherwise than most."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sesurgeon import NoSiteError, make_plan
from sesurgeon.graph import Site, find_sites, survey
from sesurgeon.placement import POLICIES
from sesurgeon.surgery import blocks_of, operate
from tests.networks import Residual, conv

X = torch.randn(2, 8, 16, 16)


def test_a_branch_that_begins_in_place_inside_a_sequential_has_no_fork() -> None:
    net = nn.Sequential(conv(), Residual(nn.ReLU(inplace=True), conv(), nn.BatchNorm2d(8)))
    assert [site.kind for site in find_sites(net, X) if site.residual] == ["shortcut", "sum"]


class WritesInside(nn.Module):
    """Its first layer changes what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.conv = nn.ReLU(inplace=True), conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.relu(x))


class Halves(WritesInside):
    def forward(self, x: Tensor) -> Tensor:
        x *= 0.5
        return self.conv(x)


@pytest.mark.parametrize("writer", [WritesInside, Halves])
def test_a_branch_that_writes_into_its_start_is_no_place_for_pre_and_the_rest_goes_on(writer: type[nn.Module]) -> None:
    inside = Residual(nn.Sequential(writer()), nn.BatchNorm2d(8))
    net = nn.Sequential(conv(), inside, Residual(conv(), nn.BatchNorm2d(8)), Residual(writer()))
    surgery = operate(net, policies=["pre"], example_inputs=X)
    assert [entry.site for entry in surgery.plan.entries] == ["2:fork"]
    assert [left.path for left in surgery.plan.left_alone] == ["1", "3"]
    assert all("writes into it" in left.reason for left in surgery.plan.left_alone)
    assert surgery.proof.in_eval
    assert surgery.proof.in_train


class Statement(Residual):
    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        y.add_(x)
        return y.relu()


class InPlaceFunction(Residual):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.add(input=self.branch(x), other=x)
        nn.functional.relu_(y)
        return y


class InPlaceLayer(Residual):
    def __init__(self, *branch: nn.Module) -> None:
        super().__init__(*branch)
        self.relu, self.drop = nn.ReLU(inplace=True), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.add(self.drop(input=self.branch(x)), other=x)
        self.relu(y)
        return y


@pytest.mark.parametrize("kind", [Statement, InPlaceFunction, InPlaceLayer])
def test_sums_by_keyword_and_activations_as_statements(kind: type[Residual]) -> None:
    net = nn.Sequential(conv(), kind(conv(), nn.BatchNorm2d(8)))
    sites = {site.kind: site for site in find_sites(net, X)}
    assert [sites[kind].follows for kind in ("residual", "shortcut", "sum")] == ["branch", "x", "relu"]
    assert len(live(net, "post")) == len(live(net, "standard")) == 1


class ConvThenStatement(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = conv(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        self.relu(x)
        return x


def test_an_activation_as_a_statement_belongs_to_its_convolution() -> None:
    assert [site.follows for site in find_sites(nn.Sequential(ConvThenStatement()), X)] == ["relu"]


class SharedStart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.a, self.b = conv(), conv(), conv()

    def forward(self, x: Tensor) -> Tensor:
        shared = torch.relu(self.first(x))
        return (self.a(shared) + x) * (self.b(shared) + x)


def test_of_two_branches_with_one_start_the_first_has_the_fork() -> None:
    sites = find_sites(SharedStart(), X)
    assert [site.id for site in sites if site.kind in ("residual", "fork")] == [".:residual", ".:residual#2", ".:fork"]


class InlineGate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.gate = conv(), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True))) + x


def test_what_comes_before_a_block_with_a_gate_of_its_own_is_free() -> None:
    sites = {site.id: site for site in find_sites(nn.Sequential(conv(), nn.ReLU(), InlineGate()), X)}
    assert sites["2:residual"].attention == "2"
    assert sites["1:conv"].attention is None


def test_a_gate_in_the_networks_own_forward_counts_as_attention() -> None:
    net = InlineGate()
    sites = {site.id: site for site in find_sites(net, X)}
    assert sites[".:residual"].attention == ""
    with pytest.raises(NoSiteError, match="have attention already, as the model itself"):
        make_plan(net, X)


class BroadcastGate(InlineGate):
    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        gate = torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))
        return y * torch.broadcast_to(input=gate, size=y.shape) + x


def test_a_gate_that_is_expanded_by_a_call_with_keywords_is_seen() -> None:
    sites = {site.id: site for site in find_sites(nn.Sequential(conv(), BroadcastGate()), X)}
    assert sites["1:residual"].attention == "1"


class InstanceNormByHand(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(x, (2, 3), keepdim=True)
        return (x - mean) * torch.rsqrt(var + 1e-5)


class ResponseNormByHand(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        size = x.norm(dim=(2, 3), keepdim=True)
        return x * (size / (size.mean(1, keepdim=True) + 1e-6))


class InlineNorm(nn.Module):
    """The norm is written into the forward of the block itself."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv, self.normalise = conv(), norm.forward

    def forward(self, x: Tensor) -> Tensor:
        return self.normalise(self.conv(x)) + x


@pytest.mark.parametrize("norm", [InstanceNormByHand(), ResponseNormByHand()])
def test_a_norm_by_hand_is_no_attention(norm: nn.Module) -> None:
    assert {site.attention for site in find_sites(nn.Sequential(conv(), InlineNorm(norm)), X)} == {None}


class GCT(nn.Module):
    """Yang et al., https://arxiv.org/abs/1909.11519: parameters, but no layers."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha, self.gamma = nn.Parameter(torch.ones(1, 8, 1, 1)), nn.Parameter(torch.zeros(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        size = x.norm(dim=(2, 3), keepdim=True) * self.alpha
        return x * (1 + torch.tanh(size / size.norm(dim=1, keepdim=True) * self.gamma))


class SimAM(nn.Module):
    """Yang et al., https://proceedings.mlr.press/v139/yang21o.html: a gate for each place, without parameters."""

    def forward(self, x: Tensor) -> Tensor:
        apart = (x - x.mean((2, 3), keepdim=True)).square()
        return x * torch.sigmoid(apart / (4 * apart.mean((2, 3), keepdim=True) + 1e-4) + 0.5)


@pytest.mark.parametrize("gate", [GCT(), SimAM()])
def test_gates_without_layers_are_known_by_their_names(gate: nn.Module) -> None:
    sites = {site.kind: site for site in find_sites(nn.Sequential(conv(), Residual(conv(), gate)), X)}
    assert sites["residual"].attention == "1.branch.1"


class InlineGCT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = conv(), GCT()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        size = y.norm(dim=(2, 3), keepdim=True) * self.gate.alpha
        return y * (1 + torch.tanh(size * self.gate.gamma)) + x


def test_a_gate_of_parameters_and_tanh_is_seen() -> None:
    sites = {site.kind: site for site in find_sites(nn.Sequential(InlineGCT()), X)}
    assert sites["residual"].attention == "0"


class SpatialGate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.squeeze, last = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 1, 3, padding=1)
        self.mask = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), last, nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.sigmoid(self.squeeze(x.mean((2, 3), keepdim=True)))
        return x * self.mask(x)


def test_the_convolutions_of_a_gate_are_no_places() -> None:
    sites = {site.id: site for site in find_sites(nn.Sequential(conv(), nn.ReLU(), SpatialGate()), X)}
    assert sites["2.mask.1:conv"].attention == "2"
    assert "2.mask.3:conv" not in sites


def test_one_depthwise_pair_makes_no_mobilenet() -> None:
    pair = [nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU()]
    net = nn.Sequential(*[part for _ in range(5) for part in (conv(), nn.ReLU())], *pair, nn.AvgPool2d(2))
    assert len(make_plan(net, X).entries) == 7


class ConvNormAct(nn.Sequential):
    """A norm by its name only."""


class DropConnectLayer(nn.Sequential):
    """Noise by its name only."""


def test_layers_are_no_norms_and_no_noise_whatever_they_are_called() -> None:
    units = ConvNormAct(conv(8, 12), nn.ReLU())
    sites = find_sites(nn.Sequential(nn.Conv2d(8, 8, 1), units), X)
    assert [(site.convolution, site.channels) for site in sites] == [("1.0", 12)]
    ends = find_sites(Residual(conv(), DropConnectLayer(conv(), nn.BatchNorm2d(8))), X)
    assert [site.tensor for site in ends if site.kind == "residual"] == ["branch.1/_1"]


def test_pixel_unshuffle_is_no_activation() -> None:
    assert find_sites(nn.Sequential(conv(8, 4), nn.PixelUnshuffle(2)), X) == []


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv3d(2, 3, 3, padding=1), nn.Conv3d(2, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(tensors=[self.a(x).relu(), self.b(x).relu()], dim=-4)


def test_concatenations_by_keyword_and_by_negative_dimensions() -> None:
    sites = find_sites(Joined(), torch.randn(2, 2, 4, 8, 8))
    assert [(site.kind, site.channels) for site in sites if site.kind == "concat"] == [("concat", 8)]


@pytest.mark.parametrize("width", [224, 240, 260, 299, 300, 331])
def test_stages_at_widths_that_are_no_multiple_of_32(width: int) -> None:
    layers = [part for _ in range(5) for part in (nn.Conv2d(1, 1, 3, 2, 1), nn.ReLU())]
    sites = find_sites(nn.Sequential(*layers), torch.randn(2, 1, width, width))
    assert [site.stage for site in sites] == [1, 2, 3, 4, 5]


def gated_at_last() -> nn.Module:
    down = [nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(Residual(conv()), *down, Residual(conv()), *down, InlineGate())


def test_the_last_stage_is_the_last_one_even_where_it_has_attention() -> None:
    plan = make_plan(gated_at_last(), X, skip_last_stage=True)
    assert [entry.site for entry in plan.entries] == ["0:residual", "3:residual"]


def test_a_pattern_on_a_site_with_attention_is_no_pattern_without_sites() -> None:
    assert make_plan(gated_at_last(), X, exclude=["6:residual"]).warnings == ()


def test_a_single_pattern_stage_or_kernel_needs_no_list() -> None:
    plan = make_plan(gated_at_last(), X, include="3:*")  # type: ignore[arg-type]
    assert [entry.site for entry in plan.entries] == ["3:residual"]
    assert len(make_plan(gated_at_last(), X, stages=0).entries) == 1  # type: ignore[arg-type]


def test_a_policy_of_a_stack_that_finds_nothing_is_said() -> None:
    plan = make_plan(nn.Sequential(conv(), nn.ReLU(), nn.AvgPool2d(2)), X, policy=["pre", "conv"])
    assert plan.warnings == ("Policy 'pre' has no site here.",)


def live(model: nn.Module, policy: str) -> list[str]:
    """The blocks that the output depends on."""
    augmented = operate(model, policies=[policy], example_inputs=X).model
    for block in blocks_of(augmented).values():
        for parameter in block.parameters():
            torch.nn.init.normal_(parameter)
    augmented(X).square().sum().backward()
    return [path for path, block in blocks_of(augmented).items() if all(p.grad.any() for p in block.parameters())]


@pytest.mark.parametrize("policy", ["pre", "post", "identity", "standard"])
def test_no_block_is_inserted_that_nothing_reads(policy: str) -> None:
    torch.manual_seed(0)
    for net in (SharedStart(), Residual(conv(), nn.BatchNorm2d(8))):
        blocks = [site for site in POLICIES[policy](survey(net, X).sites) if isinstance(site, Site)]
        assert len(live(net, policy)) == len(blocks) > 0
