"""What this process may use of the machine."""

from __future__ import annotations

import os


def cores() -> int:
    """How many processor cores, where fewer may be allowed than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
