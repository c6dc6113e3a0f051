"""Lists of names, counts and errors as people read them."""

from __future__ import annotations

from collections.abc import Sequence


def some(names: Sequence[str], most: int) -> str:
    """For a message: the first ``most``, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def counted(number: int, thing: str) -> str:
    """``1 block``, ``1,000 blocks``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def in_per_cent(share: float, form: str = ".2f") -> str:
    """``12.50 %`` for 0.125."""
    return f"{100 * share:{form}} %"


def first_line(error: BaseException) -> str:
    """What ``error`` says first: torch adds pages of advice to its own developers."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
