"""How much longer does the augmented network take on this machine? Both run in turn, in each runtime."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sesurgeon.errors import UntraceableError, UsageError
from sesurgeon.export.onnx import export_onnx
from sesurgeon.export.sessions import open_session
from sesurgeon.models import copy_of, fresh, isolated, random_states, restore_random_states
from sesurgeon.placement import images_in
from sesurgeon.words import first_line

Runtime = Literal["torch", "compiled", "onnxruntime", "training"]
"""PyTorch as it is; by torch.compile; onnxruntime; a step of training: forward, backward and an update by SGD."""

Progress = Callable[[str, int, int], None]
Runner = Callable[[tuple[Any, ...]], object]

_WARM_UP = 3  # pairs: in the first runs kernels are chosen and memory is reserved
NAMES = ("Without blocks", "With blocks")


@dataclass(frozen=True)
class LatencyRatio:
    """Two networks, timed in one runtime at one batch size.

    Attributes:
        runtime: see :data:`Runtime`.
        batch: images in a batch.
        base_ms, augmented_ms: medians of the milliseconds that a batch takes.
        ratio: the augmented network's time over the base's, the median of the pairs that ran one after the other: a
            machine whose speed changes meanwhile changes it least.
        quartiles: of these ratios: half of them lie between the two.
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
    """Time both networks, in eval mode but for training.

    They run in turn, and which goes first changes from pair to pair, so that whatever else the machine does falls
    on both. In torch they run where they are; in onnxruntime on the CPU, in float32, with as many threads as torch
    has. Both are left as they were.

    Args:
        base: the network without blocks.
        augmented: the same with blocks.
        images: a batch, or the tuple of the positional arguments of forward.
        batches: sizes; images are repeated where there are fewer. By default 1 and that of ``images``.
        repeats: pairs that are timed, at least 2.
        runtimes: which, in this order.
        names: of the two, for words about a failure.
        progress: called after each pair with a title, the number of pairs done, and that of all pairs.

    Returns:
        An entry for each runtime and batch size; where a runtime cannot take the networks it holds the reason.

    Raises:
        UsageError: fewer than 2 repeats, an unknown runtime, or a batch of less than one image.
    """
    arguments = images if isinstance(images, tuple) else (images,)
    sizes = sorted(set(batches or (1, images_in(arguments))))
    _check(repeats, runtimes, sizes)
    states = random_states()
    try:
        return [
            measured
            for runtime in runtimes
            for measured in _in_runtime(
                runtime, (base, augmented), names, arguments, sizes, repeats, progress or _tell_nobody
            )
        ]
    finally:
        restore_random_states(states)


def time_pairs(
    base: Runner,
    augmented: Runner,
    arguments: tuple[Any, ...],
    repeats: int,
    *,
    names: tuple[str, str] = NAMES,
    after_each: Callable[[int, int], None],
    clock: Callable[[], float] = time.perf_counter,
) -> list[tuple[float, float]]:
    """Seconds of ``base`` and of ``augmented``, pair by pair, after a few pairs that do not count.

    Raises:
        UntraceableError: one of them raises.
    """
    runs = (base, augmented)
    pairs = []
    for turn in range(-_WARM_UP, repeats):
        order = (0, 1) if turn % 2 == 0 else (1, 0)
        seconds = {one: _seconds(names[one], runs[one], arguments, clock) for one in order}
        if turn >= 0:
            pairs.append((seconds[0], seconds[1]))
            after_each(len(pairs), repeats)
    return pairs


def _seconds(name: str, run: Runner, arguments: tuple[Any, ...], clock: Callable[[], float]) -> float:
    given = fresh(arguments)  # a forward may change them in place
    with _blaming(name):
        start = clock()
        run(given)
        return clock() - start


def _check(repeats: int, runtimes: Sequence[str], sizes: Sequence[int]) -> None:
    if repeats < 2:
        raise UsageError(f"repeats (={repeats}) must be at least 2: one pair has no spread.")
    if sizes[0] < 1:
        raise UsageError(f"A batch of {sizes[0]} images cannot be timed.")
    for runtime in runtimes:
        if runtime not in _OPENERS:
            raise UsageError(f"There is no runtime '{runtime}'.", hint=f"Known runtimes: {', '.join(_OPENERS)}.")


def _in_runtime(
    runtime: Runtime,
    networks: tuple[nn.Module, nn.Module],
    names: tuple[str, str],
    arguments: tuple[Any, ...],
    sizes: Sequence[int],
    repeats: int,
    progress: Progress,
) -> list[LatencyRatio]:
    opener = _OPENERS[runtime]
    with contextlib.ExitStack() as stack:
        try:
            with _blaming(names[0]):
                run_base = stack.enter_context(opener(networks[0], arguments))
            with _blaming(names[1]):
                run_augmented = stack.enter_context(opener(networks[1], arguments))
        except UntraceableError as error:
            return [LatencyRatio(runtime, size, failure=error.message) for size in sizes]
        measured = []
        for size in sizes:
            after_each = partial(progress, f"{runtime}, batch {size}")
            try:
                given = with_images(arguments, size)
                pairs = time_pairs(run_base, run_augmented, given, repeats, names=names, after_each=after_each)
            except UntraceableError as error:
                measured.append(LatencyRatio(runtime, size, failure=error.message))
            else:
                measured.append(summary(runtime, size, pairs))
    return measured


def summary(runtime: Runtime, size: int, pairs: Sequence[tuple[float, float]]) -> LatencyRatio:
    """What pairs of seconds, without and with blocks, say."""
    base, augmented = (median(seconds) for seconds in zip(*pairs, strict=True))
    low, middle, high = quantiles([second / first for first, second in pairs], n=4, method="inclusive")
    return LatencyRatio(runtime, size, 1000 * base, 1000 * augmented, middle, (low, high))


def with_images(arguments: tuple[Any, ...], images: int) -> tuple[Any, ...]:
    """The arguments for so many images: the first ones, or what there is again and again."""
    times = -(-images // max(1, images_in(arguments)))
    return tuple(
        (argument * times)[:images]
        if isinstance(argument, list)
        else argument.repeat(times, *[1] * (argument.ndim - 1))[:images]
        if isinstance(argument, Tensor) and argument.ndim
        else argument
        for argument in arguments
    )


@contextlib.contextmanager
def _blaming(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # models and runtimes raise anything
        raise UntraceableError(f"{name}: {first_line(error)}") from error


def opened(runtime: Runtime, model: nn.Module, arguments: tuple[Any, ...]) -> contextlib.AbstractContextManager[Runner]:
    """What runs ``model`` once in a runtime, while it is entered."""
    return _OPENERS[runtime](model, arguments)


def clock_of(model: nn.Module) -> Callable[[], float]:
    """Seconds, read when the device of ``model`` has done what it was told to."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))

    def clock() -> float:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter()

    return clock


@contextlib.contextmanager
def in_torch(model: nn.Module, arguments: tuple[Any, ...]) -> Iterator[Runner]:
    """A call of ``model`` in eval mode, without gradients, that has ended when it returns."""
    until_done = clock_of(model)

    def run(given: tuple[Any, ...]) -> None:
        model(*given)
        until_done()

    with isolated(model, training=False):
        yield run


@contextlib.contextmanager
def _compiled(model: nn.Module, arguments: tuple[Any, ...]) -> Iterator[Runner]:
    with in_torch(torch.compile(copy_of(model)), arguments) as run:  # type: ignore[arg-type]
        yield run
    torch.compiler.reset()


@contextlib.contextmanager
def _in_training(model: nn.Module, arguments: tuple[Any, ...]) -> Iterator[Runner]:
    trained = copy_of(model).train().requires_grad_()
    optimizer = torch.optim.SGD(trained.parameters(), lr=1e-6, momentum=0.9)
    until_done = clock_of(trained)

    def run(given: tuple[Any, ...]) -> None:
        outputs = [leaf for leaf in tree_leaves(trained(*given)) if isinstance(leaf, Tensor) and leaf.requires_grad]
        loss = torch.stack([output.float().mean() for output in outputs]).sum()
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        until_done()

    with torch.enable_grad():
        yield run


@contextlib.contextmanager
def _in_onnxruntime(model: nn.Module, arguments: tuple[Any, ...]) -> Iterator[Runner]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export_onnx(model, path, example_inputs=arguments, verify=False)
        session = open_session(path, threads=torch.get_num_threads())
    yield lambda given: session.run(None, {"input": given[0].detach().to("cpu", torch.float32).numpy()})


_OPENERS: Mapping[Runtime, Callable[[nn.Module, tuple[Any, ...]], contextlib.AbstractContextManager[Runner]]] = (
    MappingProxyType(
        {"torch": in_torch, "compiled": _compiled, "onnxruntime": _in_onnxruntime, "training": _in_training}
    )
)


def _tell_nobody(title: str, done: int, of: int) -> None:
    pass
