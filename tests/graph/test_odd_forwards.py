"""Forwards that are followed although they use what few use: defaults, hooks, numpy's numbers, modules made anew."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sesurgeon.surgery import blocks_of, operate

X = torch.randn(2, 3, 8, 8)


class Pair(NamedTuple):
    first: Any
    second: Any


class Kind(enum.Enum):
    ONE = 1


@dataclass
class Output:
    last: Tensor
    aux: Tensor | None = None


class Child(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Output:
        return Output(self.conv(x))


class ByName(Child):
    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"last": self.conv(x)}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.layers = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1))
        self.child, self.by_name = Child(), ByName()
        self.by_width = nn.ModuleDict({"8": nn.ReLU(), "width8": nn.ReLU()})
        self.rate = np.linspace(0, 0.2, 3)[1]

    def body(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class TupleByDefault(Block):
    def forward(self, x: Tensor, pair: Pair = Pair(2, (1.5, math.inf)), *, kind: Kind = Kind.ONE) -> Tensor:
        return x + self.body(x) * pair.first * pair.second[0] * kind.value


class TypeByDefault(Block):
    def forward(self, x: Tensor, dtype: torch.dtype = torch.float32, where: Any = torch.device("cpu")) -> Tensor:
        return x + self.body(x).to(where, dtype)


class NumpyNumbers(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.rate * F.dropout(self.body(x), self.rate, self.training) * np.sqrt(x.shape[1])


class Shuffles(Block):
    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.data.size()
        return x + self.body(x).mT.mT.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class NamesByShape(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.by_width[str(x.shape[1])](x) + self.by_width["width" + str(x.shape[1])](self.body(x))


class ChecksIsTensor(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + (self.body(x) if torch.is_tensor(x) else x)


class NothingInAField(Block):
    def forward(self, x: Tensor) -> Tensor:
        output = self.child(x)
        return x + self.body(output.last if output.aux is None else output.aux)


class NothingUnderAName(Block):
    def forward(self, x: Tensor) -> Tensor:
        outputs = self.by_name(x)
        aux = outputs.get("aux")
        last = outputs["aux"] if "aux" in outputs else outputs["last"]
        return x + self.body(last if aux is None else aux)


class PartOfASequence(Block):
    def forward(self, x: Tensor) -> Tensor:
        return nn.ReLU()(self.layers[:2](x)) + x


class TakesATuple(Block):
    class Inner(Block):
        def forward(self, pair: Pair) -> Tensor:
            return pair.first + self.body(pair.first) * pair.second

    def __init__(self) -> None:
        super().__init__()
        self.inner = self.Inner()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(Pair(x, 2))


@pytest.mark.parametrize("make", [
    TupleByDefault, TypeByDefault, NumpyNumbers, Shuffles, NamesByShape, ChecksIsTensor, NothingInAField,
    NothingUnderAName, PartOfASequence, TakesATuple,
])  # fmt: skip
def test_it_is_followed(make: type[nn.Module]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), make())
    augmented = operate(model, example_inputs=X).model
    assert len(blocks_of(augmented)) == 1
    other = torch.randn(3, 3, 6, 10)
    for training in (True, False):
        torch.manual_seed(1)
        expected = model.train(training)(other)
        torch.manual_seed(1)
        assert torch.equal(augmented.train(training)(other), expected)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # the end of TorchScript
def test_a_scripted_function_is_one_operation() -> None:
    @torch.jit.script
    def doubled(x: Tensor) -> Tensor:
        return x * 2

    class Scripted(Block):
        def forward(self, x: Tensor) -> Tensor:
            return x + doubled(self.body(x))

    augmented = operate(nn.Sequential(nn.Conv2d(3, 8, 1), Scripted()), example_inputs=X).model
    assert list(blocks_of(augmented)) == ["1.se"]


@pytest.mark.parametrize("hang", [
    lambda block: block.register_forward_hook(lambda module, given, output: output * 2),
    lambda block: block.register_forward_pre_hook(lambda module, given: (given[0] * 2,)),
])  # fmt: skip
def test_hooks_that_change_values_stay_around_the_graph(hang: Callable[[nn.Module], Any]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), ChecksIsTensor())
    hang(model[1])
    augmented = operate(model, example_inputs=X).model
    assert list(blocks_of(augmented)) == ["1.se"]
    assert torch.equal(augmented.eval()(X), model.eval()(X))


class NamedAsAMethod(Block):
    """Its argument, and a child, are called what a mapping is asked with."""

    def forward(self, get: Tensor) -> Tensor:
        return get + self.body(get)


def test_a_name_is_no_question_to_a_mapping() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), NamedAsAMethod())
    assert len(blocks_of(operate(model, example_inputs=X).model)) == 1
