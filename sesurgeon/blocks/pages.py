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
_LARGE = 2**22  # bytes: two huge pages


def fresh_like(x: Tensor, dtype: torch.dtype) -> Tensor:
    """As ``torch.empty_like``; memory that the system has yet to give comes in huge pages, where it knows them.

    In small ones, writing a large tensor for the first time takes three times as long as writing it again: page by
    page the system interrupts, finds one and clears it. ``THP_MEM_ALLOC_ENABLE=1`` makes torch ask for huge pages
    itself, for all its tensors.
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
