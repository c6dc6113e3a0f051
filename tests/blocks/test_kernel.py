"""The fast backward pass: the bits of the plain operations forward, their gradients backward, wherever it is run."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable

import pytest
import torch
from cases import CHANNELS, LAYOUTS, scramble, tensor, trained
from torch import Tensor, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint
from ways import KINDS, MEMORY, errors_in_half_precision, gradients, is_fast, plain

from sesurgeon.blocks import BlockConfig, SqueezeExcite, build_block
from sesurgeon.blocks.kernel.pages import fresh_like


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("spatial_dims", "channel_dim"), LAYOUTS)
@pytest.mark.parametrize("batch", [True, False])
def test_gradients_are_those_of_the_plain_operations(
    kind: str, spatial_dims: int, channel_dim: int, batch: bool
) -> None:
    block = trained(BlockConfig(kind), spatial_dims, channel_dim).double()  # type: ignore[arg-type]
    x = tensor(spatial_dims, channel_dim, torch.float64)
    x = x if batch else x[0]
    seen = torch.randn_like(x)
    assert torch.equal(block(x), plain(block, x))
    assert is_fast(block(x))
    expected = gradients(lambda x: plain(block, x), block, x, seen)
    torch.testing.assert_close(gradients(block, block, x, seen), expected)


@pytest.mark.parametrize("places", [(5, 4), (12, 11)])  # few, and more: other operations are the faster ones
@pytest.mark.parametrize("of_gradient", MEMORY)
@pytest.mark.parametrize("of_input", MEMORY)
def test_in_every_order_of_memory(of_input: str, of_gradient: str, places: tuple[int, int]) -> None:
    block = trained(BlockConfig("se")).double()
    x, seen = (MEMORY[of](torch.randn(3, CHANNELS, *places).double()) for of in (of_input, of_gradient))
    expected = gradients(lambda x: plain(block, x), block, x, seen)
    torch.testing.assert_close(gradients(block, block, x, seen), expected)


def test_many_images_of_few_places() -> None:
    torch.manual_seed(0)
    block = build_block(BlockConfig("se"), 512).double()
    scramble(block)
    x, seen = (MEMORY["channels-last"](torch.randn(50, 512, 7, 7).double()) for _ in range(2))  # 10 MB: three shares
    expected = gradients(lambda x: plain(block, x), block, x, seen)
    torch.testing.assert_close(gradients(block, block, x, seen), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("order", ["contiguous", "channels-last"])
@pytest.mark.parametrize("side", [9, 11])
def test_in_half_precision_it_is_no_further_from_the_truth(dtype: torch.dtype, order: str, side: int) -> None:
    shares = errors_in_half_precision((4, CHANNELS, side, side), order, dtype, "cpu")
    assert sum(shares) <= 1.01 * len(shares), shares
    assert max(shares) <= 1.3


@pytest.mark.parametrize("of_input", [torch.float32, torch.bfloat16, torch.float16])
def test_under_autocast(of_input: torch.dtype) -> None:
    block, x = trained(BlockConfig("se")), tensor(dtype=of_input)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = block(x), plain(block, x)
    assert is_fast(y)
    assert y.dtype == expected.dtype
    assert torch.equal(y, expected)
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = block(x)
    y.float().square().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == of_input
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in block.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", [True, False])  # autocast on the way forth, or on the way back
def test_gradients_of_gradients_are_of_what_autocast_gave(kind: str, before: bool) -> None:
    block = trained(BlockConfig(kind, gate="sigmoid"))  # type: ignore[arg-type]
    x = tensor().requires_grad_()
    inputs = (x, *block.parameters())

    def found(run: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16, enabled=before):
            loss = run(x.bfloat16() if before else x).float().square().sum()
        with torch.autocast("cpu", torch.bfloat16, enabled=not before):
            once = torch.autograd.grad(loss, x, create_graph=True)[0]
        return once, *torch.autograd.grad(once.square().sum(), inputs)

    assert is_fast(block(x))
    (once, *twice), (expected_once, *expected) = found(block), found(lambda x: plain(block, x))
    torch.testing.assert_close(once, expected_once)
    for ours, theirs in zip(twice, expected, strict=True):
        assert (ours - theirs).norm() <= 0.01 * theirs.norm()  # bfloat16 adds up two graphs in another order


@pytest.mark.parametrize("kind", KINDS)
def test_many_gradients_at_a_time_under_autocast(kind: str) -> None:
    block, x = trained(BlockConfig(kind)), tensor(dtype=torch.bfloat16).requires_grad_()  # type: ignore[arg-type]
    inputs = (x, *block.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = block(x), plain(block, x)
    ways = torch.randn(2, *y.shape).to(y)
    torch.testing.assert_close(
        torch.autograd.grad(y, inputs, ways, is_grads_batched=True),
        torch.autograd.grad(expected, inputs, ways, is_grads_batched=True),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_finite_differences_agree_once_and_twice(kind: str) -> None:
    block = build_block(BlockConfig(kind, gate="sigmoid"), 4).double()  # torch's hard sigmoid goes back but once
    scramble(block)
    x = torch.randn(2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    inputs = (x, *block.parameters())  # which are perturbed in place

    def run(x: Tensor, *_: Tensor) -> Tensor:
        y: Tensor = block(x)
        return y

    assert is_fast(run(x))
    assert gradcheck(run, inputs)
    assert gradgradcheck(run, inputs)


def test_what_is_frozen_gets_no_gradient() -> None:
    block, x = trained(BlockConfig("se")), tensor()
    block(x).sum().backward()  # the images themselves: only the block learns
    assert all(p.grad is not None for p in block.parameters())
    block.requires_grad_(False)
    x.requires_grad_()
    expected = torch.autograd.grad(plain(block, x).square().sum(), x)[0]
    torch.testing.assert_close(torch.autograd.grad(block(x).square().sum(), x)[0], expected)
    assert block(x.detach()).grad_fn is None


def test_factors_that_depend_on_nothing_pass_the_gradient_on() -> None:
    class Constant(SqueezeExcite):
        def factors(self, squeezed: Tensor) -> Tensor:
            return super().factors(squeezed).detach()

    block, x = Constant(CHANNELS, 4, identity=False), tensor().requires_grad_()
    block(x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, block.excitation(x).expand_as(x))
    assert all(parameter.grad is None for parameter in block.parameters())


def test_one_may_go_back_twice_and_out_of_a_copy() -> None:
    block, x = trained(BlockConfig("se")), tensor().requires_grad_()
    y = copy.deepcopy(block)(x).sum()
    once = torch.autograd.grad(y, x, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(y, x)[0], once)


def test_nothing_but_the_tensor_is_kept_for_the_way_back() -> None:
    block, x, kept = trained(BlockConfig("se")), tensor().requires_grad_(), list[Tensor]()
    with torch.autograd.graph.saved_tensors_hooks(lambda one: (kept.append(one), one)[1], lambda one: one):
        block(x)
    large = [one for one in kept if one.shape == x.shape]
    assert [one.data_ptr() for one in large] == [x.data_ptr()]


def test_all_that_was_kept_is_free_once_the_way_back_has_passed() -> None:
    class Kept:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

    kept = list[weakref.ref[Kept]]()

    def keep(tensor: Tensor) -> Kept:
        found = Kept(tensor.detach())
        kept.append(weakref.ref(found))
        return found

    block, x = trained(BlockConfig("se")), tensor().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda one: one.tensor):
        y = block(x)
    assert is_fast(y)
    loss = y.sum()
    assert len([one for one in kept if one() is not None]) > len(list(block.parameters()))
    loss.backward()
    assert [one for one in kept if one() is not None] == []  # though the network's graph is still there
    assert loss.grad_fn is not None


def test_gradients_of_gradients_of_parameters_that_stand_in_for_its_own() -> None:
    block, x = trained(BlockConfig("se")).double(), tensor(dtype=torch.float64)
    values = {name: (value.detach() + 0.1).requires_grad_() for name, value in block.named_parameters()}
    exact = copy.deepcopy(block)
    exact.load_state_dict(values)

    def of_gradients(y: Tensor, parameters: list[Tensor]) -> tuple[Tensor, ...]:
        once = torch.autograd.grad(y.square().sum(), parameters, create_graph=True)
        return torch.autograd.grad(sum(one.square().sum() for one in once), parameters)

    found = of_gradients(torch.func.functional_call(block, values, (x,)), list(values.values()))
    torch.testing.assert_close(found, of_gradients(plain(exact, x), list(exact.parameters())))


def test_of_other_parameters_gradients_of_gradients_are_refused() -> None:
    block, x = trained(BlockConfig("se")), tensor().requires_grad_()
    others = {name: nn.Parameter(value.detach() + 0.1) for name, value in block.named_parameters()}
    y = torch.func.functional_call(block, others, (x,)).square().sum()
    exact = copy.deepcopy(block)
    exact.load_state_dict(others)
    once = torch.autograd.grad(y, (x, *others.values()), retain_graph=True)
    expected = torch.autograd.grad(plain(exact, x).square().sum(), (x, *exact.parameters()))
    torch.testing.assert_close(once, expected)
    with pytest.raises(RuntimeError, match=r"SqueezeExcite are not those of its forward pass.*functional_call"):
        torch.autograd.grad(y, x, create_graph=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("twice", [False, True])
def test_hooks_on_tensors_are_called_once(kind: str, twice: bool) -> None:
    block, x = trained(BlockConfig(kind)).double(), tensor(dtype=torch.float64).requires_grad_()  # type: ignore

    def found(run: Callable[[Tensor], Tensor]) -> list[Tensor]:
        scaled = 1 * x
        scaled.register_hook(lambda grad: grad / 2)
        inputs = (x, *block.parameters())
        return list(torch.autograd.grad(run(scaled).square().sum(), inputs, create_graph=twice))

    before = found(block)
    for parameter in block.parameters():
        parameter.register_hook(lambda grad: grad / 2)
    expected = found(lambda x: plain(block, x))
    torch.testing.assert_close(found(block), expected)
    assert not torch.equal(before[1], expected[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", MEMORY)
def test_many_gradients_at_a_time(kind: str, order: str) -> None:
    block, x = trained(BlockConfig(kind)).double(), MEMORY[order](tensor(dtype=torch.float64))  # type: ignore
    ways = torch.stack([tensor(dtype=torch.float64), tensor(dtype=torch.float64)])
    x = x.detach().requires_grad_()
    inputs = (x, *block.parameters())
    y = block(x)
    found = torch.func.vmap(lambda way: torch.autograd.grad(y, inputs, way))(ways)
    one_by_one = [torch.autograd.grad(plain(block, x), inputs, way) for way in ways]
    torch.testing.assert_close(list(found), [torch.stack(each) for each in zip(*one_by_one, strict=True)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("places", [(5, 4), (12, 11)])
def test_many_gradients_at_a_time_by_autograd_itself(kind: str, places: tuple[int, int]) -> None:
    block = trained(BlockConfig(kind)).double()  # type: ignore[arg-type]
    x = torch.randn(3, CHANNELS, *places, dtype=torch.float64, requires_grad=True)
    ways = torch.randn(2, *x.shape, dtype=torch.float64)
    inputs = (x, *block.parameters())
    found = torch.autograd.grad(block(x), inputs, ways, is_grads_batched=True)
    torch.testing.assert_close(found, torch.autograd.grad(plain(block, x), inputs, ways, is_grads_batched=True))


def test_as_a_replica_of_data_parallel_it_passes_gradients_on() -> None:
    block, x = trained(BlockConfig("se")), tensor()
    replica = copy.deepcopy(block)
    for layer in (replica.fc1, replica.fc2):  # as torch.nn.parallel.replicate: tensors, no longer parameters
        assert isinstance(layer, nn.Module)
        weights = dict(layer.named_parameters())
        layer._parameters = {}
        for name, weight in weights.items():
            setattr(layer, name, weight.detach().requires_grad_())
    given = [tensor for layer in (replica.fc1, replica.fc2) for tensor in (layer.weight, layer.bias)]  # type: ignore
    expected = torch.autograd.grad(plain(block, x).square().sum(), list(block.parameters()))
    torch.testing.assert_close(torch.autograd.grad(replica(x).square().sum(), given), expected)


def test_a_transformation_of_functions_sees_the_plain_operations() -> None:
    block, x = trained(BlockConfig("se")).double(), tensor(dtype=torch.float64)
    values = {name: value.detach() for name, value in block.named_parameters()}

    def loss(values: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(block, values, (x,)).square().sum()

    found = torch.func.grad(loss)(values, x)
    expected = torch.autograd.grad(plain(block, x).square().sum(), list(block.parameters()))
    torch.testing.assert_close(list(found.values()), list(expected))
    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(values, x[:, None])
    torch.testing.assert_close([one.sum(0) for one in each.values()], list(expected))


def test_so_does_one_that_is_of_the_input_alone() -> None:
    block, x = trained(BlockConfig("se")).double(), tensor(dtype=torch.float64)
    found = torch.func.grad(lambda x: block(x).square().sum())(x)
    each = torch.func.vmap(block)(x)
    torch.testing.assert_close(each, plain(block, x))
    x.requires_grad_()
    torch.testing.assert_close(found, torch.autograd.grad(plain(block, x).square().sum(), x)[0])


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # which torch itself calls here
def test_forward_mode_differentiation() -> None:
    block, x, way = trained(BlockConfig("se")).double(), tensor(dtype=torch.float64), tensor(dtype=torch.float64)
    with forward_ad.dual_level():
        moved = forward_ad.unpack_dual(block(forward_ad.make_dual(x, way))).tangent
    step = 1e-6
    torch.testing.assert_close(moved, (block(x + step * way) - block(x - step * way)) / (2 * step))


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace")
def test_exported_and_traced_it_is_the_plain_operations() -> None:
    block, x = trained(BlockConfig("se")).eval(), tensor()
    program = torch.export.export(nn.Sequential(block), (x,))
    assert {"mean", "mul"} <= {
        str(node.target).split(".")[1] for node in program.graph.nodes if "aten" in str(node.target)
    }
    assert torch.equal(program.module()(x), block(x))
    traced = torch.jit.trace(block, x)
    assert torch.equal(traced(x), block(x))


def test_recomputed_in_the_backward_pass() -> None:
    block, x = trained(BlockConfig("se")), tensor()
    expected = gradients(block, block, x, torch.ones_like(x))
    found = gradients(lambda x: checkpoint(block, x, use_reentrant=False), block, x, torch.ones_like(x))
    assert all(map(torch.equal, found, expected))


@pytest.mark.slow  # a compiler starts
def test_compiled_it_learns_the_same() -> None:
    block, x = trained(BlockConfig("se")), tensor()
    compiled = torch.compile(block, fullgraph=True)
    ones = torch.ones_like(x)
    torch.testing.assert_close(gradients(compiled, block, x, ones), gradients(block, block, x, ones))


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_batch_has_no_gradient_and_no_error(kind: str) -> None:
    block = trained(BlockConfig(kind), 2, 1)  # type: ignore[arg-type]
    x = torch.zeros(0, CHANNELS, 4, 4, requires_grad=True)
    block(x).sum().backward()
    assert x.grad is not None
    assert x.grad.shape == x.shape
    assert all(one.grad is None or not one.grad.any() for one in block.parameters())


@pytest.mark.parametrize("order", ["contiguous", "channels-last"])
def test_large_tensors_in_large_pages_are_the_same(order: str) -> None:
    torch.manual_seed(0)
    block = build_block(BlockConfig("se"), 64).double()
    scramble(block)
    x, seen = (MEMORY[order](torch.randn(3, 64, 150, 150, dtype=torch.float64)) for _ in range(2))  # 35 MB
    assert torch.equal(block(x), plain(block, x))
    assert block(x).stride() == plain(block, x).stride()
    expected = gradients(lambda x: plain(block, x), block, x, seen)
    torch.testing.assert_close(gradients(block, block, x, seen), expected)


@pytest.mark.parametrize("shape", [(3, 5), (2, 64, 256, 256)])
def test_fresh_memory_is_like_empty_like(shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape)
    fresh = fresh_like(x, torch.float64)
    assert (fresh.shape, fresh.dtype, fresh.stride()) == (x.shape, torch.float64, x.stride())
    assert torch.equal(fresh.fill_(1), torch.ones(shape, dtype=torch.float64))
