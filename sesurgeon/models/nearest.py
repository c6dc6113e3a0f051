"""Names close to one that was mistyped."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(given: str, known: Iterable[str]) -> str | None:
    """A sentence with up to three names of ``known`` that look like ``given``; None when none does."""
    close = difflib.get_close_matches(given, list(known), n=3, cutoff=0.6)
    return f"Nearest names: {', '.join(close)}." if close else None
