"""On which inputs a network is looked at again, after surgery."""

from __future__ import annotations

import torch
from torch import nn

from sesurgeon import add_se, remove_se
from sesurgeon.models import Preprocessing, Provenance, Source, attach_provenance, example_inputs
from sesurgeon.surgery import known_inputs


def signals() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())


def test_those_of_the_plan_in_the_type_of_the_weights() -> None:
    augmented = add_se(signals(), torch.randn(3, 2, 50), policy="conv")
    (given,) = known_inputs(augmented.double())
    assert (given.shape, given.dtype) == ((3, 2, 50), torch.float64)


def test_without_a_plan_they_are_made_from_the_model() -> None:
    for plain in (signals(), remove_se(add_se(signals(), torch.randn(3, 2, 50), policy="conv"))):
        assert known_inputs(plain)[0].shape == example_inputs(plain)[0].shape


def test_the_size_of_the_images_that_it_was_trained_for_comes_first() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    augmented = add_se(model, torch.randn(2, 3, 16, 16), policy="conv")
    images = Preprocessing((3, 20, 24), (0.5,) * 3, (0.5,) * 3)
    attach_provenance(augmented, Provenance(Source("module"), preprocessing=images))
    assert known_inputs(augmented)[0].shape[1:] == (3, 20, 24)
