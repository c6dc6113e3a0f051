"""The three sources of random numbers: Python's, NumPy's, torch's."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def random_states_to_keep() -> dict[str, Any]:
    """What :func:`set_random_states` takes, as plain data and tensors: it can be kept in a file."""
    version, numbers, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    states = {
        "python": [version, torch.tensor(numbers), gauss],
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Go on with random numbers where :func:`random_states_to_keep` was asked; on the accelerator in use likewise."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def reseed(seed: int, device: torch.device) -> None:
    """Start the random numbers of the CPU, and of ``device``, anew; seeds go round at 2**32, where NumPy's end."""
    seed %= 2**32
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Random numbers by ``seed`` alone for a while, below 2**32; afterwards they go on as if nothing had been drawn.

    Args:
        seed: of all of them.
        device: an accelerator whose numbers are seeded, too; without one only the CPU's are.
    """
    with untouched(device):
        reseed(seed, device or torch.device("cpu"))
        yield


@contextlib.contextmanager
def untouched(device: torch.device | None = None) -> Iterator[None]:
    """Afterwards random numbers go on as if nothing had been drawn, on the CPU and on ``device``."""
    python, numpy = random.getstate(), np.random.get_state()
    state = torch.get_rng_state()
    on_device = torch.cuda.get_rng_state(device) if device is not None and device.type == "cuda" else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(state)
        if on_device is not None and device is not None:
            torch.cuda.set_rng_state(on_device, device)
