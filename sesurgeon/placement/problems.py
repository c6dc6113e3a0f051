"""All that is wrong with a document, reported together and by line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sesurgeon.errors import UsageError

Path = tuple[str | int, ...]
"""Where something stands in plain data: the keys and indices that lead to it."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a document; its text begins with where, if that is known.

    Attributes:
        text: what is wrong.
        line: of the file, from 1 on; None where it is not known.
        place: in data that came from no file, as ``blocks[2]``; "" for the whole.
    """

    text: str
    line: int | None = None
    place: str = ""

    def __str__(self) -> str:
        where = self.place if self.line is None else f"line {self.line}"
        return f"{where}: {self.text}" if where else self.text


def problem_at(path: Path, lines: Mapping[Path, int], text: str) -> Problem:
    """A problem at ``path``, with its line, or that of the part around it; or else with its name."""
    for length in range(len(path), -1, -1):
        if path[:length] in lines:
            return Problem(text, lines[path[:length]])
    names = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return Problem(text, place=names.lstrip("."))


def twice(name: str, line: int | None) -> str:
    """The text for a second ``name`` where only one may be; ``line`` is that of the first, if known."""
    return f"{name} is there twice" + ("" if line is None else f", first on line {line}")


def refuse(what: str, problems: Iterable[Problem], hint: str | None = None) -> None:
    """Raise a UsageError that lists ``problems``, if there are any."""
    listed = list(dict.fromkeys(map(str, problems)))
    if listed:
        raise UsageError(f"{what}: {listed[0]}" if len(listed) == 1 else "\n  ".join([f"{what}:", *listed]), hint=hint)
