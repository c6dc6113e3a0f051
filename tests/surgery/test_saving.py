"""What can be written to a file, and how."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import sesurgeon
from sesurgeon import UsageError
from tests.networks import FunctionalResNet

SMALL = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_a_network_around_an_augmented_one_is_not_saved_without_its_plan(tmp_path: Path) -> None:
    inner = sesurgeon.add_se(FunctionalResNet(), example_inputs=SMALL)
    outer = nn.Sequential(inner, nn.Linear(5, 2))
    with pytest.raises(
        UsageError, match=r"blocks \(0\.se…\) but no plan.*\n.*Call it for the augmented network inside"
    ):
        sesurgeon.save(outer, tmp_path / "outer.se.pt")
    assert list(tmp_path.iterdir()) == []
    sesurgeon.save(inner, tmp_path / "inner.se.pt")
    assert (tmp_path / "inner.se.pt").exists()
