"""A block behind a BatchNorm where something looks on, or changes what the two are made of."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cases import CHANNELS
from normed import assert_alike, batch, is_joined, pair
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from sesurgeon.blocks.kernel.behind_norm import scaled_result
from sesurgeon.blocks.layout import Layout


@pytest.mark.parametrize("watched", ["norm", "sequence", "block", "gate", "weight", "child of timm's"])
def test_what_is_watched_is_seen(watched: str) -> None:
    norm, block = pair()
    if watched == "child of timm's":
        norm = BatchNormAct2d(CHANNELS, apply_act=False).double()
    sequence = nn.Sequential(norm)
    seen = list[Tensor]()

    def see(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        output.register_hook(seen.append)
        seen.append(output)

    if watched == "weight":
        norm.weight.register_hook(seen.append)  # type: ignore[union-attr, arg-type]
    else:
        of = {"norm": norm, "sequence": sequence, "block": block, "gate": block.gate}
        of |= {"child of timm's": getattr(norm, "act", norm)}
        of[watched].register_forward_hook(see)  # type: ignore[union-attr]
    x = batch(5, 4)
    y = scaled_result(sequence, block, x)
    assert not is_joined(y)
    y.square().sum().backward()
    assert len(seen) == (1 if watched == "weight" else 2)
    if watched in ("norm", "sequence", "child of timm's"):
        output = seen[0].detach()
        seen.clear()
        assert torch.equal(output, norm(x))  # not written over


@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputed_in_the_backward_pass(reentrant: bool) -> None:
    norm, block = pair()
    x, begun, computed = batch(5, 4), list[Tensor](), list[bool]()

    def compute(x: Tensor) -> Tensor:
        begun.append(x)
        y: Tensor = scaled_result(norm, block, x)
        computed.append(is_joined(y))
        return y

    def run(x: Tensor) -> Tensor:
        y: Tensor = checkpoint(compute, x, use_reentrant=reentrant)
        return y

    def of(run: Callable[[Tensor], Tensor]) -> list[Tensor | None]:
        for part in (norm, block):
            part.zero_grad()
        leaf = x.clone().requires_grad_()
        run(leaf).square().sum().backward()
        return [leaf.grad, *(one.grad for part in (norm, block) for one in part.parameters())]

    found = of(run)
    assert len(begun) == 2  # once forward, once backward: to look at what is kept would compute it once more
    assert computed == ([False, True] if reentrant else [False])  # the other kind stops in the middle of computing anew
    torch.testing.assert_close(found, of(lambda x: block(norm(x))))


def test_kept_elsewhere() -> None:
    norm, block = pair()
    x = batch(5, 4).requires_grad_()
    with torch.autograd.graph.save_on_cpu():
        y = scaled_result(norm, block, x)
    assert not is_joined(y)
    found = torch.autograd.grad(y.square().sum(), x)
    torch.testing.assert_close(found, torch.autograd.grad(block(norm(x)).square().sum(), x))


def test_parameters_that_stand_in_for_its_own() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.block = pair()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = scaled_result(self.norm, self.block, x)
            return y

    both, x = Both(), batch(5, 4)
    values = {name: (value.detach() + 0.1).requires_grad_() for name, value in both.named_parameters()}
    exact = copy.deepcopy(both)
    exact.load_state_dict(values, strict=False)
    found = torch.autograd.grad(torch.func.functional_call(both, values, (x,)).square().sum(), list(values.values()))
    expected = torch.autograd.grad(exact(x).square().sum(), list(exact.parameters()))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("part", ["norm", "block"])
def test_parameters_in_another_order(part: str) -> None:
    norm, block = pair()
    layer = norm if part == "norm" else block.fc1
    prune.remove(prune.identity(layer, "weight"), "weight")  # type: ignore[no-untyped-call]
    assert next(iter(layer._parameters)) == "bias"  # type: ignore[union-attr]
    assert_alike(norm, block, batch(5, 4))


def test_a_norm_with_another_parameter_is_called_as_ever() -> None:
    norm, block = pair()
    norm.register_parameter("bias", None)
    norm.register_parameter("extra", nn.Parameter(torch.ones(CHANNELS).double()))
    x = batch(5, 4).requires_grad_()
    y = scaled_result(norm, block, x)
    assert not is_joined(y)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x), torch.autograd.grad(block(norm(x)).sum(), x))


@pytest.mark.parametrize("change", ["statistics", "bias", "bias, unseen"])
def test_what_changes_before_the_way_back(change: str) -> None:
    norm, block = pair()
    norm.eval()
    x = batch(5, 4).requires_grad_()
    inputs = (x, *block.parameters())
    expected = torch.autograd.grad(block(norm(x)).square().sum(), inputs)
    y = scaled_result(norm, block, x)
    if change == "statistics":
        norm.train()(5 * batch(5, 4))
    elif change == "bias":
        with torch.no_grad():
            norm.bias.add_(1)  # type: ignore[operator, union-attr]
    else:
        norm.bias.data.add_(1)  # type: ignore[operator, union-attr]
    torch.testing.assert_close(torch.autograd.grad(y.square().sum(), inputs, retain_graph=True), expected)
    if change != "statistics":
        with pytest.raises(RuntimeError, match="bias of a BatchNorm has changed"):
            torch.autograd.grad(y.square().sum(), inputs, create_graph=True)


def test_a_parameter_of_both() -> None:
    norm, block = pair()
    norm.bias = block.fc2.bias  # type: ignore[assignment]
    x = batch(5, 4).requires_grad_()
    ours, theirs = scaled_result(norm, block, x), block(norm(x))
    assert is_joined(ours)
    for twice in (False, True):
        found, expected = (
            torch.autograd.grad(one.square().sum(), (x, norm.bias), create_graph=twice, retain_graph=True)  # type: ignore[list-item]
            for one in (ours, theirs)
        )
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("late", ["input", "weight", "bias"])
def test_hooks_of_later_are_called_once(late: str, twice: bool) -> None:
    def found(run: Callable[[nn.Module, nn.Module, Tensor], Tensor]) -> list[Tensor]:
        norm, block = pair()
        torch.manual_seed(0)
        x, seen = batch(5, 4).requires_grad_(), list[Tensor]()
        y = run(norm, block, x)
        {"input": x, "weight": norm.weight, "bias": norm.bias}[late].register_hook(seen.append)  # type: ignore[union-attr, arg-type]
        torch.autograd.grad(y.square().sum(), (x, *norm.parameters()), create_graph=twice)
        return seen

    ours = found(scaled_result)
    assert len(ours) == 1
    torch.testing.assert_close(ours, found(lambda norm, block, x: block(norm(x))))


class Keeping:
    """A mode that keeps what norms give, and how it was."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = list[tuple[Tensor, Tensor]]()

    def run(self, call: Any, args: Any, kwargs: Any) -> Any:
        found = call(*args, **(kwargs or {}))
        if "batch_norm" in str(call):
            y = found[0] if isinstance(found, tuple) else found
            self.seen.append((y, y.detach().clone()))
        return found


class Calls(Keeping, TorchFunctionMode):
    def __torch_function__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(call, args, kwargs)


class Results(Keeping, TorchDispatchMode):
    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(call, args, kwargs)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("mode", [Calls, Results])
def test_what_modes_have_seen_is_not_written_over(mode: type[Calls | Results], grad: bool) -> None:
    norm, block = pair()
    with mode() as watching, torch.set_grad_enabled(grad):
        y = scaled_result(norm, block, batch(5, 4).requires_grad_())
    assert is_joined(y) == (grad and mode is Results)
    assert watching.seen
    assert all(torch.equal(one, as_it_was) for one, as_it_was in watching.seen)


@pytest.mark.parametrize("how", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_without_gradients_it_is_scaled_in_place(
    how: Callable[[], Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    norm, block = pair(dtype=dtype)
    norm.eval()
    x = batch(5, 4, dtype=dtype)
    before, given = x.clone(), list[int]()
    with how():
        expected = block(norm(x))
        squeezed = block.layout.squeezed
        monkeypatch.setattr(Layout, "squeezed", lambda _, y, *how: (given.append(y.data_ptr()), squeezed(y, *how))[1])
        y = scaled_result(norm, block, x)
    assert torch.equal(y, expected)
    assert torch.equal(x, before)
    assert given == [y.data_ptr()]
    with how(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(scaled_result(norm, block, x), block(norm(x)))


def test_keywords_of_any_name() -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor, block: int = 0, module: int = 0) -> Tensor:
            return x + block + module

    _, block = pair()
    x = batch(5, 4)
    assert torch.equal(scaled_result(Named(), block, x, block=1, module=2), block(x + 3))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own look at it
def test_a_compiled_block_is_called_as_it_was_compiled() -> None:
    norm, block = pair()
    block.compile(backend="eager")
    assert not is_joined(scaled_result(norm, block, batch(5, 4).requires_grad_()))


class Backwards(nn.Sequential):
    def __iter__(self) -> Iterator[nn.Module]:
        return iter(list(self._modules.values())[::-1])  # type: ignore[arg-type]


def test_a_sequence_in_an_order_of_its_own() -> None:
    (first, block), (last, _) = pair(), pair()
    assert_alike(Backwards(first, nn.Conv2d(CHANNELS, CHANNELS, 1).double(), last), block, batch(5, 4), joined=False)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("patched", [(nn.BatchNorm2d, "forward"), (nn.Module, "__call__")], ids=lambda one: one[1])
def test_a_class_that_was_patched(patched: tuple[type, str], monkeypatch: pytest.MonkeyPatch, grad: bool) -> None:
    seen, original = list[tuple[nn.Module, Tensor, Tensor]](), getattr(*patched)

    def record(self: nn.Module, x: Tensor) -> Tensor:
        y: Tensor = original(self, x)
        seen.append((self, y, y.detach().clone()))
        return y

    norm, block = pair()
    monkeypatch.setattr(*patched, record)
    with torch.set_grad_enabled(grad):
        assert not is_joined(scaled_result(norm, block, batch(5, 4).requires_grad_()))
    assert seen[0][0] is norm
    assert [module for module, *_ in seen if module is block] == ([block] if patched[1] == "__call__" else [])
    assert torch.equal(seen[0][1], seen[0][2])


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.block = pair(dtype=torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = scaled_result(self.norm, self.block, x)
        return y


def test_compiled_and_exported_as_a_whole() -> None:
    both, x = Joined().eval(), batch(5, 4, dtype=torch.float32)
    expected = both(x)
    compiled = torch.compile(both, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)
    torch.testing.assert_close(torch.export.export(both, (x,)).module()(x), expected)
