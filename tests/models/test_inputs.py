from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from sesurgeon.graph import survey
from sesurgeon.models import candidate_inputs, eval_inputs, example_inputs, is_detector, train_inputs
from tests.detectors import detector


def shapes(model: nn.Module, number: int) -> list[Any]:
    candidates = itertools.islice(candidate_inputs(model), number)
    return [[tuple(argument.shape) for argument in inputs] for inputs in candidates]


class Flow(nn.Module):
    """Two images through the same layers, and a number that has a default."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU())
        self.joined = nn.Sequential(nn.Conv2d(8, 4, 3, 2), nn.ReLU())

    def forward(self, before: Tensor, after: Tensor, updates: int = 3) -> Tensor:
        return self.joined(torch.cat([self.features(before), self.features(after)], 1)) * updates


class Diffusion(nn.Module):
    """An image and its time step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.steps = nn.Embedding(10, 4)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        return self.conv(x) + self.steps(step)[:, :, None, None]


class Clip(nn.Module):
    """Like S3D: its last pooling takes no clip smaller than 16 frames of 224 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 2, 1, (8, 32, 32))
        self.pool = nn.AvgPool3d((2, 7, 7))

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv(x))


def test_a_classifier_gets_two_images_of_imagenets_size_first() -> None:
    assert shapes(resnet18(), 3) == [[(2, 3, 224, 224)], [(2, 3, 299, 299)], [(2, 3, 32, 32)]]


def test_several_required_arguments_are_images_each_or_one_integer_an_image() -> None:
    model = Flow()
    assert shapes(model, 2) == [[(2, 3, 128, 128)] * 2, [(2, 3, 128, 128), (2,)]]
    first, second = next(candidate_inputs(model))
    assert torch.equal(first, second)
    assert first is not second


def test_a_network_with_a_time_step_runs_on_images_and_zeros() -> None:
    images, steps = example_inputs(Diffusion())
    assert images.shape == (2, 3, 128, 128)
    assert steps.tolist() == [0, 0]


def test_a_network_of_clips_gets_the_first_size_that_it_takes() -> None:
    (clips,) = example_inputs(Clip())
    assert clips.shape == (2, 3, 16, 224, 224)


def test_detectors_get_a_list_of_narrow_images_that_their_transform_leaves_as_they_are() -> None:
    model = detector("faster")
    (images,) = next(candidate_inputs(model))
    assert [tuple(image.shape) for image in images] == [(3, 64, 64)] * 2
    model.transform.min_size, model.transform.max_size = (800,), 1333
    (images,) = next(candidate_inputs(model))
    assert [tuple(image.shape) for image in images] == [(3, 64, 1333)] * 2
    scaled, _ = model.transform(images)
    assert scaled.image_sizes == [(64, 1333)] * 2


def test_ssd_gets_images_of_its_fixed_size() -> None:
    model = detector("ssd")
    model.transform.fixed_size = (48, 32)  # width and height
    (images,) = next(candidate_inputs(model))
    assert images[0].shape == (3, 32, 48)


@pytest.mark.parametrize(("kind", "further"), [("faster", set()), ("mask", {"masks"}), ("keypoint", {"keypoints"})])
def test_targets_lie_in_their_images(kind: str, further: set[str]) -> None:
    images = [torch.rand(3, 40, 60), torch.rand(3, 64, 32)]
    given, targets = next(train_inputs(detector(kind), (images,)))
    assert given is images
    for image, target in zip(images, targets, strict=True):
        assert target.keys() == {"boxes", "labels"} | further
        height, width = image.shape[-2:]
        x0, y0, x1, y1 = target["boxes"].unbind(1)
        assert ((x0 >= 0) & (x0 < x1) & (x1 <= width)).all()
        assert ((y0 >= 0) & (y0 < y1) & (y1 <= height)).all()
        if "masks" in target:
            assert target["masks"].shape == (2, height, width)
        if "keypoints" in target:
            assert target["keypoints"].shape == (2, 3, 3)
            assert (target["keypoints"][:, :, 0] < x1.min()).all()


def test_the_arguments_of_other_networks_are_the_same_in_both_modes() -> None:
    given = (torch.rand(1, 3, 8, 8), torch.rand(2))
    model = Flow()
    assert eval_inputs(model, given) is given
    assert list(train_inputs(model, given)) == [given]


def test_parts_of_a_detector_are_no_detectors() -> None:
    model = detector("faster")
    assert is_detector(model)
    assert not any(is_detector(part) for part in list(model.modules())[1:])


def test_a_survey_makes_both_images_of_an_optical_flow_network() -> None:
    found = survey(Flow())
    assert [tuple(argument.shape) for argument in found.inputs] == [(2, 3, 128, 128)] * 2
    assert (found.site("features:conv").calls, found.site("joined.1:conv").calls) == (2, 1)
