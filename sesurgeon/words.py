"""Lists of names, counts and errors as people read them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

GIVE_INPUT = (
    "Give an input that it takes: --input-shape 2,3,224,224, once for each argument of its forward (in Python: "
    "example_inputs=, a tensor or the tuple of these arguments)."
)
"""The advice where a network fails on its input."""

_UNSEEN = re.compile(r"\A\s|\s\Z|(?<=\s)\s|[^\S ]")


def some(names: Sequence[str], most: int = 8) -> str:
    """For a message: the first ``most``, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def nearest(given: str, known: Iterable[str]) -> str | None:
    """A sentence with up to three names of ``known`` that look like ``given``; None when none does."""
    close = difflib.get_close_matches(given, list(known), n=3, cutoff=0.6)
    return f"Nearest names: {', '.join(close)}." if close else None


def spaces_shown(name: str) -> str:
    """``name`` with ``␣`` for spaces at its ends and beside another, tabs and line ends: "cat " is not "cat"."""
    return _UNSEEN.sub("␣", name)


def counted(number: int, thing: str) -> str:
    """``1 block``, ``1,000 blocks``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def mode_name(training: bool) -> str:
    """``train`` or ``eval``."""
    return "train" if training else "eval"


def in_per_cent(share: float, form: str = ".2f") -> str:
    """``12.50 %`` for 0.125."""
    return f"{100 * share:{form}} %"


def first_line(error: BaseException) -> str:
    """What ``error`` says first: torch adds pages of advice to its own developers."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
