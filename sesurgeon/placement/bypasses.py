"""Ways of running parts of a network that go past its blocks, or count its children: what users are told of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sesurgeon.graph import Survey
from sesurgeon.graph.rows import child_giving
from sesurgeon.placement.plan import Entry

_MOST = 3


def bypasses(entries: Sequence[Entry], found: Survey) -> Iterator[str]:
    """A sentence for each module whose methods or numbered children do not give what its forward computes.

    Args:
        entries: with their attributes.
        found: the survey of the network.
    """
    by_owner: dict[str, list[Entry]] = {}
    for entry in entries:
        by_owner.setdefault(found.site(entry.site).owner, []).append(entry)
    for path, inside in by_owner.items():
        owner, graph = found.model.get_submodule(path), found.graphs[False].graphs.get(path)
        sites = [entry.site for entry in inside if found.nodes[entry.site][False] is not None]
        if sites and hasattr(owner, "forward_features"):
            more = f" and {len(sites) - _MOST} more" if len(sites) > _MOST else ""
            yield (
                f"forward_features of {path or 'the model'} goes without the blocks at "
                f"{', '.join(sites[:_MOST])}{more}: they are in its forward alone."
            )
        for entry in inside:
            child = child_giving(owner, graph, found.nodes[entry.site][False])
            if child is not None and child != list(owner._modules)[-1]:
                yield (
                    f"{path or 'The model'} gets a child '{entry.attribute}' behind '{child}': what finds the children "
                    "behind it by number ([3], timm's forward_intermediates) finds others."
                )
