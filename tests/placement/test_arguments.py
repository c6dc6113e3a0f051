"""Example inputs as plain data, there and back."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from sesurgeon import UsageError, apply_plan, make_plan
from sesurgeon.placement import plan_from_data, plan_to_yaml
from sesurgeon.placement.arguments import describe_arguments, make_arguments
from sesurgeon.surgery import blocks_of

MODEL = nn.Conv2d(3, 4, 1)
IMAGES = torch.randn(2, 3, 8, 8)


def through_yaml(data: Any) -> Any:
    return yaml.safe_load(yaml.safe_dump(data))


def through_torch(data: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(data, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("keep", [through_yaml, through_torch])
@pytest.mark.parametrize("arguments", [
    [(1, 2), [3, (4.5, None)], ()],
    {0: "zero", "one": (True,), 2: {3: [()]}},
    {"shape": (1, 2), "tuple": [1], "items": {}},
])  # fmt: skip
def test_plain_arguments_come_back_equal(arguments: Any, keep: Any) -> None:
    assert make_arguments(keep(describe_arguments(arguments)), MODEL) == arguments


def test_tensors_come_back_in_shape_and_type() -> None:
    described = through_yaml(describe_arguments((IMAGES.half(), {7: torch.ones(2, dtype=torch.int64)})))
    image, numbers = make_arguments(described, MODEL)
    assert (image.shape, image.dtype) == (IMAGES.shape, torch.float16)
    assert (numbers[7].shape, numbers[7].dtype) == ((2,), torch.int64)


def test_an_empty_batch_is_refused_since_it_proves_nothing() -> None:
    with pytest.raises(UsageError, match=r"shape \(0, 3, 8, 8\) is empty: it would prove nothing"):
        make_plan(nn.Sequential(MODEL, nn.ReLU(), nn.AvgPool2d(2)), IMAGES[:0])


@pytest.mark.parametrize("arguments", [{1.5: 1}, {(1, 2): 1}, object()])
def test_what_cannot_be_kept_is_a_usage_error(arguments: Any) -> None:
    with pytest.raises(UsageError, match="cannot be kept in a plan"):
        describe_arguments(arguments)


class Pyramid(nn.Module):
    """Wants a tuple and a dict with integer keys, and looks at both."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())

    def forward(self, sizes: tuple[int, int], levels: dict[int, Tensor]) -> Tensor:
        assert isinstance(sizes, tuple)
        return self.conv(levels[3]).mean((2, 3))


def test_a_plan_from_a_file_runs_on_the_kinds_of_arguments_that_it_was_made_with() -> None:
    plan = make_plan(Pyramid(), example_inputs=((8, 8), {3: IMAGES}))
    again = plan_from_data(yaml.safe_load(plan_to_yaml(plan)))
    assert again == plan
    assert len(blocks_of(apply_plan(Pyramid(), again))) == 1
