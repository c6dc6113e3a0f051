"""What the demo tells whoever watches it, beside the events of fine-tuning and evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from sesurgeon.finetune import Event


@dataclass(frozen=True)
class StepStarted:
    """``title`` says what is done, ``command`` how a user would do it; "" where no verb of ours does it."""

    title: str
    command: str


@dataclass(frozen=True)
class StepFinished:
    """``outcome`` is a sentence."""

    outcome: str
    seconds: float


@dataclass(frozen=True)
class BaseEpoch:
    """``done`` of ``epochs`` of the network's own training are done; ``loss`` is the mean of the last."""

    done: int
    epochs: int
    loss: float


DemoEvent: TypeAlias = StepStarted | StepFinished | BaseEpoch | Event
OnDemoProgress: TypeAlias = Callable[[DemoEvent], None]
