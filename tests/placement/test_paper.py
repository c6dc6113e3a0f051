"""The paper's tables: what sesurgeon counts is what was published, to the last digit or to its rounding."""

from __future__ import annotations

import pytest

from benchmarks import paper
from sesurgeon.graph import Survey

RESNET50, *OTHERS, MOBILENET = paper.NETWORKS


@pytest.fixture(scope="module")
def resnet50() -> Survey:
    return paper.found_in("resnet50")


@pytest.fixture(scope="module")
def mobilenet() -> Survey:
    return paper.found_in("mobilenetv1_100")


def check_macs(network: paper.Network, counted: paper.Count) -> None:
    last_digit = network.unit * 10**-network.digits
    assert round((counted.then.macs + counted.sums) / network.unit, network.digits) == network.base
    assert abs(counted.added.macs - network.difference * network.unit) < last_digit


@pytest.mark.parametrize(
    ("ratio", "extra"), [(2, 20_119_552), (4, 10_059_776), (8, 5_029_888), (16, 2_514_944), (32, 1_257_472)]
)
def test_parameters_by_reduction_ratio_equal_the_formula(resnet50: Survey, ratio: int, extra: int) -> None:
    # r = 16: 2/16 * (3 * 256^2 + 4 * 512^2 + 6 * 1024^2 + 3 * 2048^2) = 24,576 + 131,072 + 786,432 + 1,572,864
    assert paper.added(resnet50, rd_ratio=1 / ratio).parameters == paper.formula(ratio) == extra


@pytest.mark.parametrize(("stage", "extra"), [(2, 24_576), (3, 131_072), (4, 786_432), (5, 1_572_864)])
def test_parameters_by_stage(resnet50: Survey, stage: int, extra: int) -> None:
    assert paper.added(resnet50, stages=[stage]).parameters == extra


@pytest.mark.parametrize(
    ("choices", "extra"),
    [
        ({"rd_divisor": None, "bias": True}, 2_530_992),
        ({"skip_last_stage": True}, 942_080),
        # 3x3 convolutions of 64, 128, 256 and 512 channels: 2/16 * (3 * 64^2 + 4 * 128^2 + 6 * 256^2 + 3 * 512^2)
        ({"policy": "inner"}, 157_184),
        ({"policy": "identity"}, 2_514_944),
        ({"policy": "post"}, 2_514_944),
        # what comes into the blocks: 64, 2 * 256; 256, 3 * 512; 512, 5 * 1024; 1024, 2 * 2048
        ({"policy": "pre"}, 1_991_168),
    ],
    ids=str,
)
def test_parameters_by_place(resnet50: Survey, choices: dict[str, object], extra: int) -> None:
    assert paper.added(resnet50, **choices).parameters == extra


def test_macs_of_resnet50(resnet50: Survey) -> None:
    counted = paper.count(RESNET50, resnet50)
    check_macs(RESNET50, counted)
    assert round(counted.today.macs / 1e9, 2) == 4.09
    assert round(counted.then.macs / 1e9, 2) == 3.86
    # elements of the branches: 3 of 256 * 56^2, 4 of 512 * 28^2, 6 of 1024 * 14^2, 3 of 2048 * 7^2
    assert counted.added.pooling == counted.added.scaling == 5_519_360
    assert counted.added.layers == 2_514_944
    assert paper.count(RESNET50, resnet50) == counted  # the network came back with its strides


@pytest.mark.parametrize("choices", [{}, {"policy": "conv", "kernel": [1]}], ids=["standard", "conv"])
def test_parameters_after_mobilenets_13_pointwise_convolutions(mobilenet: Survey, choices: dict[str, object]) -> None:
    # 2/16 * (64^2 + 2 * 128^2 + 2 * 256^2 + 6 * 512^2 + 2 * 1024^2)
    assert paper.added(mobilenet, **choices).parameters == 479_744
    assert paper.added(mobilenet, **choices, bias=True).parameters == 479_744 + 6_324


def test_macs_of_mobilenet(mobilenet: Survey) -> None:
    check_macs(MOBILENET, paper.count(MOBILENET, mobilenet))


@pytest.mark.slow
@pytest.mark.parametrize("network", OTHERS, ids=lambda network: network.name)
def test_macs_of_the_other_networks(network: paper.Network) -> None:
    check_macs(network, paper.count(network, paper.found_in(network.name)))


def test_the_tables_of_resnet50_are_those_that_are_printed(resnet50: Survey) -> None:
    printed = paper.TABLE.read_text(encoding="utf-8").splitlines()
    assert {*paper.ratio_table(resnet50), *paper.placement_table(resnet50)} <= {*printed}


@pytest.mark.slow
def test_the_document_is_what_is_counted() -> None:
    assert paper.document() == paper.TABLE.read_text(encoding="utf-8")
