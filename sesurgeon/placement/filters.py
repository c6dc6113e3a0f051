"""Which of the sites that a policy chose are wanted."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from sesurgeon.errors import NoSiteError
from sesurgeon.graph import Site


@dataclass(frozen=True)
class Filters:
    """What a site must be like to be kept.

    Attributes:
        include: globs on site ids (or on their owners' paths); a site must match one; none given means all.
        exclude: globs; a site must match none.
        stages: the paper's stages, 2 to 5 for the strides 4 to 32; None means all.
        min_channels: the fewest channels.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    stages: tuple[int, ...] | None = None
    min_channels: int = 1

    def keep(self, sites: Sequence[Site]) -> list[Site]:
        """The wanted ones of ``sites``, in order.

        Raises:
            NoSiteError: none is left; the message says which filter took the last one, and lists near ids.
        """
        kept = list(sites)
        if self.include:
            kept = self._or_explain(kept, [site for site in kept if _matches(site, self.include)], "--include")
        if self.exclude:
            kept = self._or_explain(kept, [site for site in kept if not _matches(site, self.exclude)], "--exclude")
        if self.stages is not None:
            kept = self._or_explain(kept, [site for site in kept if site.stage in self.stages], "--stages")
        return self._or_explain(kept, [site for site in kept if site.channels >= self.min_channels], "--min-channels")

    def unused(self, sites: Sequence[Site]) -> list[str]:
        """The include and exclude globs that match none of ``sites``."""
        return [glob for glob in (*self.include, *self.exclude) if not any(_matches(site, (glob,)) for site in sites)]

    def _or_explain(self, before: list[Site], after: list[Site], option: str) -> list[Site]:
        if after or not before:
            return after
        if option == "--include":
            hint = f"Nearest site ids: {', '.join(_nearest(self.include, before))}."
        elif option == "--stages":
            hint = f"Stages that have sites: {', '.join(map(str, sorted({site.stage for site in before})))}."
        elif option == "--min-channels":
            hint = f"The widest site has {max(site.channels for site in before)} channels."
        else:
            hint = f"Sites before it: {', '.join(site.id for site in before[:5])}."
        raise NoSiteError(f"No site is left after {option} {self._value(option)}.", hint=hint)

    def _value(self, option: str) -> str:
        values = {
            "--include": self.include,
            "--exclude": self.exclude,
            "--stages": self.stages or (),
            "--min-channels": (self.min_channels,),
        }
        return " ".join(map(str, values[option]))


def _matches(site: Site, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(site.id, glob) or fnmatchcase(site.owner, glob) for glob in globs)


def _nearest(globs: Sequence[str], sites: Sequence[Site]) -> list[str]:
    ids = [site.id for site in sites]
    near = [match for glob in globs for match in difflib.get_close_matches(glob.strip("*"), ids, n=5, cutoff=0.4)]
    return list(dict.fromkeys(near))[:8] or ids[:8]
