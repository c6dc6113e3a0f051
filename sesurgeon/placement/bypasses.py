"""Ways of running parts of a network that go past its blocks, or count its children: what users are told of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sesurgeon.graph import Survey
from sesurgeon.graph.rows import child_giving
from sesurgeon.placement.plan import Entry
from sesurgeon.words import some

_MOST = 3


def bypasses(entries: Sequence[Entry], found: Survey) -> Iterator[str]:
    """Sentences on modules whose methods or numbered children do not give what the forward computes.

    Args:
        entries: with their attributes.
        found: the survey of the network.
    """
    by_owner: dict[str, list[Entry]] = {}
    for entry in entries:
        by_owner.setdefault(found.site(entry.site).owner, []).append(entry)
    rows = []
    for path, inside in by_owner.items():
        owner = found.model.get_submodule(path)
        sites = [entry.site for entry in inside if found.nodes[entry.site][False] is not None]
        if sites and hasattr(owner, "forward_features"):
            yield (
                f"forward_features of {path or 'the model'} goes without the blocks at {some(sites, _MOST)}: they are "
                "in its forward alone."
            )
        before = [child_giving(found.graphs[False], path, found.nodes[entry.site][False]) for entry in inside]
        if any(child is not None and child != list(owner._modules)[-1] for child in before):
            rows.append(path or "the model")
    if rows:
        yield (
            f"Blocks stand between the children of {some(rows, _MOST)}: what finds the children behind them by number "
            "([3], timm's forward_intermediates) finds others."
        )
