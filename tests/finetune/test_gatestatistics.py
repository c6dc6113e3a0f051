"""What is said of a gate, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from sesurgeon.finetune import GateStatistics
from sesurgeon.finetune.scoring.gatewatch import GateWatch


def watched(*batches: tuple[torch.Tensor, torch.Tensor], classes: int = 3) -> GateWatch:
    watch = GateWatch(classes)
    for factors, labels in batches:
        watch.set_labels(labels)
        watch.see("a.se", factors[..., None, None])
    return watch


def test_numbers_worked_out_by_hand() -> None:
    first = (torch.tensor([[1.0, 0.0], [1.0, 0.1]]), torch.tensor([0, 2]))
    second = (torch.tensor([[2.0, 0.0], [2.0, 0.1]]), torch.tensor([2, 0]))
    (sums,) = watched(first, second).sums()
    found = GateStatistics.of(sums, ceiling=2.0)
    assert (found.gate, found.images, found.channels) == ("a.se", 4, 2)
    assert found.mean == pytest.approx(0.775)
    assert found.image_spread == pytest.approx((0.5 + 0.05) / 2)
    assert found.largest_spread == pytest.approx(0.5)
    assert found.channel_spread == pytest.approx((1.5 - 0.05) / 2)
    # class 0: (1.5, 0.05), class 2: (1.5, 0.05); none of class 1
    assert found.class_spread == pytest.approx(0)
    assert (found.near_zero, found.near_one, found.near_ceiling) == (0.5, 0.0, 0.0)
    assert found.verdict == "live"


def test_classes_are_told_apart() -> None:
    (sums,) = watched((torch.tensor([[1.2, 1.0], [0.8, 1.0], [0.8, 1.0]]), torch.tensor([0, 1, 1]))).sums()
    means = sums.class_means()
    assert means is not None
    assert means[:2].tolist() == [pytest.approx([1.2, 1.0]), pytest.approx([0.8, 1.0])]
    assert means[2].isnan().all()
    assert GateStatistics.of(sums, 2.0).class_spread == pytest.approx((0.2 + 0) / 2)


def test_an_image_of_several_classes_counts_for_each() -> None:
    watch = GateWatch(2)
    watch.set_labels(torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
    watch.see("a.se", torch.tensor([[1.2], [0.8]])[..., None])
    means = watch.sums()[0].class_means()
    assert means is not None
    assert means.flatten().tolist() == pytest.approx([1.2, 1.0])


def test_of_a_gate_with_places_a_channel_varies_over_these_too() -> None:
    watch = GateWatch()
    watch.see("a.se", torch.tensor([[[[1.0, 2.0]], [[1.0, 1.0]]]]))  # (1 image, 2 channels, 1, 2 places)
    (sums,) = watch.sums()
    assert sums.channels == 2
    assert sums.channel_means().tolist() == [1.5, 1.0]
    assert sums.channel_spreads().tolist() == [0.5, 0.0]
    assert GateStatistics.of(sums, 2.0).image_spread == 0.0
    assert sums.class_means() is None
    assert GateStatistics.of(sums, 2.0).class_spread is None


def test_a_gate_that_tells_classes_by_a_single_channel_is_live() -> None:
    factors = torch.full((2, 128), 0.5)
    factors[1, 7] = 1.5
    (sums,) = watched((factors, torch.tensor([0, 1]))).sums()
    found = GateStatistics.of(sums, 2.0)
    assert found.image_spread == pytest.approx(0.5 / 128)
    assert found.largest_spread == pytest.approx(0.5)
    assert found.verdict == "live"


@pytest.mark.parametrize(
    ("factors", "ceiling", "near", "verdict"),
    [
        ([[1.0, 1.0], [1.0, 1.0]], 2.0, (0.0, 1.0, 0.0), "open"),
        ([[1.009, 1.0], [0.995, 1.0]], 2.0, (0.0, 1.0, 0.0), "open"),
        ([[1.95, 0.05], [1.95, 0.05]], 2.0, (0.5, 0.0, 0.5), "constant"),
        ([[1.0, 1.0], [0.95, 0.95]], 1.0, (0.0, 1.0, 1.0), "live"),
    ],
)
def test_the_verdict(
    factors: list[list[float]], ceiling: float, near: tuple[float, float, float], verdict: str
) -> None:
    (sums,) = watched((torch.tensor(factors, dtype=torch.float64), torch.tensor([0, 1]))).sums()
    found = GateStatistics.of(sums, ceiling)
    assert (found.near_zero, found.near_one, found.near_ceiling) == near
    assert found.verdict == verdict
    assert math.isclose(found.largest, max(abs(factor - 1) for row in factors for factor in row), rel_tol=1e-9)


def test_several_views_of_an_image_count_but_to_no_class() -> None:
    watch = GateWatch(2)
    watch.set_labels(torch.tensor([0, 1, 1]))
    watch.see("a.se", torch.full((6, 4), 1.5))
    watch.see("b.se", torch.full((3, 4), 1.5))
    views, images = watch.sums()
    assert (views.images, views.channel_means().tolist(), views.class_means()) == (6, [1.5] * 4, None)
    means = images.class_means()
    assert means is not None
    assert torch.equal(means, torch.full((2, 4), 1.5, dtype=torch.float64))


@pytest.mark.parametrize("broken_first", [True, False])
def test_a_factor_that_is_no_number_is_not_lost(broken_first: bool) -> None:
    watch = GateWatch()
    good, broken = torch.full((2, 3), 1.25), torch.full((2, 3), math.nan)
    for factors in (broken, good) if broken_first else (good, broken):
        watch.see("a.se", factors)
    (sums,) = watch.sums()
    assert not sums.finite
    assert math.isnan(sums.largest)
