"""Labelled image files, wherever they lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path

import numpy as np

from sesurgeon.errors import DataError
from sesurgeon.finetune.data.images import SUFFIXES, FileImages, ImageFile

SEPARATOR = "|"
"""Between the labels of an image that has several."""


@dataclass(frozen=True)
class LabelledFiles:
    """The image files of one set, with their labels.

    Attributes:
        where: the folder or file that lists them, for messages.
        classes: the names of the classes.
        paths: the image files.
        targets: for each file, the ascending indices of its classes in ``classes``: one, unless ``multi_label``.
        multi_label: files may have any number of labels.
        ignored: other files beside them, which are no images by their suffix; hidden files are not listed.
        aside: folders beside the sets, which are not read.
    """

    where: str
    classes: tuple[str, ...]
    paths: tuple[ImageFile, ...]
    targets: tuple[tuple[int, ...], ...]
    multi_label: bool = False
    ignored: tuple[Path, ...] = ()
    aside: tuple[Path, ...] = ()

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of files of each class."""
        counts = Counter(index for target in self.targets for index in target)
        return tuple(counts[index] for index in range(len(self.classes)))

    @property
    def images(self) -> FileImages:
        return FileImages(self.paths, self.targets if self.multi_label else tuple(index for (index,) in self.targets))

    def without(self, unwanted: Set[ImageFile]) -> LabelledFiles:
        """All but these files.

        Raises:
            DataError: a class loses all its files.
        """
        kept = self._those([file not in unwanted for file in self.paths])
        pairs = zip(self.classes, self.counts, kept.counts, strict=True)
        check_none_empty(self.where, (name for name, before, after in pairs if before and not after))
        return kept

    def split(self, share: float, seed: int) -> tuple[LabelledFiles, LabelledFiles]:
        """Hold out ``share`` of the files: (kept, held out).

        Stratified: each file is assigned to the rarest of its labels, and ``share`` of each such group is held out, at
        least one file and never all; of a group of one, none.

        Raises:
            DataError: every group has one file only.
        """
        counts = self.counts
        groups: dict[int, list[int]] = {}
        for number, target in enumerate(self.targets):
            rarest = min(target, key=lambda index: (counts[index], index), default=-1)
            groups.setdefault(rarest, []).append(number)
        if all(len(group) < 2 for group in groups.values()):
            raise DataError(
                f"The classes of {self.where} have one image each: none can be held out for validation.",
                hint="Add images, or a validation set.",
            )
        random = np.random.default_rng(seed)
        held_out: set[int] = set()
        for _, group in sorted(groups.items()):
            count = min(max(1, round(share * len(group))), len(group) - 1)
            held_out.update(group[place] for place in random.permutation(len(group))[:count])
        chosen = [number in held_out for number in range(len(self.paths))]
        return self._those([not one for one in chosen]), replace(self._those(chosen), ignored=())

    def with_classes(self, classes: tuple[str, ...]) -> LabelledFiles:
        """The same files with their labels as indices in ``classes``, of which some may have no files here.

        Raises:
            DataError: ``classes`` lack a class of these files.
        """
        unknown = sorted(set(self.classes) - set(classes))
        if unknown:
            raise DataError(
                f"{self.where} has classes without training images: {', '.join(unknown)}.",
                hint="Give each of them training images, or leave them out.",
            )
        indices = [classes.index(name) for name in self.classes]
        targets = tuple(tuple(sorted(indices[index] for index in target)) for target in self.targets)
        return replace(self, classes=classes, targets=targets)

    def _those(self, chosen: Sequence[bool]) -> LabelledFiles:
        return replace(self, paths=tuple(compress(self.paths, chosen)), targets=tuple(compress(self.targets, chosen)))


def by_class(
    where: str,
    labelled: Iterable[tuple[str, ImageFile]],
    classes: Sequence[str] | None = None,
    *,
    ignored: Iterable[Path] = (),
    aside: Iterable[Path] = (),
) -> LabelledFiles:
    """Make a set of (label, file) pairs, ordered by class; the files of a class keep their order.

    Args:
        where: see :class:`LabelledFiles`.
        labelled: the pairs.
        classes: the labels in their order; by default those of the pairs, sorted.
        ignored: see :class:`LabelledFiles`.
        aside: see :class:`LabelledFiles`.
    """
    pairs = list(labelled)
    names = dict.fromkeys(label for label, _ in pairs)
    order = tuple(sorted(names) if classes is None else dict.fromkeys([*classes, *names]))
    indices = {name: index for index, name in enumerate(order)}
    pairs.sort(key=lambda pair: indices[pair[0]])
    paths, targets = tuple(file for _, file in pairs), tuple((indices[label],) for label, _ in pairs)
    return LabelledFiles(where, order, paths, targets, ignored=tuple(ignored), aside=tuple(aside))


def by_labels(where: str, labelled: Iterable[tuple[str, ImageFile]]) -> LabelledFiles:
    """Make a set of (labels with ``|`` between them, file) pairs, in their order."""
    pairs = [({name.strip() for name in text.split(SEPARATOR)} - {""}, file) for text, file in labelled]
    classes = tuple(sorted_labels(name for names, _ in pairs for name in names))
    indices = {name: index for index, name in enumerate(classes)}
    targets = tuple(tuple(sorted(indices[name] for name in names)) for names, _ in pairs)
    return LabelledFiles(where, classes, tuple(file for _, file in pairs), targets, multi_label=True)


def sorted_labels(labels: Iterable[str]) -> list[str]:
    """Each label once; whole numbers are ordered by value: 2 before 10."""
    names = set(labels)
    numbers = all(name.isascii() and name.isdecimal() for name in names)
    return sorted(names, key=(lambda name: (int(name), name)) if numbers else None)


def check_none_empty(where: str, empty: Iterable[str]) -> None:
    """Raises:
    DataError: there is a name in ``empty``, the classes without images.
    """
    names = list(empty)
    if names:
        raise DataError(
            f"No readable image in the classes {', '.join(names)} of {where}.",
            hint=f"Fill or remove them. Images are files with {', '.join(SUFFIXES)}.",
        )
