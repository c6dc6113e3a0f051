"""What a check of the zoo raises."""

from __future__ import annotations


class CheckError(Exception):
    """A promise that does not hold for this network."""
