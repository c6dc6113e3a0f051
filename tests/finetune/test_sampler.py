"""Which images are in which update, on any number of processes."""

from __future__ import annotations

from collections import Counter

import pytest

from sesurgeon.finetune.data.sampler import Draw, UpdateSampler, UpdateSize


def batches_of(images: int, size: UpdateSize, epoch: int = 0, update: int = 0) -> list[list[list[Draw]]]:
    """The batches of each process."""
    found = []
    for process in range(size.processes):
        updates = UpdateSampler(images, size, seed=5, process=process)
        updates.start(epoch, update)
        batches = list(updates)
        assert len(batches) == len(updates)
        found.append(batches)
    return found


def by_update(images: int, size: UpdateSize) -> list[set[Draw]]:
    processes = batches_of(images, size)
    updates = len(processes[0]) // size.steps
    return [
        {
            draw
            for steps in processes
            for step in steps[number * size.steps : (number + 1) * size.steps]
            for draw in step
        }
        for number in range(updates)
    ]


@pytest.mark.parametrize(("images", "batch_size", "drawn"), [(9, 4, 8), (10, 4, 10), (8, 4, 8), (3, 1, 3), (1, 4, 1)])
def test_a_last_batch_of_one_image_is_dropped(images: int, batch_size: int, drawn: int) -> None:
    [batches] = batches_of(images, UpdateSize(batch_size))
    indices = [index for batch in batches for index, _ in batch]
    assert len(indices) == len(set(indices)) == drawn


@pytest.mark.parametrize("images", [32, 37, 45])
@pytest.mark.parametrize("size", [UpdateSize(4, 1, 4), UpdateSize(4, 4, 1), UpdateSize(4, 2, 2), UpdateSize(8, 1, 2)])
def test_an_update_has_the_same_images_on_any_number_of_processes(images: int, size: UpdateSize) -> None:
    whole = by_update(images, UpdateSize(16))
    parts = by_update(images, size)
    assert parts == whole[: len(parts)]
    assert len(whole) - len(parts) <= 1  # the last one may be too small for so many


def test_the_last_update_is_split_evenly() -> None:
    sizes = [[len(step) for step in steps] for steps in batches_of(16 + 7, UpdateSize(4, 2, 2))]
    assert sorted(size for steps in sizes for size in steps[2:]) == []  # 7 in 4 batches: one would be alone
    sizes = [[len(step) for step in steps] for steps in batches_of(16 + 9, UpdateSize(4, 2, 2))]
    assert sorted(size for steps in sizes for size in steps[2:]) == [2, 2, 2, 3]
    updates = UpdateSampler(25, UpdateSize(4, 2, 2), seed=0)
    assert [updates.images_of(number) for number in range(updates.per_epoch)] == [16, 9]


def test_an_epoch_can_be_continued_from_any_update() -> None:
    size = UpdateSize(4, 2, 1)
    [whole] = batches_of(41, size, epoch=3)
    [rest] = batches_of(41, size, epoch=3, update=2)
    assert rest == whole[4:]
    assert batches_of(41, size, epoch=4)[0] != whole


def test_weights_draw_with_replacement() -> None:
    updates = UpdateSampler(100, UpdateSize(50), seed=1, weights=[0.0] * 50 + [1.0] * 40 + [4.0] * 10)
    drawn = Counter(index for batch in updates for index, _ in batch)
    assert sum(drawn.values()) == 100
    assert min(drawn) >= 50
    assert sum(drawn[index] for index in range(90, 100)) > 30  # half of the weight


def test_too_few_images_make_no_update() -> None:
    assert UpdateSampler(3, UpdateSize(2, 2, 2), seed=0).per_epoch == 0
