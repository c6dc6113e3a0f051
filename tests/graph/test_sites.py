from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from sesurgeon import UntraceableError, UsageError, find_sites
from sesurgeon.graph import Site, survey
from sesurgeon.placement.policies import standard
from tests.networks import FunctionalResNet, OddNet, PlainNet


def sites_of(model: nn.Module, side: int = 64, kind: str | None = None) -> list[Site]:
    found = find_sites(model, torch.randn(2, 3, side, side))
    return [site for site in found if kind is None or site.kind == kind]


def test_a_resnets_residual_branches_end_after_their_last_norm() -> None:
    sites = sites_of(torchvision.models.resnet18(), kind="residual")
    assert [site.id for site in sites] == [f"layer{s}.{b}:residual" for s in (1, 2, 3, 4) for b in (0, 1)]
    assert {site.follows for site in sites} == {"bn2"}
    assert [site.channels for site in sites] == [64, 64, 128, 128, 256, 256, 512, 512]
    assert [site.stage for site in sites] == [2, 2, 3, 3, 4, 4, 5, 5]
    assert [site.spatial for site in sites][:2] == [(16, 16), (16, 16)]
    assert all(site.summed and site.has_skip and site.channel_dim == 1 for site in sites)


def test_mobilenets_blocks_without_a_skip_are_siblings_of_those_with_one() -> None:
    sites = sites_of(torchvision.models.mobilenet_v2(), kind="residual")
    assert len(sites) == 17
    assert [index + 1 for index, site in enumerate(sites) if not site.has_skip] == [1, 2, 4, 7, 11, 14, 17]


def test_multi_branch_modules_have_one_place_after_their_concatenation() -> None:
    model = torchvision.models.googlenet(init_weights=False)
    sites = [site for site in sites_of(model) if site.kind != "conv"]
    assert [site.kind for site in sites] == ["concat"] * 9
    assert sites[0].owner == "inception3a"
    assert sites[0].channels == 256


def test_a_branch_beside_two_poolings_makes_a_multi_branch_module() -> None:
    class Reduction(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.conv(x), functional.max_pool2d(x, 2), functional.avg_pool2d(x, 2)], 1)

    assert [(site.kind, site.channels) for site in sites_of(Reduction(), 16)] == [("concat", 14)]


def test_a_plain_networks_units_are_hosted_by_their_last_module() -> None:
    sites = sites_of(PlainNet(), 16)
    assert [(site.id, site.owner, site.kernel_size) for site in sites] == [
        ("2:conv", "2", (3, 3)),
        ("5:conv", "5", (3, 3)),
    ]


def test_sums_in_one_long_forward_are_told_apart() -> None:
    sites = sites_of(FunctionalResNet(), 16, kind="residual")
    assert [(site.id, site.follows) for site in sites] == [(".:residual", "c2"), (".:residual#2", "c4")]


def test_an_odd_network() -> None:
    sites = [site for site in sites_of(OddNet(), 16) if site.kind in ("residual", "concat")]
    assert [site.id for site in sites] == [
        "shared:residual", "blocks.0:residual", "blocks.1:residual", "mixed:concat", "last:residual",
    ]  # fmt: skip
    assert [site.calls for site in sites] == [2, 1, 1, 1, 1]
    assert [site.follows for site in sites] == ["bn2", "norm", "norm", "cat", "bn2"]


@pytest.mark.parametrize("name", ["repvgg_a0", "hrnet_w18_small"])
def test_sums_of_parallel_branches_are_no_residuals(name: str) -> None:
    model = timm.create_model(name)
    owners = {type(model.get_submodule(site.owner)).__name__ for site in standard(sites_of(model)) if site.summed}
    assert owners == ({"BasicBlock", "Bottleneck"} if name.startswith("hrnet") else set())


def test_a_u_nets_long_skips_are_no_residuals() -> None:
    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.deep = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.up, self.out = nn.ConvTranspose2d(8, 8, 2, 2), nn.Conv2d(16, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            top = torch.relu(self.down(x))
            deep = torch.relu(self.deep(nn.functional.max_pool2d(top, 2)))
            return self.out(torch.cat([top, self.up(deep)], 1))

    assert {site.kind for site in sites_of(UNet(), 16)} == {"conv"}


def test_the_inputs_of_a_dense_layer_are_no_multi_branch_module() -> None:
    sites = [site for site in sites_of(torchvision.models.densenet121()) if site.kind != "conv"]
    assert [site.owner for site in sites] == [f"features.denseblock{number}" for number in (1, 2, 3, 4)]


def test_channels_that_come_last_are_seen() -> None:
    convnext = find_sites(timm.create_model("convnext_atto"), torch.randn(2, 3, 64, 64))
    swin = find_sites(timm.create_model("swin_tiny_patch4_window7_224"), torch.randn(2, 3, 224, 224))
    assert {site.channel_dim for site in convnext if site.kind == "residual"} == {1}  # permuted back before the sum
    first = next(site for site in swin if site.kind == "residual")
    assert (first.channel_dim, first.channels, first.stage) == (-1, 96, 2)


class ChannelsLast(nn.Module):
    """A quarter of the image's sides, as a map or as one row of tokens."""

    def __init__(self, tokens: bool) -> None:
        super().__init__()
        self.patches, self.norm, self.mix, self.tokens = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), nn.Linear(8, 8), tokens

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).permute(0, 2, 3, 1)
        x = x.flatten(1, 2)[:, None] if self.tokens else x
        return x + self.mix(self.norm(x))


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("size", [(64, 64), (32, 128), (128, 32)])
def test_the_stage_of_channels_last_hangs_on_no_side_ratio(size: tuple[int, int], tokens: bool) -> None:
    site, *_ = (site for site in find_sites(ChannelsLast(tokens), torch.randn(2, 3, *size)) if site.kind == "residual")
    assert (site.channel_dim, site.stride, site.stage) == (-1, 4, 2)


@pytest.mark.parametrize("name", ["efficientnet_b0", "mobilenet_v3_small"])
def test_attention_that_is_there_is_seen_in_torchvision(name: str) -> None:
    model = getattr(torchvision.models, name)()
    for site in sites_of(model, kind="residual"):
        names = {type(part).__name__ for part in model.get_submodule(site.owner).modules()}
        assert (site.attention is not None) == ("SqueezeExcitation" in names)


def test_attention_of_an_unknown_name_is_seen_by_what_it_does() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.lin(x.mean((2, 3))).sigmoid()[:, :, None, None] * x

    class Block(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.conv, self.inner = nn.Conv2d(8, 8, 3, padding=1), inner

        def forward(self, x: Tensor) -> Tensor:
            return x + self.inner(self.conv(x))

    found = find_sites(nn.Sequential(nn.Conv2d(3, 8, 1), Block(Odd()), Block(nn.Tanh())), torch.randn(2, 3, 8, 8))
    assert [site.attention for site in found if site.kind == "residual"] == ["1.inner", None]


def test_a_model_that_does_not_run_in_train_mode_is_followed_in_eval_mode() -> None:
    class WantsTargets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = FunctionalResNet()

        def forward(self, x: Tensor, targets: Tensor | None = None) -> Tensor:
            if self.training and targets is None:
                raise ValueError("targets should not be None in training")
            return self.net(x)

    found = survey(WantsTargets(), torch.randn(2, 3, 16, 16))
    assert "targets should not be None" in str(found.train_failure)
    assert [site.id for site in found.sites if site.kind == "residual"] == ["net:residual", "net:residual#2"]


def test_where_the_modes_have_places_of_other_widths_there_is_none() -> None:
    class Widens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.narrow, self.wide = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 16, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.wide(x) if self.training else self.narrow(x)).mean((1, 2, 3))

    found = survey(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), Widens()), torch.randn(2, 3, 16, 16))
    assert [site.id for site in found.sites] == ["1:conv"]
    assert [(left.path, left.reason) for left in found.left_alone] == [
        ("2", "its places for blocks differ between train and eval mode")
    ]


@pytest.mark.filterwarnings("ignore:Complex modules")
def test_a_tensor_of_complex_numbers_is_no_place() -> None:
    class Waves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.waves, self.act = nn.Conv2d(3, 8, 1, dtype=torch.complex64), nn.Tanh()
            self.conv = nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.conv(self.act(self.waves(x.to(torch.complex64))).abs()))

    assert [site.convolution for site in sites_of(Waves(), 16)] == ["conv"]


class Modulated(nn.Module):
    """Convolves by a function, with a kernel that a linear layer scales (StyleGAN2)."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.style = nn.Parameter(torch.randn(8, 3, 3, 3)), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x * self.style(x.mean((2, 3)))[..., None, None], self.kernel).relu()


@pytest.mark.parametrize(("model", "inputs", "error", "message"), [
    (nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.randn(1, 3, 2, 2), UntraceableError, "no convolution: there"),
    (nn.Sequential(Modulated()), torch.randn(1, 3, 8, 8), UntraceableError, "0 has kernels of its own, .* not"),
    (nn.DataParallel(PlainNet()), torch.randn(1, 3, 16, 16), UsageError, "wrapped in DataParallel"),
    (torch.compile(PlainNet(), backend="eager"), torch.randn(1, 3, 16, 16), UsageError, "compiled(.|\\n)*_orig_mod"),
    (PlainNet(), torch.randn(1, 4, 16, 16), UntraceableError, "does not run in eval mode on example inputs"),
    (PlainNet(), (), UntraceableError, "does not run in eval mode"),
])  # fmt: skip
def test_what_cannot_be_surveyed_is_an_error_with_a_reason(
    model: nn.Module, inputs: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        find_sites(model, inputs)


def test_sites_are_the_same_each_time() -> None:
    model = OddNet()
    assert find_sites(model, torch.randn(2, 3, 16, 16)) == find_sites(model, torch.randn(2, 3, 16, 16))
