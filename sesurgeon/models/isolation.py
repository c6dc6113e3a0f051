"""Running a caller's model without leaving a trace in it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from sesurgeon.errors import UntraceableError
from sesurgeon.models.footprint import Footprint
from sesurgeon.randomness import random_states, reseed, restore_random_states

_SEED = 1709_01507  # none that a forward would set itself: it would not be seen to do so
_AUTOCASTS = ("cpu", "cuda", "mps", "xpu")
_ONE_AT_A_TIME = threading.RLock()  # nn.Module, which is patched meanwhile, and the random state are all threads' own
if hasattr(os, "register_at_fork"):  # the thread that holds it is not in the child
    os.register_at_fork(after_in_child=_ONE_AT_A_TIME._at_fork_reinit)  # type: ignore[attr-defined]


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Keep out other threads that enter here, too."""
    with _ONE_AT_A_TIME:
        yield


def autocasts() -> list[str]:
    """The kinds of device for which ``torch.autocast`` is on."""
    return [device for device in _AUTOCASTS if torch.is_autocast_enabled(device)]


@contextlib.contextmanager
def isolated(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put ``model`` in train or eval mode under a fixed random state, and put everything back at the end.

    It runs as Python, also after ``model.compile()``, as compiled code cannot be observed; and without the caller's
    autocast, unless its weights may need it (see :func:`_autocast_for`).
    Put back are each module's own mode and attributes, every buffer (train mode updates running statistics), and
    the random states of torch (CPU, and CUDA where it is in use), numpy and Python.
    """
    with undisturbed(), _autocast_for(model), _put_back(model):
        reseed(_SEED)
        with torch.no_grad():
            for module in model.modules():
                vars(module).pop("_compiled_call_impl", None)
            model.train(training)
            yield


@contextlib.contextmanager
def _autocast_for(model: nn.Module) -> Iterator[None]:
    """The caller's autocast, but none where all weights are in single precision.

    Weights of several types, or in half precision where images are in single, may not run without it.
    """
    with contextlib.ExitStack() as stack:
        if {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()} <= {torch.float32}:
            for device in autocasts():
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextlib.contextmanager
def _put_back(model: nn.Module) -> Iterator[None]:
    footprint = Footprint(model)
    modes = [(module, module.training) for module in model.modules() if hasattr(module, "training")]
    leftovers = Leftovers(model)
    try:
        yield
    finally:
        footprint.restore()
        for module, mode in modes:
            if module.training != mode:  # TorchScript keeps it where no footprint sees it, a frozen one has none
                module.training = mode
        leftovers.restore()


def fresh(inputs: Any) -> Any:
    """Copies of the tensors in ``inputs``: a forward may change its arguments in place."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, inputs)


@contextlib.contextmanager
def parameters_kept(model: nn.Module) -> Iterator[None]:
    """Refuse a network whose forward changes its parameters, as a codebook that follows its inputs.

    They are not copied, which would take as much memory again, but compared by sums; so they stay as the forward left
    them. A forward that writes the values that are there already, as a clamp may, is taken. Where the body raises, they
    are not looked at.

    Raises:
        UntraceableError: a parameter was changed meanwhile.
    """
    before = {name: _sums(parameter) for name, parameter in model.named_parameters()}
    yield
    written = [
        name
        for name, parameter in model.named_parameters()
        if name in before and not all(map(torch.equal, before[name], _sums(parameter)))
    ]
    if written:
        raise UntraceableError(
            f"The forward of {type(model).__name__} writes into its own parameters: {', '.join(written)}. Running it "
            "has changed them.",
            hint="Load the network again, and keep in buffers what its forward changes.",
        )


def _sums(parameter: Tensor) -> list[Tensor]:
    """Of each row and of its first half, and the rows' first values; of a vector, itself.

    Values that change places between rows are seen, and within one where they are rolled or reversed or go to its other
    half; not every other order is. Sums over the first dimension would see those, and take five times as long. They are
    in the type of the values, as a wider one would take a copy of them; what is not a number counts as zero.
    """
    values = parameter.detach()
    values = torch.view_as_real(values) if values.is_complex() else values
    if values.is_floating_point() and values.element_size() < 4:
        values = values.float()  # their own sums would round too much
    within = tuple(range(1, values.ndim))
    if not within or not values.numel():
        return [values.nan_to_num()]
    firsts = values
    for _ in within:
        firsts = firsts.select(1, 0)
    return [*(_of_rows(part, within) for part in (values, values[:, : values.shape[1] // 2])), firsts.nan_to_num()]


def _of_rows(values: Tensor, within: tuple[int, ...]) -> Tensor:
    sums = values.sum(within)
    return (values.nansum(within) if sums.isnan().any() else sums).nan_to_num()  # nansum is slower


class Leftovers:
    """Buffers of a module and the random state, as they are now: what a forward pass leaves behind.

    Attributes:
        buffers: copies of them, by name.
        random_states: as :func:`random_states` gives them.
    """

    def __init__(self, module: nn.Module) -> None:
        self._originals = dict(module.named_buffers())
        self.buffers = {name: buffer.detach().clone() for name, buffer in self._originals.items()}
        self.random_states = random_states()

    def restore(self) -> None:
        """Put them back."""
        restore_random_states(self.random_states)
        with torch.no_grad():
            for name, buffer in self._originals.items():
                if not torch.equal(buffer, self.buffers[name]):  # an expanded buffer cannot be written to
                    buffer.copy_(self.buffers[name])
