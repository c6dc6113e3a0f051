"""How this process keeps its memory."""

from __future__ import annotations

import atexit
import ctypes
import gc
import os

_YOUNG = 10_000  # objects, where Python has 700
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGEST_KEPT = 32 * 2**20  # the most that glibc takes for the second
_LARGE = 2**28  # bytes


def collect_seldom() -> None:
    """Let Python look for cyclic garbage less often, and not at all when the process ends.

    torch and torchvision come with a million objects that live as long as the process. To go through them time and
    again takes a fifth of an `add-se` of ResNet-50: 0.4 s while they are imported and used, 0.7 s at the end.
    """
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])
    atexit.register(gc.freeze)


def keep_freed_memory() -> None:
    """Let the C library keep what tensors free, for the next ones, and torch ask for the rest in huge pages.

    glibc gives large blocks back to the system, which hands them out again page by page, each cleared: on a CPU that
    is 7 to 10 % of a training step of ResNet-50 or MobileNetV2. The peak stays what it is. Other C libraries are left
    as they are, and so is one that the user has set up by MALLOC_* variables. To be called before torch is imported.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it at its first tensor
    _keep(_LARGEST_KEPT, 2**31 - 1)


def spare_memory_for(model: str) -> None:
    """Take :func:`keep_freed_memory` back where ``model`` is a large file, before it is loaded.

    What was kept of the weights with which its architecture is built would be filled in pieces, and never go. Pages
    cost little beside passes that take seconds.
    """
    if os.path.isfile(model) and os.path.getsize(model) > _LARGE:
        _keep(2**20, 2**20)


def _keep(block: int, free: int) -> None:
    """Let glibc keep blocks of up to so many bytes when they are freed, and so many free bytes at its end."""
    if os.name != "posix" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_M_MMAP_THRESHOLD, block)
        library.mallopt(_M_TRIM_THRESHOLD, free)
