"""Looking at a network leaves nothing behind in it, and nothing that a graph would lose is lost silently."""

from __future__ import annotations

import random
import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sesurgeon import UntraceableError, UsageError, add_se, apply_plan, find_sites, make_plan
from sesurgeon.graph import survey
from sesurgeon.models import isolated
from sesurgeon.randomness import random_states, same_random_states
from sesurgeon.surgery import blocks_of

IMAGES = torch.randn(2, 3, 8, 8)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.register_buffer("ema", torch.zeros(8))
        self.seen: list[Any] = []
        self.cache: dict[Any, Tensor] = {}

    def body(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + x


class RebindsABuffer(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        self.ema = 0.9 * self.ema + 0.1 * y.detach().mean((0, 2, 3))
        return y + x


class AppendsToAList(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        self.seen.append(y)
        return y + x


class FillsADict(Block):
    def forward(self, x: Tensor) -> Tensor:
        if "ones" not in self.cache:
            self.cache["ones"] = torch.ones(1, 8, 1, 1)
        return self.body(x) * self.cache["ones"] + x


class SetsOnAChild(Block):
    def forward(self, x: Tensor) -> Tensor:
        self.conv.last = self.body(x)
        return self.conv.last + x


class AsksForGradients(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + (x if torch.is_grad_enabled() else 2 * x)


class SwitchesGradients(Block):
    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(False):
            y = self.body(x)
        return y + x


class Checkpoints(Block):
    def forward(self, x: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(self.body, x, use_reentrant=False) + x


def network(block: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 1), block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


LOST = [RebindsABuffer, AppendsToAList, FillsADict, SetsOnAChild, AsksForGradients, SwitchesGradients, Checkpoints]


@pytest.mark.parametrize("make", LOST)
def test_what_a_graph_would_lose_is_left_alone_and_said(make: type[nn.Module]) -> None:
    found = survey(network(make()), IMAGES)
    assert [site.id for site in found.sites if site.owner == "1"] == []
    assert "1" in [item.path for item in found.left_alone]


@pytest.mark.parametrize("make", LOST)
def test_the_module_is_as_it_was(make: type[nn.Module]) -> None:
    model = network(make())
    attributes = {path: dict(vars(module)) for path, module in model.named_modules()}
    tensors = {name: (value, value.clone()) for name, value in model.state_dict(keep_vars=True).items()}
    find_sites(model, IMAGES)
    for path, module in model.named_modules():
        assert vars(module).keys() == attributes[path].keys()
        assert all(value is attributes[path][name] for name, value in vars(module).items())
    for name, value in model.state_dict(keep_vars=True).items():
        assert value is tensors[name][0]
        assert torch.equal(value, tensors[name][1])
    assert model[1].seen == []
    assert model[1].cache == {}
    assert model(IMAGES).shape == (2, 3)


def test_expanded_buffers_do_not_stop_the_clean_up() -> None:
    block = Block()
    block.register_buffer("wide", torch.ones(1).expand(8))
    model = network(block).eval()
    assert find_sites(model, IMAGES)
    assert not model.training


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch announces the end of TorchScript
@pytest.mark.parametrize("training", [False, True])
def test_a_scripted_part_keeps_its_mode_and_so_does_that_of_the_augmented_copy(training: bool) -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)))
    model = nn.Sequential(scripted, Block()).train(training)
    augmented = add_se(model, example_inputs=IMAGES)
    assert scripted.training is augmented[0].training is training


def test_lazy_layers_are_refused_before_they_run() -> None:
    model = nn.Sequential(nn.LazyConv2d(8, 1), Block(), nn.BatchNorm2d(8))
    plan = make_plan(network(Block()), IMAGES)
    for operation in (lambda: add_se(model, example_inputs=IMAGES), lambda: apply_plan(model, plan)):
        with pytest.raises(UsageError, match=r"0\.weight gets its shape in the first forward pass.\nRun it once"):
            operation()
    assert model(IMAGES).shape == (2, 8, 8, 8)
    assert list(blocks_of(add_se(model, example_inputs=IMAGES))) == ["1.se"]


def seed_all(number: int) -> None:
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(number)


def test_random_states_come_back() -> None:
    model = network(Block())
    seed_all(7)
    before = random_states()
    find_sites(model, IMAGES)
    assert same_random_states(before, random_states())


def test_each_pass_draws_the_same_numbers() -> None:
    drawn = []
    for seed in (1, 2):
        seed_all(seed)
        with isolated(network(Block()), training=True):
            drawn.append((random.random(), np.random.random(), torch.rand(()).item()))
    assert drawn[0] == drawn[1]


def test_the_example_inputs_are_not_changed_by_a_forward_that_works_in_place() -> None:
    class Centres(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            x -= 0.5
            return super().forward(x)

    images = IMAGES.clone()
    add_se(Centres(*network(Block())), example_inputs=images)
    assert torch.equal(images, IMAGES)


def test_in_place_sums_stay_in_place() -> None:
    class InPlace(Block):
        def forward(self, x: Tensor) -> Tensor:
            y = self.body(x)
            y += x
            return y

    model = network(InPlace())
    augmented = add_se(model, example_inputs=IMAGES)
    block = augmented[1]
    x = torch.randn(2, 8, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert block(x).dtype == model[1](x).dtype == torch.bfloat16


def test_an_autograd_function_in_a_forward_is_kept_with_its_backward() -> None:
    class TimesTen(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 1

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * 10

    class Custom(Block):
        def forward(self, x: Tensor) -> Tensor:
            return TimesTen.apply(self.body(x)) + x

    model = network(Custom())
    augmented = add_se(model, example_inputs=IMAGES)
    assert list(blocks_of(augmented)) == ["1.se"]
    gradients = []
    for network_ in (model, augmented):
        network_(IMAGES).sum().backward()
        gradients.append(network_[1].conv.weight.grad)
    torch.testing.assert_close(*gradients)


def test_an_activation_that_is_used_many_times_hosts_no_block() -> None:
    act = nn.ReLU()
    model = nn.Sequential(nn.Conv2d(3, 8, 3), act, nn.Conv2d(8, 16, 3), act, nn.Flatten(), nn.Linear(256, 2))
    augmented = add_se(model, example_inputs=IMAGES)
    assert list(blocks_of(augmented)) == ["se", "se2"]
    assert torch.equal(augmented.eval()(IMAGES), model.eval()(IMAGES))


def test_converting_to_synchronised_batch_norm_loses_no_block() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 2))
    augmented = add_se(model, example_inputs=IMAGES)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(augmented)
    assert list(blocks_of(converted)) == list(blocks_of(augmented)) == ["se"]


def test_other_threads_are_not_disturbed() -> None:
    stop, strangers = threading.Event(), []
    other = nn.Conv2d(1, 1, 1)

    def work() -> None:
        while not stop.is_set():
            strangers.append(type(torch.zeros(2)))
            strangers.append(type(other(torch.zeros(1, 1, 2, 2))))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        sites = find_sites(network(Block()), IMAGES)
    finally:
        stop.set()
        thread.join()
    assert set(strangers) == {Tensor}
    assert [site.id for site in sites if site.kind == "residual"] == ["1:residual"]


def test_slices_can_be_assigned_to() -> None:
    class Assigns(Block):
        def forward(self, x: Tensor) -> Tensor:
            y = self.body(x).clone()
            y[:, :2] = 0
            return y + x

    augmented = add_se(network(Assigns()), example_inputs=IMAGES)
    assert list(blocks_of(augmented)) == ["1.se"]


def test_a_forward_that_writes_the_same_into_a_parameter_is_taken() -> None:
    class Clamps(Block):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                next(self.parameters()).clamp_(-100, 100)
            return self.body(x) + x

    find_sites(network(Clamps()), IMAGES)  # under no_grad it gets no block, but the network is looked at


@pytest.mark.parametrize(("shape", "dim"), [((35,), 0), ((35, 1), 0), ((7, 5), 0), ((5, 7), 1), ((1, 5, 7), 2)])
def test_a_forward_that_rolls_the_values_of_a_parameter_is_refused(shape: tuple[int, ...], dim: int) -> None:
    class Queues(Block):
        def __init__(self) -> None:
            super().__init__()
            self.queue = nn.Parameter(torch.arange(35.0).reshape(shape), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            self.queue.copy_(self.queue.roll(1, dim))
            return self.body(x) + x

    with pytest.raises(UntraceableError, match=r"writes into its own parameters: 1\.queue"):
        find_sites(network(Queues()), IMAGES)


@pytest.mark.parametrize("columns", [[0, 2, 1, 3, 4], [0, 4, 3, 2, 1], [2, 3, 4, 0, 1]])
def test_a_forward_that_orders_columns_anew_is_refused(columns: list[int]) -> None:
    class Orders(Block):
        def __init__(self) -> None:
            super().__init__()
            self.codes = nn.Parameter(torch.arange(15.0).reshape(3, 5))

        def forward(self, x: Tensor) -> Tensor:
            if not self.training:
                self.codes.data = self.codes.data[:, columns]
            return self.body(x) + x

    with pytest.raises(UntraceableError, match=r"writes into its own parameters: 1\.codes"):
        find_sites(network(Orders()), IMAGES)


@pytest.mark.parametrize("by_data", [False, True])
def test_a_forward_that_changes_a_parameter_is_refused(by_data: bool) -> None:
    class FollowsItsInputs(Block):
        def __init__(self) -> None:
            super().__init__()
            self.code = nn.Parameter(torch.zeros(8))

        def forward(self, x: Tensor) -> Tensor:
            y = self.body(x)
            if self.training:
                with torch.no_grad():
                    code = self.code.data if by_data else self.code
                    code.mul_(0.9).add_(y.mean((0, 2, 3)), alpha=0.1)
            return y + x + self.code[:, None, None]

    with pytest.raises(UntraceableError, match=r"writes into its own parameters: 1\.code"):
        find_sites(network(FollowsItsInputs()), IMAGES)
