"""The plan: which block goes where, with which settings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from sesurgeon.blocks import BlockConfig
from sesurgeon.graph import LeftAlone
from sesurgeon.paths import join
from sesurgeon.placement.architecture import Architecture


@dataclass(frozen=True)
class Entry:
    """One block.

    Attributes:
        site: id of its site.
        attribute: its name within the site's owner: the state dict's keys begin with ``OWNER.ATTRIBUTE.``;
            "" where a plan written by hand leaves it open, until it meets a model.
        channels: of the site's tensor; 0 where they are left open.
        config: the block's kind and settings.
        folded: names of the weights and biases into which the gate's factor was folded: the network's weights are
            those after folding, and the gate is plain.
        line: in the file that the entry was read from, from 1 on.
    """

    site: str
    attribute: str = ""
    channels: int = 0
    config: BlockConfig = field(default_factory=BlockConfig)
    folded: tuple[str, ...] = ()
    line: int | None = field(default=None, compare=False)

    @property
    def owner(self) -> str:
        """Path of the module that gets the block; "" for the model itself."""
        return self.site.rpartition(":")[0].removeprefix(".")

    @property
    def path(self) -> str:
        """Path of the block in the augmented network, once its attribute is known."""
        return join(self.owner, self.attribute)


def by_owner(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """The entries of each owner, by its path."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.owner, []).append(entry)
    return found


@dataclass(frozen=True)
class Plan:
    """What surgery does to one architecture.

    Attributes:
        architecture: that it was made for; None where a plan written by hand leaves it open.
        policy: names of the policies that chose the sites, in the order in which they chose.
        inputs: positional arguments of the model's forward on which the sites were found, as plain data (see
            :mod:`sesurgeon.placement.arguments`); None to make new ones.
        entries: the blocks, in the order in which they run.
        left_alone: sites and modules that the policy would have chosen, and why they get no block. Not kept in files.
        warnings: what was odd about the request, for the user. Not kept in files.
    """

    architecture: Architecture | None
    policy: tuple[str, ...]
    inputs: Any
    entries: tuple[Entry, ...]
    left_alone: tuple[LeftAlone, ...] = field(default=(), compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False)

    @property
    def sites(self) -> list[str]:
        """Ids of the sites that have a block."""
        return [entry.site for entry in self.entries]

    def unfolded(self) -> Plan:
        """The same blocks with the gates that they had before folding, for weights into which nothing was folded."""
        entries = (
            replace(entry, config=replace(entry.config, plain=False), folded=()) if entry.folded else entry
            for entry in self.entries
        )
        return replace(self, entries=tuple(entries))
