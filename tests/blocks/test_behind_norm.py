"""A block behind a BatchNorm, differentiated as one with it: the bits of both forward, their gradients backward."""

from __future__ import annotations

import copy

import pytest
import torch
from cases import CHANNELS, scramble
from normed import assert_alike, batch, gradients, is_joined, pair
from timm.layers import BatchNormAct2d, ConvNormAct
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from ways import KINDS, MEMORY

from sesurgeon.blocks import BlockConfig, build_block
from sesurgeon.blocks.kernel.behind_norm import scaled_result


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_one_after_the_other(kind: str, dims: int, training: bool) -> None:
    norm, block = pair(kind, dims)
    assert_alike(norm.train(training), block, batch(*(5, 4, 3)[:dims]))


@pytest.mark.parametrize("places", [(5, 4), (12, 11)])
@pytest.mark.parametrize("of_gradient", MEMORY)
@pytest.mark.parametrize("of_input", MEMORY)
def test_in_every_order_of_memory(of_input: str, of_gradient: str, places: tuple[int, int]) -> None:
    norm, block = pair()
    x, seen = batch(*places), torch.randn(3, CHANNELS, *places).double()
    assert_alike(norm, block, MEMORY[of_input](x), MEMORY[of_gradient](seen))


def test_many_images_of_few_places() -> None:
    norm, block = nn.BatchNorm2d(512).double(), build_block(BlockConfig("se"), 512).double()
    scramble(norm)
    scramble(block)
    x, seen = (MEMORY["channels-last"](torch.randn(50, 512, 7, 7).double()) for _ in range(2))  # 10 MB: three shares
    assert_alike(norm, block, x, seen)


@pytest.mark.parametrize("side", [9, 40])
@pytest.mark.parametrize("order", ["contiguous", "channels-last"])
def test_in_single_precision_it_is_as_near_to_the_truth(order: str, side: int) -> None:
    ours, theirs = 0.0, 0.0
    for seed in range(5):
        torch.manual_seed(seed)
        norm, block = pair(dtype=torch.float32)
        x, seen = (MEMORY[order](torch.randn(8, CHANNELS, side, side)) for _ in range(2))
        x = x + 5  # further from zero than it is wide
        exact, exact_block = copy.deepcopy(norm).double(), copy.deepcopy(block).double()
        truth = gradients(lambda x: exact_block(exact(x)), (exact, exact_block), x.double(), seen.double())  # noqa: B023
        found = gradients(lambda x: scaled_result(norm, block, x), (norm, block), x, seen)  # noqa: B023
        plain = gradients(lambda x: block(norm(x)), (norm, block), x, seen)  # noqa: B023
        ours += sum(float((one - right).norm() / right.norm()) for one, right in zip(found, truth, strict=True))
        theirs += sum(float((one - right).norm() / right.norm()) for one, right in zip(plain, truth, strict=True))
    assert ours <= 1.5 * theirs


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_finite_differences_agree_once_and_twice(kind: str, training: bool) -> None:
    norm, block = nn.BatchNorm2d(4).double(), build_block(BlockConfig(kind, gate="sigmoid"), 4).double()  # type: ignore[arg-type]
    scramble(norm)
    scramble(block)
    norm.train(training)
    x = torch.randn(2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    inputs = (x, *norm.parameters(), *block.parameters())  # which are perturbed in place

    def run(x: Tensor, *_: Tensor) -> Tensor:
        y: Tensor = scaled_result(norm, block, x)
        return y

    assert is_joined(run(x))
    assert gradcheck(run, inputs)
    assert gradgradcheck(run, inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_many_gradients_at_a_time(kind: str) -> None:
    norm, block = pair(kind)
    x = batch(5, 4).requires_grad_()
    inputs = (x, *norm.parameters(), *block.parameters())
    ours, theirs = scaled_result(norm, block, x), block(norm(x))
    ways = torch.randn(2, *x.shape).double()
    assert is_joined(ours)
    torch.testing.assert_close(
        torch.autograd.grad(ours, inputs, ways, is_grads_batched=True),
        torch.autograd.grad(theirs, inputs, ways, is_grads_batched=True),
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("frozen", ["norm", "weight", "bias", "block", "input", "norm and block", "input and norm"])
def test_what_is_frozen_gets_no_gradient(frozen: str, training: bool) -> None:
    norm, block = pair()
    norm.train(training)
    x = batch(5, 4).requires_grad_("input" not in frozen)
    parts = {"norm": norm, "block": block, "weight": norm.weight, "bias": norm.bias}
    for name, part in parts.items():
        if name in frozen:
            part.requires_grad_(False)  # type: ignore[operator]
    inputs = [one for one in (x, *norm.parameters(), *block.parameters()) if one.requires_grad]
    y = scaled_result(norm, block, x)
    assert is_joined(y) == (frozen != "input and norm")
    found = torch.autograd.grad(y.square().sum(), inputs)
    torch.testing.assert_close(found, torch.autograd.grad(block(norm(x)).square().sum(), inputs))
    scaled_result(norm, block, x).square().sum().backward()
    assert all((one.grad is not None) == one.requires_grad for one in (x, *norm.parameters(), *block.parameters()))


def test_one_may_go_back_twice() -> None:
    norm, block = pair()
    x = batch(12, 11).requires_grad_()
    y = scaled_result(norm, block, x).sum()
    once = torch.autograd.grad(y, x, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(y, x)[0], once)
    torch.testing.assert_close(once, torch.autograd.grad(block(norm(x)).sum(), x)[0])


def test_nothing_of_the_size_of_the_tensor_is_kept_but_the_input_of_the_norm() -> None:
    norm, block = pair()
    x = batch(5, 4).requires_grad_()
    y = scaled_result(norm, block, x)
    kept = [one for one in y.grad_fn.saved_tensors if one.numel() >= x.numel()]  # type: ignore[union-attr]
    assert [one.data_ptr() for one in kept] == [x.data_ptr()]
    del kept
    y += 1  # as a shortcut is added in place; nothing goes back to the output
    y.sum().backward()


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), nn.Sequential(nn.Identity(), nn.BatchNorm2d(CHANNELS))),
        ConvNormAct(CHANNELS, CHANNELS, apply_act=False),
        BatchNormAct2d(CHANNELS, apply_act=False),
    ],
    ids=lambda module: type(module).__name__,
)
def test_behind_modules_that_end_in_a_norm(module: nn.Module) -> None:
    scramble(module)
    assert_alike(module.double(), pair()[1], batch(5, 4))


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.BatchNorm2d(CHANNELS), nn.ReLU()),
        ConvNormAct(CHANNELS, CHANNELS),
        BatchNormAct2d(CHANNELS),
        nn.Sequential(),
        nn.BatchNorm2d(CHANNELS, affine=False),
        nn.InstanceNorm2d(CHANNELS, affine=True),
        nn.Conv2d(CHANNELS, CHANNELS, 1),
        nn.SyncBatchNorm(CHANNELS).eval(),
    ],
    ids=lambda module: type(module).__name__,
)
def test_behind_others_it_is_called_as_ever(module: nn.Module) -> None:
    scramble(module)
    assert_alike(module.double(), pair()[1], batch(5, 4), joined=False)


def test_a_norm_without_running_statistics_normalises_by_the_batch_in_eval_mode_too() -> None:
    norm = nn.BatchNorm2d(CHANNELS, track_running_stats=False, momentum=None).double().eval()
    assert_alike(norm, pair()[1], batch(5, 4))


def test_in_other_types_and_layouts_they_are_called_as_ever() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        norm, block = pair(dtype=dtype)
        y = scaled_result(norm, block, batch(5, 4, dtype=dtype).requires_grad_())
        assert y.dtype == dtype
        assert not is_joined(y)
    norm, block = pair(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        x = batch(5, 4, dtype=torch.bfloat16).requires_grad_()
        assert torch.equal(scaled_result(norm, block, x), block(norm(x)))
        assert not is_joined(scaled_result(norm, block, x))
    last = build_block(BlockConfig("se"), CHANNELS, channel_dim=-1)
    assert not is_joined(scaled_result(nn.BatchNorm2d(4), last, torch.randn(2, 4, 6, CHANNELS).requires_grad_()))
    largest = build_block(BlockConfig("se", squeeze="max"), CHANNELS)
    assert not is_joined(scaled_result(nn.BatchNorm2d(CHANNELS), largest, torch.randn(2, CHANNELS, 4, 4)))
    with torch.no_grad():
        assert scaled_result(norm, block, batch(5, 4, dtype=torch.float32)).grad_fn is None
