"""Requests to stop."""

from __future__ import annotations

import os
import signal
import time

import pytest

from sesurgeon.finetune.training.stopping import stop_request


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_the_process_was_started_to_ignore_stays_ignored(number: int) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stop_request() as stop:
            os.kill(os.getpid(), number)
            assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)
    assert not stop.asked


def test_a_second_ctrl_c_interrupts_at_once() -> None:
    def ask() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with stop_request() as stop:
            ask()
            assert stop.asked
            with pytest.raises(KeyboardInterrupt):
                ask()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
