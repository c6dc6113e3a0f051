"""Which of the sites that a policy chose are kept."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from sesurgeon.errors import NoSiteError, UsageError
from sesurgeon.graph import Site
from sesurgeon.scalars import as_python, is_whole

Kernel = int | tuple[int, ...]


@dataclass(frozen=True)
class Filters:
    """What a site must be like to be kept.

    Attributes:
        include: globs on site ids (or on their owners' paths), of which a site must match one; () means all.
        exclude: globs, of which a site must match none.
        stages: the paper's stages, 2 to 5 for the strides 4 to 32; None means all.
        min_channels: the fewest channels.
        kernel: sizes of the convolution of a "conv" site: 3 for 3x3; (1, 7) for 1x1 or 7x7, and [(1, 7)] for 1x7; other
            sites pass; () means all.
        depthwise: True for only "conv" sites of depthwise convolutions, False for only the others; other sites pass.
        skip_last_stage: leave out the last stage in which the policy has sites.
        every: keep every N-th of the remaining sites, starting with the first.

    Raises:
        UsageError: a number below 1, or a value of another type; all of them are named.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    stages: Sequence[int] | None = None
    min_channels: int = 1
    kernel: Sequence[Kernel] = ()
    depthwise: bool | None = None
    skip_last_stage: bool = False
    every: int = 1

    def __post_init__(self) -> None:
        for name in ("include", "exclude", "stages", "kernel"):
            given = as_python(getattr(self, name))
            if isinstance(given, (str, int)):  # one alone; a str would be taken apart, and its "*" match all
                given = (given,)
            elif isinstance(given, Iterable):
                given = tuple(map(as_python, given))
            object.__setattr__(self, name, given)
        for name in ("min_channels", "every"):
            object.__setattr__(self, name, as_python(getattr(self, name)))
        problems = list(self._wrong())
        if problems:
            raise UsageError(f"The filters are wrong: {'; '.join(problems)}.")

    def _wrong(self) -> Iterator[str]:
        lists: tuple[tuple[str, Callable[[object], bool], str], ...] = (
            ("include", _is_text, "globs"),
            ("exclude", _is_text, "globs"),
            ("stages", is_whole, "whole numbers"),
            ("kernel", _is_kernel, "sizes, as 3 or [(1, 7)]"),
        )
        for name, is_item, words in lists:
            given = getattr(self, name)
            listed = isinstance(given, tuple) and all(map(is_item, given))
            if not listed and not (name == "stages" and given is None):
                yield f"{name} (={given!r}) must be {words}"
        for name in ("min_channels", "every"):
            value = getattr(self, name)
            if not (is_whole(value) and value >= 1):
                yield f"{name} (={value!r}) must be a whole number, at least 1"
        for name, known in (("depthwise", (True, False, None)), ("skip_last_stage", (True, False))):
            value = getattr(self, name)
            if not any(value is one for one in known):
                yield f"{name} (={value!r}) must be one of: {', '.join(map(str, known))}"

    def keep(self, sites: Sequence[Site], of: Sequence[Site] = ()) -> list[Site]:
        """The sites that pass all filters, in order.

        Args:
            sites: those that could get a block.
            of: all sites of the policy, those with attention included, which decide what the last stage is.

        Raises:
            NoSiteError: none is left; the message says which filter took the last one, and lists near ids.
        """
        kept = list(sites)
        last = max((site.stage for site in of or sites), default=0)
        for option, wanted in self._tests(last):
            before, kept = kept, [site for site in kept if wanted(site)]
            if before and not kept:
                raise NoSiteError(f"No site is left after {option}.", hint=self._hint(option, before))
        return kept[:: self.every]

    def unused(self, sites: Sequence[Site]) -> list[str]:
        """A sentence for each filter that has no effect on ``sites``, those of the policy."""
        globs = [glob for glob in (*self.include, *self.exclude) if not any(_matches(site, (glob,)) for site in sites)]
        said = [f"The pattern '{glob}' matches no site of the policy." for glob in globs]
        given = {"--kernel": bool(self.kernel), "--[no-]depthwise": self.depthwise is not None}
        if not any(site.kind == "conv" for site in sites):
            said += [f"{name} is for conv sites, of which the policy has none." for name in given if given[name]]
        return said

    def _tests(self, last: int) -> list[tuple[str, Callable[[Site], bool]]]:
        """Each filter that was given: the option as a user writes it, and the test that a site must pass."""
        stages, tests = self.stages, list[tuple[str, Callable[[Site], bool]]]()
        if self.include:
            tests.append((f"--include {' '.join(self.include)}", lambda site: _matches(site, self.include)))
        if self.exclude:
            tests.append((f"--exclude {' '.join(self.exclude)}", lambda site: not _matches(site, self.exclude)))
        if stages is not None:
            tests.append((f"--stages {','.join(map(str, stages))}", lambda site: site.stage in stages))
        if self.skip_last_stage:
            tests.append(("--skip-last-stage", lambda site: site.stage != last))
        if self.min_channels > 1:
            tests.append((f"--min-channels {self.min_channels}", lambda site: site.channels >= self.min_channels))
        if self.kernel:
            tests.append((f"--kernel {','.join(map(_written, self.kernel))}", self._has_kernel))
        if self.depthwise is not None:
            option = "--depthwise" if self.depthwise else "--no-depthwise"
            tests.append((option, lambda site: site.kind != "conv" or site.depthwise == self.depthwise))
        return tests

    def _has_kernel(self, site: Site) -> bool:
        size = site.kernel_size
        same = (size == (kernel if isinstance(kernel, tuple) else (kernel,) * len(size)) for kernel in self.kernel)
        return site.kind != "conv" or any(same)

    def _hint(self, option: str, before: Sequence[Site]) -> str:
        name = option.split()[0]
        if name == "--include":
            return f"Nearest site ids: {', '.join(_nearest(self.include, before))}."
        there = f"Sites before it: {', '.join(site.id for site in before[:5])}{', …' if len(before) > 5 else ''}."
        if name in ("--stages", "--skip-last-stage"):
            return f"{there} Stages that have sites: {', '.join(map(str, sorted({site.stage for site in before})))}."
        if name == "--min-channels":
            return f"{there} The widest has {max(site.channels for site in before)} channels."
        if name == "--kernel":
            return f"{there} Sizes: {', '.join(sorted({_written(site.kernel_size) for site in before}))}."
        return there


def _is_text(item: object) -> bool:
    return isinstance(item, str)


def _is_kernel(item: object) -> bool:
    return is_whole(item) or (isinstance(item, tuple) and all(map(is_whole, item)))


def _written(kernel: Kernel) -> str:
    return "x".join(map(str, kernel)) if isinstance(kernel, tuple) else str(kernel)


def _matches(site: Site, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(site.id, glob) or fnmatchcase(site.owner, glob) for glob in globs)


def _nearest(globs: Sequence[str], sites: Sequence[Site]) -> list[str]:
    """The ids that begin most like the patterns."""
    texts = [glob.strip("*") for glob in globs]

    def distance(site: Site) -> float:
        return -max(difflib.SequenceMatcher(None, text, site.id[: len(text) + 1]).ratio() for text in texts)

    return [site.id for site in sorted(sites, key=distance)[:8]]
