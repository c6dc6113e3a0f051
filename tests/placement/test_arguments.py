"""Example inputs as plain data, there and back."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from sesurgeon import (
    UntraceableError,
    UsageError,
    add_se,
    apply_adapter,
    apply_plan,
    extract_adapter,
    fold_gate_scale,
    load,
    make_plan,
    save,
)
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


@pytest.mark.parametrize("tensor", [
    torch.tensor([20, 15]),
    torch.tensor([1.0, 0.7]),
    torch.tensor(0.1),
    torch.tensor([[True, False, True]]),
    torch.ones(2, 2000, dtype=torch.bool),
    torch.tensor([[0.0, 0.0, 5.0, 5.0], [1.0, 1.0, 7.0, 7.0]]),
    torch.arange(2000),
])  # fmt: skip
def test_lengths_time_steps_boxes_and_masks_come_back_equal(tensor: Tensor) -> None:
    assert torch.equal(make_arguments(through_yaml(describe_arguments(tensor)), MODEL), tensor)


@pytest.mark.parametrize("images", [torch.rand(2, 3, 8, 8), 9 + IMAGES.abs(), IMAGES.sin(), IMAGES.sigmoid().half()])
def test_images_that_are_never_negative_or_within_one_come_back_in_their_range(images: Tensor) -> None:
    described = through_yaml(describe_arguments(images))
    again = make_arguments(described, MODEL)
    assert (again.min(), again.max(), again.dtype) == (images.min(), images.max(), images.dtype)
    assert len(again.unique()) > 100
    assert describe_arguments(again) == described


def test_images_that_are_the_same_everywhere_stand_for_any() -> None:
    assert describe_arguments(torch.ones(2, 3, 8, 8)) == {"shape": [2, 3, 8, 8], "dtype": "float32"}


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


class Lengths(nn.Module):
    """Reads of each signal as far as it goes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv1d(4, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU())
        self.lstm = nn.LSTM(8, 4, batch_first=True)

    def forward(self, signals: Tensor, lengths: Tensor) -> Tensor:
        maps = self.conv(signals).transpose(1, 2)
        packed = nn.utils.rnn.pack_padded_sequence(maps, lengths, batch_first=True, enforce_sorted=False)
        return self.lstm(packed)[1][0]


def test_a_network_that_reads_lengths_is_saved_folded_and_comes_back(tmp_path: Path) -> None:
    model, inputs = Lengths().eval(), (torch.randn(2, 4, 20), torch.tensor([20, 15]))
    augmented = add_se(model, inputs)
    save(augmented, tmp_path / "a.se.pt")
    extract_adapter(augmented, tmp_path / "a.adapter.safetensors")
    expected = model(*inputs)
    for again in (
        load(tmp_path / "a.se.pt", trust_pickle=True),
        apply_adapter(model, tmp_path / "a.adapter.safetensors"),
        fold_gate_scale(augmented),
    ):
        assert torch.equal(again(*inputs), expected)


class Picky(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        if x.max() > 2:
            raise ValueError("too bright")
        return self.conv(x).mean((2, 3))


def test_inputs_that_no_plan_could_make_again_are_refused_before_there_is_anything_to_lose() -> None:
    with pytest.raises(UntraceableError, match=r"not on those that can be restored .*: ValueError: too bright"):
        add_se(Picky(), IMAGES.clamp(-2, 2))
    add_se(Picky(), IMAGES.clamp(-1, 1))


class OnAGraph(Picky):
    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return super().forward(x) + edges.sum()


def test_of_sparse_inputs_a_plan_keeps_shape_and_type() -> None:
    edges = torch.eye(5).to_sparse()
    assert describe_arguments(edges) == {"shape": [5, 5], "dtype": "float32"}
    assert len(blocks_of(add_se(OnAGraph(), (IMAGES.clamp(-1, 1), edges)))) == 1


def test_numbers_of_numpy_become_plain_data() -> None:
    assert describe_arguments((np.float32(0.5), [np.int64(3)])) == {"tuple": [0.5, [3]]}
    assert type(describe_arguments(np.float64(0.5))) is float
