"""The demo's own progress events, beside those of fine-tuning and evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from sesurgeon.finetune import Event


@dataclass(frozen=True)
class StepStarted:
    """``title`` says what is done, ``command`` how to do it by hand; "" if no command of ours does it."""

    title: str
    command: str


@dataclass(frozen=True)
class StepFinished:
    """``outcome`` is a sentence."""

    outcome: str
    seconds: float


@dataclass(frozen=True)
class BaseEpoch:
    """``done`` of ``epochs`` of training before surgery are done; ``loss`` is the mean of the last one."""

    done: int
    epochs: int
    loss: float


DemoEvent: TypeAlias = StepStarted | StepFinished | BaseEpoch | Event
OnDemoProgress: TypeAlias = Callable[[DemoEvent], None]
