"""Costs against numbers computed by hand: never from the code that is tested."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sesurgeon import add_se
from sesurgeon.blocks import BlockConfig
from sesurgeon.graph import Site, find_sites
from sesurgeon.placement import Cost, block_cost, images_in, make_plan, model_cost
from tests.networks import OddNet

IMAGES = torch.randn(2, 3, 16, 16)


class Unit(nn.Sequential):
    """A convolution unit: 3 channels to 8, on 4 x 6 places (2 x 4 x 3 in 3-D): 24 places, 192 elements."""

    def __init__(self, dims: int = 2) -> None:
        convolution, norm = {2: (nn.Conv2d, nn.BatchNorm2d), 3: (nn.Conv3d, nn.BatchNorm3d)}[dims]
        super().__init__(convolution(3, 8, 3, padding=1), norm(8), nn.ReLU())


class ChannelsLast(nn.Module):
    """A residual branch over (N, H, W, C), as Swin's and ConvNeXt's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        return x + self.fc(self.norm(x))


class Frames(nn.Module):
    """Clips of 3 frames, which lie side by side in the batch: as TSM's."""

    def __init__(self) -> None:
        super().__init__()
        self.unit = Unit()

    def forward(self, clips: Tensor) -> Tensor:
        return self.unit(clips.flatten(0, 1)).unflatten(0, (-1, 3)).mean(1)


class OneModule(nn.Module):
    """Some module behind a convolution, on its places as tokens."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.conv, self.module = nn.Conv2d(3, 4, 1, bias=False), module

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.conv(x).flatten(2).mT
        if isinstance(self.module, nn.Bilinear):
            return self.module(tokens, tokens)
        return self.module(tokens, tokens, tokens, need_weights=False)[0]


def the_site(net: nn.Module, images: Tensor) -> Site:
    (site,) = [site for site in find_sites(net, images) if site.kind == ("residual" if hasattr(net, "fc") else "conv")]
    return site


def test_a_network_by_hand() -> None:
    # images of 2 channels and 4 x 4: conv 2->3 with 9 places each (no bias) at 16 places, linear 3->5 with bias
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5)
    )
    cost = model_cost(net, (torch.randn(7, 2, 4, 4),))
    assert cost == Cost(parameters=54 + 20, layers=864 + 15, pooling=0, scaling=0)
    assert cost.macs == 879


# 8 channels at 24 places are 192 elements: what one pooling reads and one gate scales.
BY_HAND = {
    # fc1 8->2 and fc2 2->8: 16 + 2 and 16 + 8 parameters, 16 + 16 multiply-adds, at one place
    "se": (BlockConfig("se", rd_channels=2), Cost(18 + 24, 32, 192, 192)),
    "se without biases": (BlockConfig("se", rd_channels=2, bias=False), Cost(32, 32, 192, 192)),
    "se with a maximum": (BlockConfig("se", rd_channels=2, squeeze="max"), Cost(42, 32, 192, 192)),
    # one fc 8->8
    "ese": (BlockConfig("ese"), Cost(64 + 8, 64, 192, 192)),
    # (log2(8) + 1) / 2 = 2 is even: a kernel of 3 over the 8 channels
    "eca": (BlockConfig("eca"), Cost(3, 24, 192, 192)),
    # channels: fc1 and fc2 without biases, each for mean and maximum: 4 * 16; places: conv 2->1 with 49 places at 24,
    # and a norm of 2 parameters; mean and maximum over places and again over channels; two gates
    "cbam": (BlockConfig("cbam", rd_channels=2), Cost(16 + 16 + 98 + 2, 64 + 98 * 24, 4 * 192, 2 * 192)),
    # conv 8->1 at 24 places, the attended sum (a matrix product) over 192 elements, fc1, a norm of 2 + 2, fc2
    "gc": (BlockConfig("gc", rd_channels=2), Cost(8 + 1 + 18 + 4 + 24, 192 + 192 + 32, 0, 192)),
    "ge": (BlockConfig("ge", rd_channels=2), Cost(18 + 24, 32, 192, 192)),
    # extent 2: windows of 3 x 3 in steps of 2, at 2 x 3 places of 8 channels; fc1 and fc2 at each of the 6
    "ge with an extent": (BlockConfig("ge", rd_channels=2, extent=2), Cost(18 + 24, 6 * 32, 6 * 8 * 9, 192)),
    "ge with an extent and a maximum": (
        BlockConfig("ge", rd_channels=2, extent=2, squeeze="max"),
        Cost(18 + 24, 6 * 32, 6 * 8 * 9, 192),
    ),
}


@pytest.mark.parametrize(("config", "expected"), BY_HAND.values(), ids=BY_HAND)
def test_a_block_on_images_by_hand(config: BlockConfig, expected: Cost) -> None:
    assert block_cost(config, the_site(Unit(), torch.randn(2, 3, 4, 6))) == expected


def test_blocks_on_volumes_by_hand() -> None:
    site = the_site(Unit(3), torch.randn(2, 3, 2, 4, 3))
    assert block_cost(BlockConfig("se", rd_channels=2), site) == Cost(42, 32, 192, 192)
    # the kernel of 7 x 7 x 7 over 2 channels: 686
    cbam = block_cost(BlockConfig("cbam", rd_channels=2), site)
    assert cbam == Cost(16 + 16 + 686 + 2, 64 + 686 * 24, 4 * 192, 2 * 192)


@pytest.mark.parametrize("name", ["se", "cbam", "gc", "ge"])
def test_channels_last_costs_the_same(name: str) -> None:
    config, expected = BY_HAND[name]
    site = the_site(ChannelsLast(), torch.randn(2, 3, 4, 6))
    assert site.channel_dim == -1
    assert block_cost(config, site) == expected


def test_a_block_that_runs_twice_has_its_parameters_once() -> None:
    site = next(site for site in find_sites(OddNet(), IMAGES) if site.id == "shared:residual")
    assert site.calls == 2
    # 8 channels at 8 x 8 places are 512 elements
    assert block_cost(BlockConfig(rd_channels=2), site) == Cost(42, 2 * 32, 2 * 512, 2 * 512)


class SharedHead(nn.Module):
    """A head on two sizes of maps, as detectors have them; with a residual branch that ends in an operation."""

    def __init__(self, residual: bool) -> None:
        super().__init__()
        self.large, self.small = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 2, 1)
        self.head = Residual() if residual else nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        large = self.large(x)
        return self.head(large), self.head(self.small(large))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x).relu()


@pytest.mark.parametrize(("residual", "name"), [(False, "head:conv"), (True, "head:residual")])
def test_a_module_that_runs_on_two_sizes_has_the_price_of_both(residual: bool, name: str) -> None:
    site = next(site for site in find_sites(SharedHead(residual), IMAGES) if site.id == name)
    assert site.calls == 2
    # 8 channels at 16 x 16 places and at 8 x 8
    elements = 8 * 256 + 8 * 64
    assert block_cost(BlockConfig(rd_channels=2), site) == Cost(42, 2 * 32, elements, elements)


def test_frames_in_the_batch_belong_to_their_clip() -> None:
    clips = torch.randn(2, 3, 3, 4, 6)
    site = the_site(Frames(), clips)
    assert block_cost(BlockConfig(rd_channels=2), site, images_in((clips,))) == Cost(42, 3 * 32, 3 * 192, 3 * 192)


@pytest.mark.parametrize("block", ["se", "ese", "eca", "cbam", "gc", "ge"])
def test_the_augmented_network_costs_what_it_did_and_its_blocks(block: str) -> None:
    net = OddNet()
    plan = make_plan(net, example_inputs=IMAGES, block=block)
    sites = {site.id: site for site in find_sites(net, IMAGES)}
    costs = [block_cost(entry.config, sites[entry.site]) for entry in plan.entries]
    augmented = add_se(net, verify=False, example_inputs=IMAGES, block=block)
    assert len(costs) == 5
    assert sum(costs, model_cost(net, (IMAGES,))) == model_cost(augmented, (IMAGES,))


@pytest.mark.parametrize("fast", [True, False])
def test_attention_is_counted_in_spite_of_its_fast_path(fast: bool) -> None:
    net = OneModule(nn.MultiheadAttention(4, 2, batch_first=True))
    torch.backends.mha.set_fastpath_enabled(fast)
    try:
        cost = model_cost(net, (torch.randn(2, 3, 2, 3),))
        assert torch.backends.mha.get_fastpath_enabled() == fast
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    # conv 3->4 at 6 places; projections 4->12 and 4->4 of 6 tokens; two products of 6 x 6 x 2 in each of 2 heads
    assert cost == Cost(12 + 48 + 12 + 16 + 4, 72 + 6 * 48 + 6 * 16 + 2 * 2 * 72, 0, 0)


def test_what_cannot_be_counted_is_named() -> None:
    cost = model_cost(OneModule(nn.Bilinear(4, 4, 5)), (torch.randn(2, 3, 4, 6),))
    assert cost.layers == 12 * 24
    assert cost.uncounted == ("aten._trilinear",)
    assert (cost + Cost(1, 1, 1, 1, ("torchvision.deform_conv2d",))).uncounted == (
        "aten._trilinear",
        "torchvision.deform_conv2d",
    )


def test_operations_of_other_libraries_are_named() -> None:
    from torchvision.ops import DeformConv2d

    class Deformed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offsets, self.conv = nn.Conv2d(3, 18, 1), DeformConv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x, self.offsets(x))

    assert model_cost(Deformed(), (torch.randn(1, 3, 4, 4),)).uncounted == ("torchvision.deform_conv2d",)


def test_counting_leaves_no_hook_and_no_mode_behind() -> None:
    augmented = add_se(Unit(), example_inputs=torch.randn(2, 3, 4, 6)).train()
    model_cost(augmented, (torch.randn(2, 3, 4, 6),))
    assert all(module.training for module in augmented.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in augmented.modules())


def test_plain_data_hold_the_sum() -> None:
    assert Cost(1, 2, 3, 5).to_dict() == {  # 2 + 3/2 + 5/2
        "parameters": 1, "layers": 2, "pooling": 3, "scaling": 5, "uncounted": (), "macs": 6,
    }  # fmt: skip
