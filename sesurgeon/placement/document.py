"""The plan as plain data, as files and checkpoints keep it, and back.

    version: 2
    architecture: {class: ResNet, fingerprint: c477…, parts: {conv1: df25…, …}}   # may be left out
    policy: [standard]                                                            # may be left out
    inputs: [{shape: [2, 3, 224, 224], dtype: float32}]                           # may be left out
    defaults: {rd_ratio: 0.25}               # settings of the entries that name no other block; may be left out
    blocks:
    - {site: 'layer1.0:residual', attribute: se, channels: 64, block: se, cost: {…}}
    - {site: 'layer1.1:residual'}            # only the site has to be there

A cost is for people; it is not read. An entry of a folded network also names the weights that its gate's factor went
into, as ``folded``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from sesurgeon.blocks import BlockConfig
from sesurgeon.errors import UsageError
from sesurgeon.placement.architecture import Architecture
from sesurgeon.placement.arguments import wrong_with
from sesurgeon.placement.attributes import is_attribute
from sesurgeon.placement.plan import Entry, Plan
from sesurgeon.placement.problems import Path, Problem, problem_at, refuse, twice
from sesurgeon.scalars import is_whole

VERSION = 2

_TOP = ("version", "architecture", "policy", "inputs", "defaults", "blocks")
_OF_ENTRIES = ("site", "attribute", "channels", "folded", "cost")
_SETTINGS = tuple(setting.name for setting in fields(BlockConfig))


def plan_to_data(plan: Plan) -> dict[str, Any]:
    """``plan`` as plain data; an entry names its block, and the settings that differ from the defaults."""
    data: dict[str, Any] = {"version": VERSION}
    if plan.architecture is not None:
        data["architecture"] = plan.architecture.to_dict()
    if plan.policy:
        data["policy"] = list(plan.policy)
    if plan.inputs is not None:
        data["inputs"] = plan.inputs
    return data | {"blocks": [entry_to_data(entry) for entry in plan.entries]}


def entry_to_data(entry: Entry) -> dict[str, Any]:
    """One entry as plain data, without the keys that it leaves open."""
    known = {"attribute": entry.attribute, "channels": entry.channels, "folded": list(entry.folded)}
    return {"site": entry.site} | {key: value for key, value in known.items() if value} | entry.config.to_dict()


def plan_from_data(data: Any, origin: str = "The plan") -> Plan:
    """The inverse of :func:`plan_to_data`, also for documents that were written or edited by hand.

    Args:
        data: the document.
        origin: what the document is called in messages.

    Raises:
        UsageError: the version is not one that this sesurgeon reads; or there are problems, all of which are listed.
    """
    plan, problems = plan_in_part(data, origin=origin)
    refuse(f"{origin} cannot be read", problems)
    return plan


def plan_in_part(
    data: Any, lines: Mapping[Path, int] | None = None, origin: str = "The plan"
) -> tuple[Plan, tuple[Problem, ...]]:
    """As :func:`plan_from_data`, but gives what could be read of the plan, and the problems with the rest.

    Raises:
        UsageError: it is not a plan at all, or its version is not one that this sesurgeon reads.
    """
    reader = _Reader(lines or {})
    if not isinstance(data, Mapping):
        raise UsageError(f"{origin} is not a plan: it has no keys such as version and blocks.")
    if data.get("version") != VERSION:
        version = f"has version {data['version']!r}" if "version" in data else "has no version"
        hint = None if "version" in data else f"Add the line `version: {VERSION}`."
        raise UsageError(f"{origin} {version}; this sesurgeon reads version {VERSION}.", hint=hint)
    return reader.plan(data), tuple(reader.problems)


@dataclass
class _Reader:
    """Reads the parts of a document, and collects what is wrong with them."""

    lines: Mapping[Path, int]
    problems: list[Problem] = field(default_factory=list)

    def plan(self, data: Mapping[str, Any]) -> Plan:
        self._check_keys(data, (), _TOP)
        architecture = self._architecture(data["architecture"]) if "architecture" in data else None
        policy = data.get("policy", [])
        names = [policy] if isinstance(policy, str) else policy
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            self._add(("policy",), f"policy must be a list of names, not {policy!r}")
            names = []
        inputs = data.get("inputs")
        if "inputs" in data and not self._are_inputs(inputs):
            inputs = None
        defaults = self._defaults(data.get("defaults", {}))
        return Plan(architecture, tuple(names), inputs, self._entries(data.get("blocks"), defaults))

    def _defaults(self, data: Any) -> dict[str, Any]:
        """The default settings, with the block's name; only that where they are wrong, which is then reported once."""
        settings = {"block": "se"} | self._settings(data, ("defaults",))
        before = len(self.problems)
        self._config(settings, ("defaults",))
        return settings if len(self.problems) == before else {"block": "se"}

    def _architecture(self, data: Any) -> Architecture | None:
        if not self._is_mapping(data, ("architecture",)):
            return None
        self._check_keys(data, ("architecture",), ("class", "fingerprint", "parts"))
        parts = data.get("parts", {})
        if not isinstance(parts, Mapping):
            self._add(("architecture", "parts"), "parts must map names to hashes")
            parts = {}
        texts = {"class": data.get("class", ""), "fingerprint": data.get("fingerprint")}
        for key, value in texts.items():
            if not isinstance(value, str):
                self._add(("architecture", key), f"{key} must be a text, not {value!r}")
        return Architecture.from_dict(texts | {"parts": parts})

    def _are_inputs(self, inputs: Any) -> bool:
        if not isinstance(inputs, list):
            self._add(("inputs",), f"inputs must be a list of arguments, not {inputs!r}")
            return False
        before = len(self.problems)
        for number, argument in enumerate(inputs):
            for text in wrong_with(argument):
                self._add(("inputs", number), text)
        return len(self.problems) == before

    def _entries(self, blocks: Any, defaults: Mapping[str, Any]) -> tuple[Entry, ...]:
        if not (isinstance(blocks, list) and blocks):
            self._add(("blocks",), "blocks must be a list with an entry for each site, as {site: 'layer1.0:residual'}")
            return ()
        entries: dict[str, Entry] = {}
        for number, block in enumerate(blocks):
            path = ("blocks", number)
            entry = self._entry(block, path, defaults)
            if entry is None:
                continue
            if entry.site in entries:
                self._add(path, twice(entry.site, entries[entry.site].line))
            entries.setdefault(entry.site, entry)
        return tuple(entries.values())

    def _entry(self, block: Any, path: Path, defaults: Mapping[str, Any]) -> Entry | None:
        if not self._is_mapping(block, path):
            return None
        self._check_keys(block, path, (*_OF_ENTRIES, *_SETTINGS))
        site, attribute, channels = block.get("site"), block.get("attribute", ""), block.get("channels", 0)
        if not isinstance(site, str):
            self._add((*path, "site"), "site must be the id of a site" + ("" if site is None else f", not {site!r}"))
            return None
        if not (isinstance(attribute, str) and (is_attribute(attribute) or "attribute" not in block)):
            self._add((*path, "attribute"), f"attribute must be a name, not {attribute!a}")
            attribute = ""
        if not is_whole(channels) or (channels < 1 and "channels" in block):
            self._add((*path, "channels"), f"channels must be a number from 1 on, not {channels!r}")
            channels = 0
        given = self._settings({key: value for key, value in block.items() if key in _SETTINGS}, path)
        inherits = given.get("block", defaults.get("block")) == defaults.get("block")
        config = self._config({**defaults, **given} if inherits else given, path)
        return Entry(site, str(attribute), channels, config, self._folded(block, path), self.lines.get(path))

    def _folded(self, block: Mapping[str, Any], path: Path) -> tuple[str, ...]:
        names = block.get("folded", [])
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            self._add((*path, "folded"), f"folded must be a list of names of weights, not {names!r}")
            return ()
        return tuple(names)

    def _settings(self, data: Any, path: Path) -> dict[str, Any]:
        """The known settings that have a single value, which BlockConfig checks."""
        if not self._is_mapping(data, path):
            return {}
        self._check_keys(data, path, _SETTINGS)
        known = {key: value for key, value in data.items() if key in _SETTINGS}
        several = [key for key, value in known.items() if isinstance(value, (list, Mapping))]
        for key in several:
            self._add((*path, key), f"{key} must be a single value, not {known[key]!r}")
        return {key: value for key, value in known.items() if key not in several}

    def _config(self, settings: Mapping[str, Any], path: Path) -> BlockConfig:
        try:
            return BlockConfig(**settings)
        except UsageError as error:
            self._add(path, error.message)
            return BlockConfig()

    def _is_mapping(self, data: Any, path: Path) -> bool:
        if isinstance(data, Mapping):
            return True
        self._add(path, f"this must be of the form {{key: value}}, not {data!r}")
        return False

    def _check_keys(self, data: Mapping[Any, Any], path: Path, known: Iterable[str]) -> None:
        for key in data:
            if key not in known:
                close = difflib.get_close_matches(str(key), list(known), n=1)
                meant = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
                self._add((*path, key), f"unknown key {key!r}: {meant}")

    def _add(self, path: Path, text: str) -> None:
        self.problems.append(problem_at(path, self.lines, text))
