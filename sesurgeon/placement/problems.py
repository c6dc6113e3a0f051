"""All that is wrong with a document, told at once and by line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sesurgeon.errors import UsageError

Path = tuple[str | int, ...]
"""Where something stands in plain data: the keys and indices that lead to it."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        where: ``line 3``, or ``blocks[2]`` in data that came from no file; "" for the whole.
        text: what is wrong there.
    """

    where: str
    text: str

    @property
    def line(self) -> int:
        """Of the file; 0 where it has none."""
        number = self.where.removeprefix("line ")
        return int(number) if number.isdecimal() else 0

    def __str__(self) -> str:
        return f"{self.where}: {self.text}" if self.where else self.text


def problem_at(path: Path, lines: Mapping[Path, int], text: str) -> Problem:
    """A problem at ``path``: on its line or that of what it is part of, or else by its name."""
    for length in range(len(path), -1, -1):
        if path[:length] in lines:
            return Problem(f"line {lines[path[:length]]}", text)
    names = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return Problem(names.lstrip("."), text)


def twice(name: str, line: int | None) -> str:
    """That ``name`` is there again, which may stand once; ``line`` is where it stood first, if that is known."""
    return f"{name} is there twice" + ("" if line is None else f", first on line {line}")


def refuse(what: str, problems: Iterable[Problem], hint: str | None = None) -> None:
    """Raise a UsageError that lists ``problems``, if there are any."""
    listed = list(dict.fromkeys(map(str, problems)))
    if listed:
        raise UsageError(f"{what}: {listed[0]}" if len(listed) == 1 else "\n  ".join([f"{what}:", *listed]), hint=hint)
