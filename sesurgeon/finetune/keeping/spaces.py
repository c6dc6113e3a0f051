"""Spaces that nobody would see: a folder may be called "cat " beside another that is called "cat"."""

from __future__ import annotations

import re

_MARK = "␣"
_UNSEEN = re.compile(r"\A\s|\s\Z|(?<=\s)\s|[^\S ]")


def spaces_shown(name: str) -> str:
    """``name`` with a mark for each space at its ends and beside another, and for tabs and ends of lines."""
    return _UNSEEN.sub(_MARK, name)
