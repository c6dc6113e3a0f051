"""Ctrl-C while a network is looked at."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.models.resnet import BasicBlock

from sesurgeon.graph import survey
from sesurgeon.graph.tracing import record
from sesurgeon.interrupts import interrupts_held


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, whatever the tests run under."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def pressed(done: list[str]) -> None:
    """Ctrl-C in an inner block."""
    with interrupts_held():
        with interrupts_held():
            signal.raise_signal(signal.SIGINT)
            done.append("inner")
        done.append("outer")


def test_the_blocks_are_done_first() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        pressed(done)
    assert done == ["inner", "outer"]


@interrupts_held()
def pressed_and_failed() -> None:
    signal.raise_signal(signal.SIGINT)
    raise ValueError("inside")


def test_the_handler_that_was_there_gets_it_even_after_an_error() -> None:
    got: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: got.append(number))
    try:
        with pytest.raises(ValueError, match="inside"):
            pressed_and_failed()
    finally:
        signal.signal(signal.SIGINT, before)
    assert got == [signal.SIGINT]


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts_held():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_nothing_is_done() -> None:
    handlers: list[Any] = []

    def work() -> None:
        with interrupts_held():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]


@pytest.mark.parametrize(("target", "name"), [(FakeTensorMode, "__torch_dispatch__"), (record, "_fake")])
def test_nothing_is_interrupted_while_fake_tensors_are_at_work(
    monkeypatch: pytest.MonkeyPatch, target: Any, name: str
) -> None:
    original, outcomes = getattr(target, name), list[str]()

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:  # torch may end the process if this goes on
            outcomes.append("interrupted")
        else:
            outcomes.append("held")
        return original(*args, **kwargs)

    monkeypatch.setattr(target, name, interrupted)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), BasicBlock(8, 8)).train()
    call = nn.Module.__call__
    with pytest.raises(KeyboardInterrupt):
        survey(net, torch.randn(2, 3, 16, 16))
    assert set(outcomes) == {"held"}
    assert net.training
    assert nn.Module.__call__ is call
