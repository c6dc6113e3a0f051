"""Which images make which update, on how many processes soever."""

from __future__ import annotations

from collections import Counter

import pytest

from sesurgeon.finetune.data.updates import Draw, Shape, UpdateSampler


def dealt(images: int, shape: Shape, epoch: int = 0, update: int = 0) -> list[list[list[Draw]]]:
    """By process, its steps."""
    found = []
    for process in range(shape.processes):
        updates = UpdateSampler(images, shape, seed=5, process=process)
        updates.start(epoch, update)
        batches = list(updates)
        assert len(batches) == len(updates)
        found.append(batches)
    return found


def by_update(images: int, shape: Shape) -> list[set[Draw]]:
    processes = dealt(images, shape)
    updates = len(processes[0]) // shape.steps
    return [
        {
            draw
            for steps in processes
            for step in steps[number * shape.steps : (number + 1) * shape.steps]
            for draw in step
        }
        for number in range(updates)
    ]


@pytest.mark.parametrize(("images", "batch_size", "drawn"), [(9, 4, 8), (10, 4, 10), (8, 4, 8), (3, 1, 3), (1, 4, 1)])
def test_an_image_alone_in_the_last_batch_is_left_out(images: int, batch_size: int, drawn: int) -> None:
    [batches] = dealt(images, Shape(batch_size))
    indices = [index for batch in batches for index, _ in batch]
    assert len(indices) == len(set(indices)) == drawn


@pytest.mark.parametrize("images", [32, 37, 45])
@pytest.mark.parametrize("shape", [Shape(4, 1, 4), Shape(4, 4, 1), Shape(4, 2, 2), Shape(8, 1, 2)])
def test_updates_are_made_of_the_same_images_however_they_are_dealt_out(images: int, shape: Shape) -> None:
    whole = by_update(images, Shape(16))
    parts = by_update(images, shape)
    assert parts == whole[: len(parts)]
    assert len(whole) - len(parts) <= 1  # the last one may be too small for so many


def test_the_last_update_is_dealt_out_evenly() -> None:
    sizes = [[len(step) for step in steps] for steps in dealt(16 + 7, Shape(4, 2, 2))]
    assert sorted(size for steps in sizes for size in steps[2:]) == []  # 7 on 4 hands would leave one image alone
    sizes = [[len(step) for step in steps] for steps in dealt(16 + 9, Shape(4, 2, 2))]
    assert sorted(size for steps in sizes for size in steps[2:]) == [2, 2, 2, 3]
    updates = UpdateSampler(25, Shape(4, 2, 2), seed=0)
    assert [updates.size(number) for number in range(updates.per_epoch)] == [16, 9]


def test_an_epoch_can_be_taken_up_in_its_middle() -> None:
    shape = Shape(4, 2, 1)
    [whole] = dealt(41, shape, epoch=3)
    [rest] = dealt(41, shape, epoch=3, update=2)
    assert rest == whole[4:]
    assert dealt(41, shape, epoch=4)[0] != whole


def test_weights_draw_with_replacement() -> None:
    updates = UpdateSampler(100, Shape(50), seed=1, weights=[0.0] * 50 + [1.0] * 40 + [4.0] * 10)
    drawn = Counter(index for batch in updates for index, _ in batch)
    assert sum(drawn.values()) == 100
    assert min(drawn) >= 50
    assert sum(drawn[index] for index in range(90, 100)) > 30  # half of the weight


def test_too_few_images_make_no_update() -> None:
    assert UpdateSampler(3, Shape(2, 2, 2), seed=0).per_epoch == 0
