"""The plan: which block goes where, with which settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from sesurgeon.blocks import BlockConfig
from sesurgeon.errors import UsageError
from sesurgeon.graph import LeftAlone

VERSION = 1


@dataclass(frozen=True)
class Entry:
    """One block.

    Attributes:
        site: id of the site that it goes to.
        attribute: its name within the site's owner: the state dict's keys begin with ``OWNER.ATTRIBUTE.``
        channels: of the site's tensor.
        config: the block's kind and settings.
    """

    site: str
    attribute: str
    channels: int
    config: BlockConfig


@dataclass(frozen=True)
class Plan:
    """What surgery does to one architecture.

    Attributes:
        fingerprint: of the architecture that it was made for.
        policy: what chose the sites.
        inputs: positional arguments of the model's forward under which the sites were found, as plain data.
        entries: the blocks, in the order in which they run.
        left_alone: sites and modules that the policy would have wanted, and why they get none. Not applied or kept.
        warnings: what was odd about the request, for the user. Not kept.
    """

    fingerprint: str
    policy: str
    inputs: Any
    entries: tuple[Entry, ...]
    left_alone: tuple[LeftAlone, ...] = field(default=(), compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for YAML files and checkpoints."""
        return {
            "version": VERSION,
            "fingerprint": self.fingerprint,
            "policy": self.policy,
            "inputs": self.inputs,
            "blocks": [
                {
                    "site": entry.site,
                    "attribute": entry.attribute,
                    "channels": entry.channels,
                    **entry.config.to_dict(),
                }
                for entry in self.entries
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """The inverse of :meth:`to_dict`.

        Raises:
            UsageError: a version that this sesurgeon does not know, or a field that is missing or wrong.
        """
        if data.get("version") != VERSION:
            raise UsageError(f"The plan has version {data.get('version')!r}; this sesurgeon reads version {VERSION}.")
        try:
            entries = tuple(_entry(dict(block)) for block in data["blocks"])
            return cls(str(data["fingerprint"]), str(data["policy"]), data["inputs"], entries)
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"The plan cannot be read: {type(error).__name__}: {error}.") from error


def _entry(block: dict[str, Any]) -> Entry:
    site, attribute, channels = block.pop("site"), block.pop("attribute"), block.pop("channels")
    return Entry(str(site), str(attribute), int(channels), BlockConfig(**block))


def plan_to_yaml(plan: Plan) -> str:
    """The plan as a document for people."""
    return yaml.safe_dump(plan.to_dict(), sort_keys=False, default_flow_style=None, width=110)
