"""Memory for large results, in large pages."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

import torch
from torch import Tensor

_HUGE_PAGES = 14  # MADV_HUGEPAGE of Linux's madvise
_PAGE = 4096  # bytes; where pages are larger, an address that is no multiple of them is refused, and nothing happens
_LARGE = 2**25  # bytes: glibc's largest DEFAULT_MMAP_THRESHOLD; what is smaller is memory that was used before


def fresh_like(x: Tensor, dtype: torch.dtype) -> Tensor:
    """As ``torch.empty_like``; for a large tensor the system is asked for huge pages, where it has them.

    The system gives new memory for each large tensor. In small pages the first write takes three times as long as the
    second: at each page the system interrupts, to find one and clear it. Smaller tensors mostly use memory again that
    others had, and there huge pages cost more than they save: 3 % of a training step of SE-ResNet-50
    (benchmarks/step.py). ``THP_MEM_ALLOC_ENABLE=1`` makes torch ask for huge pages itself, for all its tensors.
    """
    fresh = torch.empty_like(x, dtype=dtype)
    size = fresh.numel() * fresh.element_size()
    if fresh.device.type == "cpu" and size >= _LARGE and (advise := _madvise()) is not None:
        start = -(-fresh.data_ptr() // _PAGE) * _PAGE
        advise(ctypes.c_void_p(start), ctypes.c_size_t(size - (start - fresh.data_ptr())), _HUGE_PAGES)
    return fresh


@cache
def _madvise() -> Any:
    """The C library's function; None where there is none. It is advice: whether it was taken does not matter."""
    return getattr(ctypes.CDLL(None), "madvise", None) if sys.platform == "linux" else None
