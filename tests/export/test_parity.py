"""The comparison itself, on numbers computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from sesurgeon.errors import VerificationError
from sesurgeon.export.parity import compare


def test_differences_are_those_of_the_worst_batch_over_the_largest_distance_from_an_images_mean() -> None:
    expected = [torch.tensor([[1.0, -8.0]]), torch.tensor([[2.0, 1.0], [0.0, 4.0]])]
    got = [torch.tensor([[1.0, -8.5]]), torch.tensor([[2.0, 1.0], [3.0, 2.0]])]

    parity = compare(expected, got, 1e-4)

    assert parity.batch_sizes == (1, 2)
    assert parity.max_abs == 3.0
    assert parity.max_rel == 3.0 / 4.5
    assert parity.top1_agreement == pytest.approx(2 / 3)
    assert not parity.passed


def test_equal_outputs_pass_even_when_all_are_zero() -> None:
    parity = compare([torch.zeros(2, 3)], [torch.zeros(2, 3)], 1e-4)
    assert (parity.max_abs, parity.max_rel, parity.top1_agreement) == (0.0, 0.0, 1.0)
    assert parity.passed


def test_what_all_outputs_have_in_common_is_no_measure() -> None:
    expected = torch.tensor([[1000.0, 1001.0], [3001.0, 3000.0]])
    got = expected + torch.tensor([[1.5, 0.0], [0.0, 0.0]])
    parity = compare([expected], [got], 2e-2)
    assert (parity.max_rel, parity.top1_agreement) == (1.5 / 0.5, 0.5)
    assert not parity.passed


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 4)])
def test_outputs_without_a_spread_are_measured_by_the_largest(shape: tuple[int, ...]) -> None:
    expected = torch.full(shape, 8.0)
    expected[0] = 4.0  # images differ, the outputs of one do not
    assert compare([expected], [expected + 2], 1e-4).max_rel == 2.0 / 8.0


def test_a_rounding_of_large_outputs_passes_whatever_their_spread() -> None:
    outputs = 300 + torch.rand(4, 5) / 100
    passes, fails = (compare([outputs], [outputs * factor], tolerance=1e-4) for factor in (1 + 2e-7, 1 + 2e-6))
    assert passes.max_rel > 1e-4  # of what the outputs differ by
    assert (passes.passed, fails.passed) == (True, False)


@pytest.mark.parametrize("shape", [(2, 0), (2, 0, 5), (2, 5, 0)])
def test_outputs_without_elements_are_equal(shape: tuple[int, ...]) -> None:
    parity = compare([torch.zeros(shape)], [torch.zeros(shape)], 1e-4)
    assert (parity.passed, parity.max_rel, parity.top1_agreement) == (True, 0.0, 1.0)


def test_masks_are_compared() -> None:
    mask = torch.tensor([[True, False], [False, False]])
    assert compare([mask], [mask], 1e-4).passed
    assert not compare([mask], [~mask], 1e-4).passed


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_output_that_is_not_finite_does_not_pass(bad: float) -> None:
    assert not compare([torch.ones(1, 2)], [torch.tensor([[1.0, bad]])], 1e-4).passed
    assert not compare([torch.tensor([[1.0, bad]])], [torch.tensor([[1.0, bad]])], 1e-4).passed


def test_top1_of_a_map_is_taken_pixel_by_pixel() -> None:
    expected = torch.zeros(1, 2, 2, 2)
    expected[:, 0] = 1.0
    got = expected.clone()
    got[0, 1, 0, 0] = 2.0
    assert compare([expected], [got], 1e-4).top1_agreement == 3 / 4


def test_another_shape_is_an_error() -> None:
    with pytest.raises(VerificationError, match=r"\(1, 3\).*\(3,\)"):
        compare([torch.zeros(1, 3)], [torch.zeros(3)], 1e-4)


def test_a_batch_without_elements_is_passed_over() -> None:
    found = compare([torch.zeros(2, 3), torch.zeros(0, 3)], [torch.ones(2, 3), torch.zeros(0, 3)], 1e-4)
    assert (found.batch_sizes, found.max_abs) == ((2, 0), 1.0)
