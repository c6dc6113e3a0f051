from __future__ import annotations

from itertools import product

import pytest
import torch
from timm.layers.create_act import create_act_layer
from torch import nn

from sesurgeon.blocks import GateName, OnePlusTanh, TwiceHardSigmoid, TwiceSigmoid
from sesurgeon.blocks.gates import GATES, make_gate, without_factor
from tests.blocks.cases import GATES as NAMES

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


@pytest.mark.parametrize(("name", "dtype"), list(product(NAMES, DTYPES)))
def test_the_gate_is_exactly_one_at_zero(name: GateName, dtype: torch.dtype) -> None:
    gate = make_gate(name, identity=True)
    # PyTorch's loops over many numbers and over what is left of them are not the same code
    for count in (1, 3, 8, 37):
        ones = torch.ones(count, dtype=dtype)
        assert torch.equal(gate(torch.zeros(count, dtype=dtype)), ones)
        assert torch.equal(gate(-torch.zeros(count, dtype=dtype)), ones)


@pytest.mark.parametrize(("gate", "slope"), [(TwiceSigmoid(), 1 / 2), (TwiceHardSigmoid(), 1 / 3), (OnePlusTanh(), 1)])
def test_the_slope_at_zero(gate: nn.Module, slope: float) -> None:
    zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    gate(zero).backward()
    torch.testing.assert_close(zero.grad, torch.tensor([slope], dtype=torch.float64))


@pytest.mark.parametrize("name", NAMES)
def test_the_plain_gate_is_timms(name: GateName) -> None:
    z = torch.linspace(-8, 8, 101)
    theirs = create_act_layer(name.replace("-", "_"))
    assert torch.equal(make_gate(name, identity=False)(z), theirs(z))


@pytest.mark.parametrize(("name", "dtype"), list(product(["sigmoid", "hard-sigmoid"], DTYPES)))
def test_the_factor_over_the_plain_gate_is_exact(name: GateName, dtype: torch.dtype) -> None:
    gate = make_gate(name, identity=True)
    found = without_factor(gate)
    assert found is not None
    plain, factor = found
    z = torch.linspace(-9, 9, 1001).to(dtype)
    assert factor == 2.0
    assert torch.equal(gate(z), factor * plain(z))
    assert without_factor(plain) == (plain, 1.0)


def test_one_plus_tanh_has_no_factor() -> None:
    assert without_factor(make_gate("tanh", identity=True)) is None


def test_the_known_gates() -> None:
    assert tuple(GATES) == NAMES
