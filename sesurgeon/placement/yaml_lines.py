"""YAML as plain data that still knows on which line each part stood."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

from sesurgeon.placement.problems import Path, Problem, refuse

_DEEPEST = 50


def parse_yaml(text: str, origin: str) -> tuple[Any, dict[Path, int]]:
    """The document ``text`` as plain data, and the line (from 1 on) of each part of it.

    Refused are aliases (a few lines of them can stand for gigabytes), deep nesting, and duplicate keys, of which
    ``yaml.safe_load`` would silently drop one.

    Raises:
        UsageError: it is not YAML, or has one of these; with the line.
    """
    try:
        refuse(f"{origin} cannot be read", _refused(text))
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        reader = _Reader()
        data = None if root is None else reader.value(root, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        refuse(f"{origin} is not YAML", [Problem(str(error.problem or error.context), line)])
        raise
    except yaml.YAMLError as error:  # control characters
        refuse(f"{origin} is not YAML", [Problem(f"{type(error).__name__}: {error}")])
        raise
    refuse(f"{origin} cannot be read", reader.problems)
    return data, reader.lines


def _refused(text: str) -> Iterator[Problem]:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            yield Problem(f"the alias *{event.anchor} is not read: write it out", _line(event))
        if depth > _DEEPEST:
            yield Problem(f"more than {_DEEPEST} brackets are open", _line(event))
            return


def _line(part: yaml.Event | yaml.Node) -> int | None:
    return None if part.start_mark is None else part.start_mark.line + 1


class _Reader:
    """From YAML's nodes to plain data."""

    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self.problems: list[Problem] = []
        self._scalars = SafeConstructor()

    def value(self, node: yaml.Node, path: Path) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, number)) for number, item in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[Any, Any]:
        data: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = self._scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, (str, int)):
                self._add(key_node, "a key must be a word or a whole number")
                continue
            if key in data:
                self._add(key_node, f"the key {key!r} is there twice")
            below = (*path, key)
            self.lines[below] = key_node.start_mark.line + 1
            data[key] = self.value(value_node, below)
        return data

    def _scalar(self, node: yaml.Node) -> Any:
        try:
            return self._scalars.construct_object(node)
        except ValueError as error:  # 2026-02-30 looks like a date
            self._add(node, f"{node.value!r}: {error}")
        except (ArithmeticError, AttributeError, LookupError):  # PyYAML takes it that what is marked !!bool is one
            self._add(node, f"{node.value!r} is no {node.tag.rpartition(':')[2]}")
        return None

    def _add(self, node: yaml.Node, text: str) -> None:
        self.problems.append(Problem(text, _line(node)))
