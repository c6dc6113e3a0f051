"""The random states of Python, NumPy and torch together."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def random_states() -> tuple[Any, ...]:
    """The random states of Python, NumPy, torch on the CPU, and torch on CUDA where it was used already."""
    cuda = torch.cuda.get_rng_state_all() if _cuda_in_use() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda


def restore_random_states(states: tuple[Any, ...]) -> None:
    """Put back what :func:`random_states` gave."""
    python, numpy, cpu, cuda = states
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state_all(cuda)


def same_random_states(first: tuple[Any, ...], second: tuple[Any, ...]) -> bool:
    """Whether two results of :func:`random_states` are equal on the CPU: Python's, NumPy's and torch's."""
    return bool(
        first[0] == second[0] and all(map(np.array_equal, first[1], second[1])) and torch.equal(first[2], second[2])
    )


def random_states_to_keep() -> dict[str, Any]:
    """The states of all random numbers, those of the current GPU included, as plain data and tensors for a file."""
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


def restore_kept_random_states(states: dict[str, Any]) -> None:
    """Put back what :func:`random_states_to_keep` gave."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def reseed(seed: int, device: torch.device | None = None) -> None:
    """Seed the CPU's random numbers, and those of ``device``, by ``seed`` modulo 2**32, NumPy's limit.

    Without ``device``, those of all GPUs in use are seeded.
    """
    seed %= 2**32
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would wake up CUDA for a model on the CPU
    if device is None and _cuda_in_use():
        torch.cuda.manual_seed_all(seed)
    elif device is not None and device.type == "cuda":
        torch.cuda.manual_seed(seed)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed the random numbers of the CPU, and of ``device``, for a while; afterwards they are as they were before."""
    with untouched(device):
        reseed(seed, device or torch.device("cpu"))
        yield


@contextlib.contextmanager
def untouched(device: torch.device | None = None) -> Iterator[None]:
    """Put the state of the random numbers back at the end, on the CPU, on GPUs in use, and on ``device``."""
    if device is not None and device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]  # its state counts even where nobody has used it yet
    states = random_states()
    try:
        yield
    finally:
        restore_random_states(states)


def _cuda_in_use() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
