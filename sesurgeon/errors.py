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
    exit_code = 2


class FileError(SesurgeonError):
    exit_code = 3


class UnreadableFileError(FileError):
    pass


class UnsafeFileError(FileError):
    pass


class SiteError(SesurgeonError):
    exit_code = 4


class NoSiteError(SiteError):
    pass


class UntraceableError(SiteError):
    pass


class VerificationError(SesurgeonError):
    exit_code = 5


class OutputError(SesurgeonError):
    pass


class DataError(SesurgeonError):
    pass


class DivergedError(SesurgeonError):
    pass
