"""Warnings about code that would run parts of a network without their blocks, or count its children."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sesurgeon.graph import Survey
from sesurgeon.graph.sequential import child_giving
from sesurgeon.placement.plan import Entry, by_owner
from sesurgeon.words import some

_MOST = 3


def bypasses(entries: Sequence[Entry], found: Survey) -> Iterator[str]:
    """Sentences on modules whose methods or numbered children do not give what the forward computes.

    Args:
        entries: with their attributes.
        found: the survey of the network.
    """
    rows = []
    for path, inside in by_owner(entries).items():
        owner = found.model.get_submodule(path)
        nodes = {entry.site: found.places[entry.site].nodes[False] for entry in inside}
        sites = [site for site, node in nodes.items() if node is not None]
        if sites and hasattr(owner, "forward_features"):
            yield (
                f"forward_features of {path or 'the model'} skips the blocks at {some(sites, _MOST)}: they are "
                "only in its forward."
            )
        before = [child_giving(found.graphs[False], path, node) for node in nodes.values()]
        if any(child is not None and child != list(owner._modules)[-1] for child in before):
            rows.append(path or "the model")
    if rows:
        yield (
            f"Blocks were inserted between the children of {some(rows, _MOST)}: code that finds later children by "
            "number ([3], timm's forward_intermediates) now finds others."
        )
