"""How much memory a network's tensors use while it runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sesurgeon.export.cost.latency import NAMES
from sesurgeon.export.cost.runtimes import Runtime, check_runtimes, opened, with_images
from sesurgeon.models import fresh
from sesurgeon.modules import device_of
from sesurgeon.randomness import untouched
from sesurgeon.words import first_line


@dataclass(frozen=True)
class MemoryRatio:
    """The peak memory of two networks.

    Attributes:
        runtime: "torch" for a forward pass in eval mode, "training" for a training step.
        batch: images per batch.
        base_bytes, augmented_bytes: peak memory of tensors, beyond weights and the state of the optimiser.
        failure: why there are no peaks (they are None then).
    """

    runtime: Runtime
    batch: int
    base_bytes: int | None = None
    augmented_bytes: int | None = None
    failure: str | None = None

    @property
    def ratio(self) -> float | None:
        """The augmented network's peak divided by the base's."""
        if self.base_bytes is None or self.augmented_bytes is None:
            return None
        return self.augmented_bytes / self.base_bytes


def measure_memory(
    base: nn.Module,
    augmented: nn.Module,
    images: Tensor | tuple[Any, ...],
    *,
    batch: int,
    runtimes: Sequence[Runtime] = ("torch", "training"),
    names: tuple[str, str] = NAMES,
) -> list[MemoryRatio]:
    """The peak memory of both networks in one call, after a first one that allocates what stays.

    On a CPU it is counted in bytes of tensors that operations returned and that were not yet freed; on CUDA it is what
    torch's allocator reports. Only the latter includes the temporary memory of an operation.

    Args:
        base: the network without blocks.
        augmented: the same with blocks.
        images: a batch, or the tuple of the positional arguments of forward.
        batch: images per call; ``images`` are repeated if there are too few.
        runtimes: which; "compiled" and "onnxruntime" are left out.
        names: of the two networks, for messages about a failure.

    Returns:
        An entry for each runtime; if a call raises, it holds the reason.

    Raises:
        UsageError: an unknown runtime, or a batch of less than one image.
    """
    check_runtimes(runtimes, (batch,))
    arguments = images if isinstance(images, tuple) else (images,)
    measured = [runtime for runtime in runtimes if runtime in ("torch", "training")]
    networks = tuple(zip(names, (base, augmented), strict=True))
    with untouched():
        return [_ratio(runtime, networks, arguments, batch) for runtime in measured]


def _ratio(
    runtime: Runtime, networks: Sequence[tuple[str, nn.Module]], arguments: tuple[Any, ...], batch: int
) -> MemoryRatio:
    peaks = []
    for name, network in networks:
        try:
            peaks.append(_peak(runtime, network, with_images(arguments, batch)))
        except Exception as error:  # whatever a forward raises, or too little memory
            return MemoryRatio(runtime, batch, failure=f"{name}: {first_line(error)}")
    of_base, of_augmented = peaks
    return MemoryRatio(runtime, batch, of_base, of_augmented)


def _peak(runtime: Runtime, model: nn.Module, arguments: tuple[Any, ...]) -> int:
    with opened(runtime, model, arguments) as run:
        run(fresh(arguments))
        given = fresh(arguments)
        device = device_of(model)
        if device.type == "cuda":
            return _peak_on_cuda(lambda: run(given), device)
        return _peak_on_cpu(lambda: run(given))


def _peak_on_cuda(call: Callable[[], object], device: torch.device) -> int:
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    return torch.cuda.max_memory_allocated(device) - before


def _peak_on_cpu(call: Callable[[], object]) -> int:
    with _Watching() as watching:
        call()
    peak: int = watching.peak
    return peak


class _Watching(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that operations return, until they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now, self.peak = 0, 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in given | self._seen:
                self._count(leaf.untyped_storage())
        return output

    def _count(self, storage: torch.UntypedStorage) -> None:
        self._seen.add(storage._cdata)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())

    def _free(self, storage: int, size: int) -> None:
        self._seen.discard(storage)
        self.now -= size
