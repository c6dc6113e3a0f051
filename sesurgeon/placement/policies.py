"""Policies: pure functions from a network's sites to those that should get a block.

They are the integration strategies of the paper's section 6.5 and Figure 7. Errors in their docstrings are those that
it publishes for SE-ResNet-50 on ImageNet, top-1 and top-5 in %; ResNet-50 without SE has 23.30 top-1 there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from sesurgeon.graph import LeftAlone, Site
from sesurgeon.graph.candidates import SiteKind


@dataclass(frozen=True)
class Policy:
    """A way to choose sites.

    Attributes:
        select: gives, of a network's sites, those that should get a block.
        missed: why a residual block may have no place for it; "" for a policy that is not about residual blocks.
        avoids: kinds of sites that it passes over where their tensors are outputs of the network.
    """

    select: Callable[[Sequence[Site]], list[Site]]
    missed: str = ""
    avoids: tuple[SiteKind, ...] = ()

    def __call__(self, sites: Sequence[Site]) -> list[Site]:
        """The selected ones of ``sites``."""
        return self.select(sites)


def standard(sites: Sequence[Site]) -> list[Site]:
    """SE at the end of the residual branch, before the sum: 22.28 and 6.03 (section 3.3, Figures 2 and 3).

    Also at the branch end of sibling blocks that have no skip (MobileNetV2 with stride 2), and after the concatenation
    of a multi-branch module (Inception). In a network without any of these, after each convolution with its norm and
    activation (VGG), or only after the pointwise ones where they alternate with depthwise ones (MobileNet). A branch
    that is the whole network, and corrects the image that it gets (VDSR), counts where there is nothing else.
    Of two nested sums only the inner one counts, and a concatenation inside a residual branch, or around residual
    blocks, does not count.
    """
    branches = residual_blocks(sites)
    blocks = [site for site in branches if not site.returned]
    joins = [site for site in sites if site.kind == "concat" or (site.has_skip and not site.summed)]
    alone = [join for join in joins if not any(join.computes(block) or block.computes(join) for block in blocks)]
    outermost = [join for join in alone if not any(other.computes(join) for other in alone)]
    chosen = {site.id for site in (*blocks, *outermost)}
    return [site for site in sites if site.id in chosen] or _units(sites) or branches


def pre(sites: Sequence[Site]) -> list[Site]:
    """SE-PRE: before the residual branch, after the fork, so that the shortcut is not scaled: 22.23 and 6.00."""
    return _around(sites, "fork")


def post(sites: Sequence[Site]) -> list[Site]:
    """SE-POST: after the sum, and after its activation where one follows: 22.78 and 6.35."""
    return _around(sites, "sum")


def identity(sites: Sequence[Site]) -> list[Site]:
    """SE-Identity: on the shortcut, in parallel to the residual branch: 22.20 and 6.15."""
    return _around(sites, "shortcut")


def inner(sites: Sequence[Site]) -> list[Site]:
    """SE_3x3: inside the residual branch, after the spatial convolution's norm and activation: 22.48 and 6.02.

    It takes 25.8 million parameters instead of 28.1, as there are fewer channels. RegNetY, MobileNetV3 and
    EfficientNet have their blocks there. Of several spatial convolutions in a branch the last depthwise one counts, or
    else the last one before the branch's end.
    """
    found = [_inner_unit(block, sites) for block in _branches(sites)]
    return [unit for unit in found if unit is not None]


def conv(sites: Sequence[Site]) -> list[Site]:
    """After every convolution with its norm and activation, as the paper's SE-VGG-16 (Table 2: 25.22 for 27.02).

    Not after an output of the network (a sigmoid or tanh, or a map of up to three channels): a gate of up to 2 would
    raise probabilities above 1, and double depths.
    """
    return [site for site in sites if site.kind == "conv" and not site.returned]


POLICIES: Mapping[str, Policy] = MappingProxyType(
    {
        "standard": Policy(standard, avoids=("conv", "residual")),
        "pre": Policy(
            pre, "its branch does not start from one tensor, it or the sum writes into it, or there is no shortcut"
        ),
        "post": Policy(post, "its branch has no shortcut, so there is no sum, or the sum is in place of a slice"),
        "identity": Policy(identity, "its branch has no shortcut, or that is overwritten later"),
        "inner": Policy(
            inner, "before its end, its branch has no spatial convolution that a norm or activation follows"
        ),
        "conv": Policy(conv, avoids=("conv",)),
    }
)


def residual_blocks(sites: Sequence[Site]) -> list[Site]:
    """The innermost residual branches that are summed with a shortcut, and the branches of siblings without one."""
    sums = [site for site in sites if site.kind == "residual" and site.summed]
    blocks = [site for site in sums if not any(site.computes(other) for other in sums)]
    return blocks + [site for site in sites if site.kind == "residual" and not site.has_skip]


def passed_over(name: str, sites: Sequence[Site], chosen: Sequence[Site]) -> list[LeftAlone]:
    """The places that the policy of that ``name`` would be for, but left out; and why."""
    policy = POLICIES[name]
    blocks = _without_place(sites, chosen) if policy.missed else []
    outputs = [site for site in sites if site.kind in policy.avoids and site.returned]
    if any(site.kind != "conv" for site in chosen):  # "standard" avoids outputs only where it falls back on units
        outputs = []
    return [
        *(LeftAlone(block.owner, f"{name}: {policy.missed}") for block in blocks),
        *(LeftAlone(site.owner, f"{name}: its result is an output of the network") for site in outputs),
    ]


def _without_place(sites: Sequence[Site], chosen: Sequence[Site]) -> list[Site]:
    """The residual blocks in which no site was chosen."""
    served = {site.residual for site in chosen}
    return [
        block
        for block in _branches(sites)
        if block.id not in served and not any(block.computes_with(site) for site in chosen)
    ]


def _branches(sites: Sequence[Site]) -> list[Site]:
    """The residual branches that ``standard`` chooses, in order; all of them where it prefers units."""
    return [site for site in standard(sites) if site.kind == "residual"] or residual_blocks(sites)


def _around(sites: Sequence[Site], kind: SiteKind) -> list[Site]:
    branches = {site.id for site in _branches(sites)}
    return [site for site in sites if site.kind == kind and site.residual in branches]


def _inner_unit(block: Site, sites: Sequence[Site]) -> Site | None:
    units = [
        site
        for site in sites
        if site.kind == "conv"
        and max(site.kernel_size) > 1
        and block.computes_with(site)
        and site.tensor != block.tensor
    ]
    best = [unit for unit in units if unit.depthwise] or units
    if not best:
        return None
    if best[-1].attention is not None:
        return best[-1]
    # what gates the branch gates this unit too, wherever in the branch it is
    return replace(best[-1], attention=block.attention)


def _units(sites: Sequence[Site]) -> list[Site]:
    units = conv(sites)
    after_depthwise = [unit for before, unit in itertools.pairwise(units) if before.depthwise]
    pointwise = [unit for unit in after_depthwise if not unit.depthwise]
    in_pairs = pointwise and 2 * len(pointwise) >= len(units) - 1  # all but the stem
    return pointwise if in_pairs else units
