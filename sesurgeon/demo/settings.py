"""How much the demo does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DemoSettings:
    """Chosen so that everything takes a minute on two cores, and the network is as good as it gets in that time.

    Attributes:
        images: how many of the 1,797 digits, those held out included.
        base_epochs: of training the network that is there before surgery.
        epochs: of fine-tuning, the frozen ones included.
        freeze_epochs: of fine-tuning the inserted blocks alone.
        seed: of the network's training and of which digits are held out.
    """

    images: int = 1797
    base_epochs: int = 12
    epochs: int = 8
    freeze_epochs: int = 2
    seed: int = 0
