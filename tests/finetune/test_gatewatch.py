from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import sesurgeon
from sesurgeon.blocks import BlockName
from sesurgeon.finetune import GateStatistics
from sesurgeon.finetune.scoring.gatewatch import GateWatch, watch_gates, watching_gates
from sesurgeon.surgery import blocks_of

Net = nn.Module


class Branch(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


def augmented(block: BlockName = "se") -> Net:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 4, 3), Branch(4), Branch(4))
    model = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    return sesurgeon.add_se(model, policy="standard", block=block, example_inputs=torch.randn(2, 1, 8, 8))


def batches(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(1)
    return [(torch.randn(size, 1, 8, 8, generator=random), torch.zeros(size)) for size in sizes]


def statistics(*batches: Tensor) -> GateStatistics:
    watch = GateWatch()
    for factors in batches:
        watch.see("a.se", factors)
    (sums,) = watch.sums()
    return GateStatistics.of(sums, 2.0)


def test_numbers_worked_out_by_hand() -> None:
    first, second = torch.tensor([[1.0, 2.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    found = statistics(first[..., None, None], second[..., None, None])
    assert (found.gate, found.images, found.channels) == ("a.se", 3, 2)
    assert found.mean == pytest.approx(1)
    assert found.image_spread == pytest.approx((2 / 3) ** 0.5 / 2)  # of 1, 1, 1 and of 2, 1, 0
    assert found.channel_spread == pytest.approx(0)
    assert found.distance == pytest.approx(2 / 6)
    assert (found.largest, found.moved) == (1.0, True)


def test_a_constant_that_differs_between_channels() -> None:
    found = statistics(torch.tensor([[0.5, 1.5, 1.0]] * 4))
    assert found.image_spread == 0.0
    assert found.channel_spread == pytest.approx((0.5 / 3) ** 0.5)


def test_fresh_blocks_have_not_moved() -> None:
    model = augmented()
    found = watch_gates(model, batches(3, 2))
    assert [gate.gate for gate in found] == list(blocks_of(model))
    for gate in found:
        assert (gate.images, gate.channels, gate.mean) == (5, 4, 1.0)
        assert (gate.image_spread, gate.channel_spread, gate.distance, gate.largest) == (0.0, 0.0, 0.0, 0.0)
        assert not gate.moved


def test_a_gate_with_a_bias_is_the_constant_that_it_is() -> None:
    model = augmented()
    path, block = next(iter(blocks_of(model).items()))
    bias = torch.tensor([0.0, 1.0, -1.0, 0.001])
    with torch.no_grad():
        block.get_submodule("fc2").get_parameter("bias").copy_(bias)
    moved, still = watch_gates(model, batches(2, 1))
    factors = 2 * bias.double().sigmoid()
    assert (moved.gate, moved.moved, still.moved) == (path, True, False)
    assert moved.mean == pytest.approx(factors.mean().item(), rel=1e-6)
    assert moved.channel_spread == pytest.approx(factors.std(correction=0).item(), rel=1e-6)
    assert moved.distance == pytest.approx((factors - 1).abs().mean().item(), rel=1e-6)
    assert moved.image_spread == pytest.approx(0, abs=1e-7)


def test_a_gate_that_looks_at_its_image_is_spread_over_images() -> None:
    model = augmented()
    block = next(iter(blocks_of(model).values()))
    nn.init.constant_(block.get_submodule("fc2").get_parameter("weight"), 3.0)
    moved = watch_gates(model, batches(8))[0]
    assert moved.image_spread > 0.01


@pytest.mark.parametrize(("block", "gates"), [("ese", 1), ("eca", 1), ("cbam", 2), ("gc", 1), ("ge", 1)])
def test_every_kind_of_block_is_watched(block: BlockName, gates: int) -> None:
    model = augmented(block)
    found = watch_gates(model, batches(2))
    assert len(found) == gates * len(blocks_of(model))
    assert {gate.mean for gate in found} == {1.0}
    if block == "cbam":
        assert [gate.gate.rpartition(".")[2] for gate in found[:2]] == ["channel", "spatial"]
        assert [gate.channels for gate in found[:2]] == [4, 1]


def test_nothing_stays_behind() -> None:
    model = augmented().train()
    hooks = [len(module._forward_hooks) for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before = torch.get_rng_state()
    watch_gates(model, batches(2))
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before)


def test_hooks_go_when_the_network_fails() -> None:
    model = augmented()
    with pytest.raises(RuntimeError):
        watch_gates(model, [(torch.zeros(1, 7, 8, 8), None)])
    assert not any(module._forward_hooks for module in model.modules())


def test_it_watches_what_the_network_is_run_for() -> None:
    model = augmented().eval()
    ((images, _),) = batches(2)
    with watching_gates(model) as watch:
        assert watch.sums() == ()
        watched = model(images)
    assert torch.equal(watched, model(images))
    assert [sums.images for sums in watch.sums()] == [2, 2]


def test_a_plain_network_has_nothing_to_watch() -> None:
    assert watch_gates(nn.Conv2d(1, 1, 1), batches(1)) == ()


def test_of_images_of_two_sizes_each_counts_by_its_mean_over_places() -> None:
    first, second = torch.tensor([[[[1.0, 1.5]]]]), torch.tensor([[[[0.5, 0.5, 0.5, 1.5]]]])  # means 1.25 and 0.75
    found = statistics(first, second)
    assert (found.images, found.channels, found.mean, found.largest) == (2, 1, 1.0, 0.5)
    assert found.distance == (0.25 + 0.5) / 2
    squares = ((0 + 0.25) / 2 + 0.25) / 2
    assert found.image_spread == pytest.approx(math.sqrt(squares))


def test_a_block_of_several_resolutions_is_watched() -> None:
    model = augmented("cbam")
    found = watch_gates(model, [(torch.zeros(1, 1, 8, 8), None), (torch.zeros(1, 1, 6, 6), None)])
    assert {gate.images for gate in found} == {2}
