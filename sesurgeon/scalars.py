"""Numbers that people give, from Python, NumPy or a file."""

from __future__ import annotations

from numbers import Number
from typing import Any, TypeGuard


def as_python(value: Any) -> Any:
    """One of NumPy's numbers as a Python number, which files can keep; anything else as it is."""
    return value.item() if isinstance(value, Number) and hasattr(value, "item") else value


def is_whole(value: object) -> TypeGuard[int]:
    """Whether ``value`` is an integer of Python's; ``True`` and ``False`` are not."""
    return isinstance(value, int) and not isinstance(value, bool)
