"""What this process may use of the machine, and does use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


def cores() -> int:
    """How many processor cores, where fewer may be allowed than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def threads_of_torch(wanted: int | None) -> Iterator[int]:
    """Let torch use so many CPU threads for a while, or as many as it does if that is None; yield how many."""
    import torch

    before = torch.get_num_threads()
    if wanted is not None:
        torch.set_num_threads(wanted)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
