"""How much the demo does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DemoSettings:
    """The defaults take about a minute on two cores.

    Attributes:
        images: how many of the 1,797 digits are used, including those held out.
        base_epochs: epochs of training before surgery.
        epochs: epochs of fine-tuning, including ``freeze_epochs``.
        freeze_epochs: epochs of fine-tuning in which only the inserted blocks are trained.
        seed: of training before surgery, and of the choice of held-out digits.
    """

    images: int = 1797
    base_epochs: int = 12
    epochs: int = 8
    freeze_epochs: int = 2
    seed: int = 0
