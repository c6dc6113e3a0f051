from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sesurgeon.errors import DataError
from sesurgeon.finetune import batches, open_data, preprocessing_for
from sesurgeon.finetune.data.images import item_of, labels_of
from sesurgeon.finetune.data.labels import Labels, ManyLabels
from sesurgeon.finetune.data.loader import PreparedImages, eval_loader, train_loader
from sesurgeon.finetune.data.readers import _report_unless_left, read
from sesurgeon.finetune.data.sampler import UpdateSampler, UpdateSize
from sesurgeon.finetune.data.transforms import eval_transform
from sesurgeon.models.preprocessing import Preprocessing

PLAIN = Preprocessing((1, 8, 8), (0.0,), (1.0,))


def _epoch(folder: Path, workers: int, epoch: int) -> list[torch.Tensor]:
    images = open_data(folder).split("train")
    updates = UpdateSampler(len(images), UpdateSize(5), seed=3)
    loader = train_loader(images, PLAIN, (0, 1), updates, workers=workers)
    updates.start(epoch)
    return [torch.cat([pictures.flatten(1), labels[:, None]], 1) for pictures, labels in loader]


def test_batches_do_not_depend_on_the_number_of_workers(split_folder: Path) -> None:
    alone, helped = _epoch(split_folder, 0, 1), _epoch(split_folder, 1, 1)
    assert len(alone) == 5
    assert all(torch.equal(one, other) for one, other in zip(alone, helped, strict=True))


def test_epochs_differ_and_the_callers_random_state_is_left(split_folder: Path) -> None:
    state = torch.get_rng_state()
    assert not torch.equal(torch.cat(_epoch(split_folder, 0, 0)), torch.cat(_epoch(split_folder, 0, 1)))
    assert torch.equal(torch.get_rng_state(), state)


def test_evaluation_keeps_the_order_and_maps_labels(split_folder: Path) -> None:
    images = open_data(split_folder).val
    loader = eval_loader(images, PLAIN, (7, 2), batch_size=4, workers=0)
    assert torch.cat([labels for _, labels in loader]).tolist() == [7] * 6 + [2] * 6


def test_batches_are_the_images_as_the_model_sees_them(split_folder: Path) -> None:
    data = open_data(split_folder)
    pictures, labels = next(batches(data, PLAIN, batch_size=12))
    assert pictures.shape == (12, 1, 8, 8)
    assert pictures.dtype == torch.float32
    assert labels.tolist() == [0] * 6 + [1] * 6
    first = torch.tensor(list(data.val[0][0].tobytes())).reshape(8, 8) / 255
    assert torch.allclose(pictures[0, 0], first, rtol=0, atol=1e-6)


class Faulty:
    """A dataset of others: its second image is torn, its third has no class."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]:
        if index == 1:
            raise OSError("image file is truncated")
        return Image.new("L", (8, 8)), 1 if index == 0 else -1


@pytest.mark.parametrize("workers", [0, 1])
def test_the_image_that_a_dataset_cannot_give_is_named(workers: int) -> None:
    loader = eval_loader(Faulty(), PLAIN, (0, 1), batch_size=1, workers=workers)
    reading = read(loader)
    next(reading)
    with pytest.raises(DataError, match=r"^The image with index 1 cannot be read: image file is truncated$"):
        next(reading)


@pytest.mark.parametrize("labels", [(0, 1), ManyLabels((0, 1), 2)])
def test_a_negative_target_is_not_the_last_class(labels: Labels) -> None:
    dataset = PreparedImages(Faulty(), "L", eval_transform(PLAIN), labels)
    with pytest.raises(DataError, match=r"The image with index 2 .*its target \(=-1\) is no class index"):
        dataset.__getitems__([2])


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ((torch.zeros(1, 8, 8), 0), r"it is a Tensor, not a PIL image; leave out ToTensor\(\)"),
        ((Image.new("L", (8, 8)), "dog"), r"its target \(='dog'\) is no class index"),
        ((Image.new("L", (8, 8)), (0, -1)), r"its target \(=\(0, -1\)\) is no class index"),
    ],
)
def test_what_a_dataset_gives_instead_of_an_image_and_its_class_is_named(item: Any, said: str) -> None:
    for read_first in (lambda: preprocessing_for(torch.nn.Conv2d(1, 1, 1), [item]), lambda: labels_of([item])):
        with pytest.raises(DataError, match=f"^The image with index 0 cannot be read: {said}"):
            read_first()


@pytest.mark.parametrize("target", [1, True, np.int64(1), torch.tensor(1), (0, 1), ()])
def test_a_class_index_may_be_a_number_of_any_kind_or_several(target: Any) -> None:
    images = [(Image.new("L", (8, 8)), target)]
    assert item_of(images, 0)[1] is target


class Stored:
    """Lists targets as torchvision's datasets do; what it returns is 1 and 2."""

    def __init__(self, listed: Any, **attributes: Any) -> None:
        self.labels = listed
        vars(self).update(attributes)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]:
        return Image.new("L", (8, 8)), index + 1


def test_classes_are_counted_as_they_are_returned_not_as_they_are_stored() -> None:
    for unlike in (
        Stored([5, 6]),
        Stored([5, 6], target_transform=lambda target: target - 4),
        Stored(["dog", "cat"], target_transform=None),
        Stored(torch.zeros(2, 8), target_transform=None),
    ):
        assert labels_of(unlike) == [(1,), (2,)]
    for listed in ([5, 6], torch.tensor([5, 6]), np.array([5, 6])):  # as they are listed, without reading the images
        assert labels_of(Stored(listed, target_transform=None)) == [(5,), (6,)]


@pytest.mark.parametrize("error", [ConnectionResetError("reset by peer"), FileNotFoundError("socket"), EOFError()])
def test_a_batch_that_a_dead_process_had_is_named_so(error: Exception) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise error

    reading = read(broken())
    assert next(reading) == 1
    with pytest.raises(DataError, match="A process that reads images died"):
        next(reading)


@pytest.mark.parametrize(
    ("error", "said"), [(BrokenPipeError("gone"), ""), (EOFError(), ""), (ValueError("odd"), "ValueError: odd\n")]
)
def test_a_reader_says_nothing_of_a_main_process_that_was_interrupted(
    error: Exception, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _report_unless_left(type(error), error, None)
    assert capsys.readouterr().err == said
