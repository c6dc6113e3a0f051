"""How much longer does the augmented network take on this machine? Both networks run in turn, in each runtime."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median, quantiles
from time import perf_counter
from typing import Any

from torch import Tensor, nn

from sesurgeon.errors import UntraceableError, UsageError
from sesurgeon.export.cost.runtimes import Runner, Runtime, check_runtimes, opened, seconds, with_images
from sesurgeon.placement import images_in
from sesurgeon.randomness import untouched
from sesurgeon.words import counted, first_line

Progress = Callable[[str, int, int], object]
"""Called after each pair with a title, the number of pairs done, and that of all pairs."""

_WARM_UP = 3  # pairs: in the first runs kernels are chosen and memory is reserved
NAMES = ("Without blocks", "With blocks")


@dataclass(frozen=True)
class LatencyRatio:
    """Two networks, timed in one runtime at one batch size.

    Attributes:
        runtime: see :data:`Runtime`.
        batch: images per batch.
        base_ms, augmented_ms: median milliseconds per batch.
        ratio: the augmented network's time divided by the base's: the median over pairs of consecutive runs, on which a
            machine whose speed changes meanwhile has the least effect.
        quartiles: of these ratios: half of them are between the two.
        failure: why there are no times (they are None then).
    """

    runtime: Runtime
    batch: int
    base_ms: float | None = None
    augmented_ms: float | None = None
    ratio: float | None = None
    quartiles: tuple[float, float] | None = None
    failure: str | None = None


def measure_latency(
    base: nn.Module,
    augmented: nn.Module,
    images: Tensor | tuple[Any, ...],
    *,
    batches: Sequence[int] | None = None,
    repeats: int = 20,
    runtimes: Sequence[Runtime] = ("torch", "onnxruntime"),
    names: tuple[str, str] = NAMES,
    progress: Progress | None = None,
) -> list[LatencyRatio]:
    """Time both networks, in eval mode except for training steps.

    They run in turn, and which one goes first changes from pair to pair, so that other load on the machine affects
    both. In torch they run on their own device; in onnxruntime on the CPU, in float32, with as many threads as torch
    has. Both are left as they were.

    Args:
        base: the network without blocks.
        augmented: the same with blocks.
        images: a batch, or the tuple of the positional arguments of forward.
        batches: batch sizes; images are repeated if there are too few. By default 1 and the size of ``images``.
        repeats: pairs that are timed, at least 2.
        runtimes: which, in this order.
        names: of the two networks, for messages about a failure.
        progress: see :data:`Progress`.

    Returns:
        An entry for each runtime and batch size; if a runtime cannot run the networks, it holds the reason.

    Raises:
        UsageError: fewer than 2 repeats, an unknown runtime, or a batch of less than one image.
    """
    arguments = images if isinstance(images, tuple) else (images,)
    sizes = sorted(set(batches or (1, images_in(arguments))))
    if repeats < 2:
        raise UsageError(f"repeats (={repeats}) must be at least 2: one pair has no spread.")
    check_runtimes(runtimes, sizes)
    with untouched():
        return [
            measured
            for runtime in runtimes
            for measured in _in_runtime(
                runtime, (base, augmented), names, arguments, sizes, repeats, progress or (lambda *_: None)
            )
        ]


def _in_runtime(
    runtime: Runtime,
    networks: tuple[nn.Module, nn.Module],
    names: tuple[str, str],
    arguments: tuple[Any, ...],
    sizes: Sequence[int],
    repeats: int,
    progress: Progress,
) -> list[LatencyRatio]:
    with contextlib.ExitStack() as stack:
        runs = []
        try:
            for name, network in zip(names, networks, strict=True):
                with _blaming(name):
                    runs.append(stack.enter_context(opened(runtime, network, arguments)))
        except UntraceableError as error:
            return [LatencyRatio(runtime, size, failure=error.message) for size in sizes]
        run_base, run_augmented = runs
        measured = []
        for size in sizes:
            after_each = partial(progress, f"{runtime}, batch {size}")
            try:
                with _blaming(f"A batch of {counted(size, 'image')}"):
                    given = with_images(arguments, size)
                pairs = time_pairs(run_base, run_augmented, given, repeats, names=names, after_each=after_each)
            except UntraceableError as error:
                measured.append(LatencyRatio(runtime, size, failure=error.message))
            else:
                measured.append(summary(runtime, size, pairs))
    return measured


def time_pairs(
    base: Runner,
    augmented: Runner,
    arguments: tuple[Any, ...],
    repeats: int,
    *,
    names: tuple[str, str],
    after_each: Callable[[int, int], object],
) -> list[tuple[float, float]]:
    """Seconds of ``base`` and of ``augmented``, pair by pair, after a few pairs to warm up.

    Raises:
        UntraceableError: one of them raises.
    """
    runs = (base, augmented)
    pairs = []
    for turn in range(-_WARM_UP, repeats):
        times = {}
        for one in (0, 1) if turn % 2 == 0 else (1, 0):
            with _blaming(names[one]):
                times[one] = seconds(runs[one], arguments, perf_counter)
        if turn >= 0:
            pairs.append((times[0], times[1]))
            after_each(len(pairs), repeats)
    return pairs


def summary(runtime: Runtime, size: int, pairs: Sequence[tuple[float, float]]) -> LatencyRatio:
    """Medians and quartiles of pairs of seconds, without and with blocks."""
    base, augmented = (median(times) for times in zip(*pairs, strict=True))
    low, middle, high = quantiles([second / first for first, second in pairs], n=4, method="inclusive")
    return LatencyRatio(runtime, size, 1000 * base, 1000 * augmented, middle, (low, high))


@contextlib.contextmanager
def _blaming(name: str) -> Iterator[None]:
    """Turn whatever a model or a runtime raises into an UntraceableError that begins with ``name``."""
    try:
        yield
    except Exception as error:
        raise UntraceableError(f"{name}: {first_line(error)}") from error
