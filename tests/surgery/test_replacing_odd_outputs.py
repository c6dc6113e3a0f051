"""Constants in place of a block where some outputs are not finite."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from sesurgeon import VerificationError
from sesurgeon.surgery.folding.constants import replace_block
from sesurgeon.surgery.folding.scale import Scale, multiply
from tests.networks import PlainNet
from tests.surgery.trained import augmented

CONSTANTS = torch.linspace(0.2, 1.8, 8)


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = PlainNet()


class Masked(Wrapped):
    """Gives the sums of its scores, and its scores with a mask; the last one is no number."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores: Tensor = self.net(x)
        masked = scores.masked_fill(torch.tensor([False, True, False, False, False]), -torch.inf)
        return scores.sum(1), masked.masked_fill(torch.tensor([False, False, False, False, True]), torch.nan)


def test_infinities_and_what_is_no_number_in_both_are_no_difference() -> None:
    assert 0 < replace_block(augmented(Masked()), "net.2.se", CONSTANTS).difference < 1e-4


def test_both_parts_of_complex_outputs_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    class Complex(Wrapped):
        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.net(x)
            return torch.complex(torch.ones_like(scores), scores)

    model = augmented(Complex())
    assert 0 < replace_block(model, "net.2.se", CONSTANTS).difference < 1e-4
    monkeypatch.setattr("sesurgeon.surgery.folding.constants.multiply", lambda *_: None)
    with pytest.raises(VerificationError, match=r"they differ by"):
        replace_block(model, "net.2.se", CONSTANTS)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_in_one_alone_they_are(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    class Scores(Wrapped):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            scores: Tensor = self.net(x)
            return scores[:, 0], scores  # those of the first class are finite everywhere

    def multiply_and_spoil(model: nn.Module, by: Mapping[str, Scale]) -> None:
        multiply(model, by)
        with torch.no_grad():
            model.get_parameter("net.8.bias")[-1] = value

    monkeypatch.setattr("sesurgeon.surgery.folding.constants.multiply", multiply_and_spoil)
    with pytest.raises(VerificationError, match=r"in eval mode are not those with its constants: they differ by"):
        replace_block(augmented(Scores()), "net.2.se", CONSTANTS)
