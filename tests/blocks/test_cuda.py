"""On a GPU: the same bits forward, the same gradients, for tensors of every size."""

from __future__ import annotations

import copy

import pytest
import torch
from cases import CASES, CHANNELS, trained
from torch import Tensor
from ways import KINDS, MEMORY, errors_in_half_precision, gradients, is_fast, plain

from sesurgeon.blocks import BlockConfig, build_block, kernel

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

SHAPES = [(3, CHANNELS, 7, 7), (2, CHANNELS, 56, 56), (3, CHANNELS, 1, 1), (2, CHANNELS, 33, 70)]


@pytest.fixture(autouse=True)
def all_are_large_and_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors for which the fast way back pays take seconds to check; TF32 is as coarse as fp16."""
    monkeypatch.setattr(kernel, "LARGE", 0)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def exact(block: torch.nn.Module, x: Tensor, seen: Tensor) -> list[Tensor]:
    """Gradients of the plain operations in fp64."""
    twin = copy.deepcopy(block).double()
    return gradients(lambda x: plain(twin, x), twin, x.double(), seen.double())  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("order", MEMORY)
def test_gradients(kind: str, shape: tuple[int, ...], order: str) -> None:
    torch.manual_seed(0)
    block = trained(BlockConfig(kind)).cuda()  # type: ignore[arg-type]
    x, seen = (MEMORY[order](torch.randn(shape, device="cuda")) for _ in range(2))
    y = block(x.requires_grad_())
    assert is_fast(y)
    assert torch.equal(y, plain(block, x))
    for found, right in zip(gradients(block, block, x, seen), exact(block, x, seen), strict=True):
        assert (found - right).norm() <= 1e-4 * right.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("order", ["contiguous", "channels-last"])
@pytest.mark.parametrize("shape", SHAPES)
def test_in_half_precision_it_is_no_further_from_the_truth(
    dtype: torch.dtype, order: str, shape: tuple[int, ...]
) -> None:
    shares = errors_in_half_precision(shape, order, dtype, "cuda")
    assert sum(shares) <= 1.1 * len(shares), shares


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast(dtype: torch.dtype) -> None:
    block, x = trained(BlockConfig("se")).cuda(), torch.randn(SHAPES[0], device="cuda", requires_grad=True)
    inputs = (x, *block.parameters())
    with torch.autocast("cuda", dtype):
        y, expected = block(x), plain(block, x)
    assert is_fast(y)
    assert torch.equal(y, expected)
    found = torch.autograd.grad(y.float().square().sum(), inputs)
    assert all(one.dtype == torch.float32 for one in found)
    usual = torch.autograd.grad(expected.float().square().sum(), inputs)
    torch.testing.assert_close(found, usual, rtol=0.05, atol=0.05 * float(usual[0].abs().max()))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("order", ["contiguous", "channels-last"])
def test_a_fresh_block_changes_no_bit(name: str, dtype: torch.dtype, order: str) -> None:
    block = build_block(CASES[name], CHANNELS).to("cuda", dtype)
    x = MEMORY[order](torch.randn(SHAPES[0], device="cuda").to(dtype))
    assert torch.equal(block.train()(x), x)
    assert torch.equal(block.eval()(x), x)


def test_the_fast_way_back_is_for_large_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    block = trained(BlockConfig("se")).cuda()
    x = torch.zeros(8, CHANNELS, 512, 512, device="cuda", requires_grad=True)  # 256 MB
    assert is_fast(block(x))
    assert not is_fast(block(x[:, :, 1:]))


def test_gradients_of_gradients() -> None:
    block, x = trained(BlockConfig("se")).cuda(), torch.randn(SHAPES[0], device="cuda", requires_grad=True)

    def twice(y: Tensor) -> Tensor:
        once = torch.autograd.grad(y.square().sum(), x, create_graph=True)[0]
        return torch.autograd.grad(once.square().sum(), x)[0]

    torch.testing.assert_close(twice(block(x)), twice(plain(block, x)), rtol=1e-3, atol=1e-3)


def test_captured_in_a_graph_it_learns_the_same() -> None:
    block, x = trained(BlockConfig("se")).cuda(), torch.randn(SHAPES[0], device="cuda", requires_grad=True)
    seen = torch.randn_like(x)
    expected = gradients(block, block, x, seen)
    run = torch.cuda.make_graphed_callables(block, (x,))
    torch.testing.assert_close(list(torch.autograd.grad(run(x), (x, *block.parameters()), seen)), expected)
