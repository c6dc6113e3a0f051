"""How much memory tensors take at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sesurgeon.errors import UsageError
from sesurgeon.export import measure_memory


class Chain(nn.Module):
    """Adds 1, so many times; ``keeps`` all results until the end, which autograd does not."""

    def __init__(self, steps: int, *, keeps: bool) -> None:
        super().__init__()
        self.steps, self.keeps = steps, keeps
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for _ in range(self.steps):
            x = x + 1
            if self.keeps:
                kept.append(x)
        return x.mean((1, 2, 3))


def test_what_lives_at_a_time_is_counted_by_hand() -> None:
    images = torch.zeros(2, 4, 8, 8)  # 2,048 bytes
    (found,) = measure_memory(
        Chain(5, keeps=False), Chain(5, keeps=True), images, batch=2, runtimes=("torch", "onnxruntime")
    )
    assert (found.runtime, found.batch) == ("torch", 2)
    assert found.base_bytes == 2 * 2048  # a result, and the one that it is made of
    assert found.augmented_bytes == 5 * 2048 + 2 * 4  # all of them, and the means
    assert found.ratio == found.augmented_bytes / found.base_bytes


def test_batches_are_made_of_what_there_is() -> None:
    found = measure_memory(*[Chain(1, keeps=False)] * 2, torch.zeros(2, 4, 8, 8), batch=5, runtimes=("torch",))
    assert found[0].base_bytes == 5 * 1024 + 5 * 4


class Squares(nn.Module):
    """Autograd keeps each input of a square."""

    def __init__(self, squares: int) -> None:
        super().__init__()
        self.weight, self.squares = nn.Parameter(torch.ones(1)), squares

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.weight
        for _ in range(self.squares):
            x = x.square()
        return x


@pytest.mark.parametrize("more", [1, 4])
def test_a_step_of_training_holds_what_autograd_keeps(more: int) -> None:
    images = torch.full((2, 4, 8, 8), 0.5)
    base, augmented = Squares(2), Squares(2 + more)
    (found,) = measure_memory(base, augmented, images, batch=2, runtimes=("training",))
    assert found.augmented_bytes - found.base_bytes == more * 2048
    assert base.weight.grad is None


class Weighty(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(64, 256))

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 2, 3)) * self.weight.sum()


def test_what_the_first_step_allocates_for_good_does_not_count() -> None:
    (found, _) = measure_memory(Weighty(), Weighty(), torch.ones(1, 1, 2, 2), batch=1, runtimes=("training", "torch"))
    gradient = 4 * 64 * 256
    assert gradient <= found.base_bytes < 1.5 * gradient  # without the momentum, which is as large


class Refusing(Squares):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise ValueError("not in train mode")
        return super().forward(x)


def test_a_call_that_raises_has_no_peak_but_a_reason() -> None:
    found = measure_memory(Squares(1), Refusing(1), torch.zeros(2, 4, 8, 8), batch=2)
    assert [(one.runtime, one.failure) for one in found] == [
        ("torch", None),
        ("training", "With blocks: not in train mode"),
    ]
    assert (found[1].base_bytes, found[1].augmented_bytes, found[1].ratio) == (None, None, None)


def test_images_without_room_in_memory_have_no_peak_but_a_reason() -> None:
    (found,) = measure_memory(Squares(1), Squares(1), torch.zeros(1, 4, 8, 8), batch=10**15, runtimes=("torch",))
    assert found.failure is not None


def test_the_callers_random_numbers_stay_as_they_are() -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Dropout())
    before = torch.get_rng_state()
    measure_memory(network, network, torch.zeros(2, 4, 8, 8), batch=2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("batch", "runtime", "said"), [(0, "torch", "0 images"), (1, "tensorrt", "'tensorrt'")])
def test_what_cannot_be_measured_is_refused(batch: int, runtime: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        measure_memory(Squares(1), Squares(1), torch.zeros(1, 4, 8, 8), batch=batch, runtimes=(runtime,))
