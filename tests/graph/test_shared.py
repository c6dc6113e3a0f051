"""Modules with several names, or several calls in one forward: one block, shared as they are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sesurgeon import remove_se
from sesurgeon.blocks import BlockConfig
from sesurgeon.graph import survey
from sesurgeon.surgery import blocks_of, operate
from tests.networks import ResidualBlock


class Siamese(nn.Module):
    """One block in two branches, under two names, and an optional argument that is None."""

    def __init__(self) -> None:
        super().__init__()
        block = ResidualBlock(8)
        self.left = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), block)
        self.right = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), block)
        self.last = ResidualBlock(8)

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        return self.last(F.relu(self.left(before) - self.right(after)), None)


class Recurrent(nn.Module):
    """A cell that refines what it gave before, with another number each time."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.cell = Cell()

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        states = [x]
        for step in range(3):
            states.append(self.cell(states[-1], x, scale=1 / (step + 1)))
        return states[1:]


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(16, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1)

    def forward(self, state: Tensor, x: Tensor, scale: float = 1.0) -> Tensor:
        change = self.conv2(F.relu(self.conv1(torch.cat([state, x], 1))))
        return torch.add(state, scale * change)


def test_a_block_with_two_names_gets_one_block_with_both() -> None:
    model = Siamese()
    keys = list(model.state_dict())
    surgery = operate(model, BlockConfig())  # it makes both images itself
    assert (surgery.proof.in_eval, surgery.proof.in_train) == (True, True)
    assert [entry.site for entry in surgery.plan.entries] == ["left.1:residual", "last:residual"]
    assert surgery.model.left[1].se is surgery.model.right[1].se
    assert surgery.survey.site("left.1:residual").calls == 2
    assert [key for key in surgery.model.state_dict() if ".se." not in key] == keys
    assert list(remove_se(surgery.model).state_dict()) == keys


def test_a_cell_that_is_called_in_a_loop_gets_one_block_that_learns_from_every_call() -> None:
    surgery = operate(Recurrent(), BlockConfig(), example_inputs=torch.randn(2, 3, 16, 16))
    assert (surgery.proof.in_eval, surgery.proof.in_train) == (True, True)
    assert surgery.survey.site("cell:residual").calls == 3
    (block,) = blocks_of(surgery.model).values()
    first, _, last = surgery.model(torch.randn(2, 3, 16, 16))
    gradients = [torch.autograd.grad(state.sum(), block.fc2.bias, retain_graph=True)[0] for state in (first, last)]
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    assert not torch.equal(*gradients)


class Steered(nn.Module):
    """A cell whose number decides what it does."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.cell = nn.Conv2d(3, 8, 3, 2, 1), Depth()

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(self.cell(self.stem(x), 1), 2)


class Depth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, 1, 1)

    def forward(self, x: Tensor, times: int) -> Tensor:
        for _ in range(times):
            x = x + F.relu(self.conv(x))
        return x


def test_numbers_that_steer_one_module_in_two_ways_are_the_reason_that_is_given() -> None:
    (left,) = survey(Steered(), torch.randn(2, 3, 16, 16)).left_alone
    assert left.path == "cell"
    assert "a shape or number that the forward goes by was 1 when the blocks were inserted and is 2 now" in left.reason


class Borrows(nn.Module):
    """Its convolution is the network's too, under another name and for another tensor."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.own = conv

    def forward(self, x: Tensor) -> Tensor:
        return x + self.own(x)


def test_a_layer_that_the_network_knows_by_another_name_ends_a_branch() -> None:
    model = nn.Sequential()
    model.add_module("conv", nn.Conv2d(3, 3, 3, 1, 1))
    model.add_module("block", Borrows(model.conv))
    site = survey(model, torch.randn(2, 3, 8, 8)).site("block:residual")
    assert site.shapes == ((2, 3, 8, 8),)
