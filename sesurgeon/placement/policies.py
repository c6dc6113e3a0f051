"""Policies: pure functions from a network's sites to those that should get a block."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from sesurgeon.graph import Site

Policy = Callable[[Sequence[Site]], list[Site]]


def standard(sites: Sequence[Site]) -> list[Site]:
    """Where the paper puts its blocks (section 3.3, Figures 2 and 3; SE-ResNet-50 23.29 % top-1 error, 24.80 without).

    At the end of each residual branch before the sum; at the branch end of sibling blocks that have no skip
    (MobileNetV2 with stride 2); after the concatenation of a multi-branch module (Inception); and in a network that
    has none of these, after each convolution with its norm and activation (VGG), after the pointwise ones alone where
    they alternate with depthwise ones (MobileNet). Blocks win over stages: of two nested sums the inner one counts,
    and a concatenation inside a residual branch, or around residual blocks, does not.
    """
    sums = [site for site in sites if site.summed]
    blocks = [site for site in sums if not any(site.computes(other) for other in sums)]
    blocks += [site for site in sites if site.kind == "residual" and not site.has_skip]
    joins = [site for site in sites if site.kind == "concat" or (site.has_skip and not site.summed)]
    alone = [join for join in joins if not any(join.computes(block) or block.computes(join) for block in blocks)]
    outermost = [join for join in alone if not any(other.computes(join) for other in alone)]
    chosen = {site.id for site in (*blocks, *outermost)}
    return [site for site in sites if site.id in chosen] or _units(sites)


def _units(sites: Sequence[Site]) -> list[Site]:
    units = [site for site in sites if site.kind == "conv"]
    after_depthwise = [unit for before, unit in itertools.pairwise(units) if before.depthwise]
    return [unit for unit in after_depthwise if not unit.depthwise] or units


POLICIES: Mapping[str, Policy] = MappingProxyType({"standard": standard})
