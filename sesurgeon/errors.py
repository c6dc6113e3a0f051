"""Everything that sesurgeon raises on purpose.

    SesurgeonError                  exit 1
    ├── UsageError                  exit 2   arguments that make no sense
    ├── FileError                   exit 3
    │   ├── UnreadableFileError              missing, torn, or of a format that we do not read
    │   └── UnsafeFileError                  reading it would run code
    ├── SiteError                   exit 4
    │   ├── NoSiteError                      nothing to attach a block to, or nothing selected
    │   └── UntraceableError                 the network could not be run or followed
    ├── VerificationError           exit 5   a proof failed: outputs or weights differ
    ├── OutputError                 exit 1   the result cannot be written where it was asked for
    ├── DataError                   exit 1   images, folders or labels that cannot be used
    └── DivergedError               exit 1   training led to numbers that are not finite

SurgeryWarning, a UserWarning, is what :func:`sesurgeon.add_se` says of a network that it nevertheless operated on.

130 is left for an interrupt (Ctrl-C). A message says what was given and where; ``hint`` says what to do next.
"""

from __future__ import annotations

from typing import ClassVar


class SesurgeonError(Exception):
    """Base of all errors raised by sesurgeon.

    Args:
        message: what was given, where, and what is wrong with it.
        hint: what the user can do next.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n{self.hint}"


class UsageError(SesurgeonError):
    """Arguments that make no sense."""

    exit_code = 2


class FileError(SesurgeonError):
    """A file that is not read."""

    exit_code = 3


class UnreadableFileError(FileError):
    """A file is missing, torn, or of a format that sesurgeon does not read."""


class UnsafeFileError(FileError):
    """Reading a file would run code in it."""


class SiteError(SesurgeonError):
    """There is no place for a block."""

    exit_code = 4


class NoSiteError(SiteError):
    """There is nothing to attach a block to, or nothing was selected."""


class UntraceableError(SiteError):
    """The network could not be run or followed."""


class VerificationError(SesurgeonError):
    """A proof failed: outputs or weights differ."""

    exit_code = 5


class OutputError(SesurgeonError):
    """The result cannot be written where it was asked for."""


class DataError(SesurgeonError):
    """Images, folders or labels that cannot be used."""


class DivergedError(SesurgeonError):
    """Training led to numbers that are not finite."""


class SurgeryWarning(UserWarning):
    """Something to know about a network that got blocks: what could not be followed, or blocks that cannot learn."""
