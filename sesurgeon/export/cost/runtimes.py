"""The runtimes in which a network is measured."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sesurgeon.errors import UsageError
from sesurgeon.export.inputs import named_inputs
from sesurgeon.export.onnx import export_onnx
from sesurgeon.export.sessions import as_arrays, open_session
from sesurgeon.models import copy_of, fresh, isolated
from sesurgeon.modules import device_of
from sesurgeon.placement import images_in

Runtime = Literal["torch", "compiled", "onnxruntime", "training"]
"""PyTorch in eager mode; torch.compile; onnxruntime; a training step: forward, backward and an SGD update."""

Runner = Callable[[tuple[Any, ...]], object]
"""Runs a network on the positional arguments of its forward, and returns when the device has finished."""


def check_runtimes(runtimes: Sequence[str], batches: Sequence[int]) -> None:
    """Check what is asked for before anything is measured.

    Raises:
        UsageError: there is no such runtime, or a batch would have less than one image.
    """
    if min(batches) < 1:
        raise UsageError(f"A batch of {min(batches)} images cannot be measured.")
    known = get_args(Runtime)
    for runtime in runtimes:
        if runtime not in known:
            raise UsageError(f"There is no runtime '{runtime}'.", hint=f"Known runtimes: {', '.join(known)}.")


def opened(runtime: Runtime, model: nn.Module, arguments: tuple[Any, ...]) -> AbstractContextManager[Runner]:
    """What runs ``model`` in ``runtime`` while the context is open.

    Args:
        runtime: any but "training" runs in eval mode; all but "onnxruntime", which takes the CPU and float32, run where
            the model is.
        model: it is left as it was.
        arguments: an example of the positional arguments of forward.
    """
    return _OPENERS[runtime](model, arguments)


@contextlib.contextmanager
def in_torch(model: nn.Module, arguments: tuple[Any, ...]) -> Iterator[Runner]:
    """PyTorch in eager mode, without gradients."""
    wait = _waiter(model)

    def run(given: tuple[Any, ...]) -> None:
        model(*given)
        wait()

    with isolated(model, training=False):
        yield run


@contextlib.contextmanager
def _compiled(model: nn.Module, arguments: tuple[Any, ...]) -> Iterator[Runner]:
    try:
        with in_torch(torch.compile(copy_of(model)), arguments) as run:  # type: ignore[arg-type]
            yield run
    finally:
        torch.compiler.reset()


@contextlib.contextmanager
def _in_training(model: nn.Module, arguments: tuple[Any, ...]) -> Iterator[Runner]:
    trained = copy_of(model).train().requires_grad_()
    optimizer = torch.optim.SGD(trained.parameters(), lr=1e-6, momentum=0.9)
    wait = _waiter(trained)

    def run(given: tuple[Any, ...]) -> None:
        outputs = [leaf for leaf in tree_leaves(trained(*given)) if isinstance(leaf, Tensor) and leaf.requires_grad]
        loss = torch.stack([output.float().mean() for output in outputs]).sum()
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        wait()

    with torch.enable_grad():
        yield run


@contextlib.contextmanager
def _in_onnxruntime(model: nn.Module, arguments: tuple[Any, ...]) -> Iterator[Runner]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export_onnx(model, path, example_inputs=arguments, verify=False)
        session = open_session(path, threads=torch.get_num_threads())
    like = named_inputs(model, arguments)
    yield lambda given: session.run(
        None, as_arrays({name: value.detach().to(like[name]) for name, value in zip(like, given, strict=False)})
    )


_OPENERS: Mapping[Runtime, Callable[[nn.Module, tuple[Any, ...]], AbstractContextManager[Runner]]] = MappingProxyType(
    {"torch": in_torch, "compiled": _compiled, "onnxruntime": _in_onnxruntime, "training": _in_training}
)


def clock_of(model: nn.Module) -> Callable[[], float]:
    """A clock in seconds that waits for the model's device to finish before it is read."""
    wait = _waiter(model)

    def clock() -> float:
        wait()
        return time.perf_counter()

    return clock


def seconds(run: Runner, arguments: tuple[Any, ...], clock: Callable[[], float]) -> float:
    """The time of one run on a copy of ``arguments``, which a forward may change in place."""
    given = fresh(arguments)
    start = clock()
    run(given)
    return clock() - start


def with_images(arguments: tuple[Any, ...], images: int) -> tuple[Any, ...]:
    """The arguments for this number of images: the first of them, or all of them repeated."""
    times = -(-images // max(1, images_in(arguments)))
    return tuple(
        (argument * times)[:images]
        if isinstance(argument, list)
        else argument.repeat(times, *[1] * (argument.ndim - 1))[:images]
        if isinstance(argument, Tensor) and argument.ndim
        else argument
        for argument in arguments
    )


def _waiter(model: nn.Module) -> Callable[[], None]:
    """Waits until the model's device has finished."""
    device = device_of(model)

    def wait() -> None:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    return wait
