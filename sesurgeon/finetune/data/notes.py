"""What a user should be told about images and classes, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sesurgeon.finetune.data.classfiles import ClassFiles
from sesurgeon.finetune.data.images import CONVERSIONS, TINY, BadImage, Checked
from sesurgeon.finetune.data.labelsets import SEPARATOR, LabelSets
from sesurgeon.words import some

_MOST = 5


def conversion_notes(checks: Sequence[Checked]) -> tuple[str, ...]:
    """What becomes of readable images that are unusual, in sentences."""
    good = [checked for checked in checks if checked.problem is None]
    notes = []
    counts = {kind: sum(kind in checked.kinds for checked in good) for kind in CONVERSIONS}
    converted = [
        f"{count:,} {kind} image{'s' if count > 1 else ''} ({CONVERSIONS[kind]})"
        for kind, count in counts.items()
        if count
    ]
    if converted:
        notes.append(f"Converted when read: {', '.join(converted)}.")
    tiny = [str(checked.file) for checked in good if checked.tiny]
    if tiny:
        is_or_are = "1 image is" if len(tiny) == 1 else f"{len(tiny):,} images are"
        notes.append(f"{is_or_are} narrower or lower than {TINY} pixels and used all the same: {some(tiny, _MOST)}.")
    return tuple(notes)


def left_out_notes(skipped: Sequence[BadImage]) -> tuple[str, ...]:
    """Which files cannot be read, all by name, for the record."""
    listed = "; ".join(f"{image.path} ({image.reason})" for image in skipped)
    return (f"Left out, for they cannot be read: {listed}.",) if skipped else ()


def ignored_notes(ignored: Sequence[Path]) -> tuple[str, ...]:
    """Which files beside the images are none by their names: a .gif is not looked at either."""
    if not ignored:
        return ()
    return (f"Left aside, for their names are not those of images: {some([*map(str, ignored)], _MOST)}.",)


def aside_notes(sets: Sequence[ClassFiles | LabelSets]) -> tuple[str, ...]:
    """Which folders beside the sets are not looked into, of the same ``sets`` as in :func:`class_notes`."""
    aside = sets[0].aside if isinstance(sets[0], ClassFiles) else ()
    if not aside:
        return ()
    read = " and ".join(dict.fromkeys(Path(found.where).name for found in sets))
    return (f"Left aside, for images are read from {read} beside them: {some([*map(str, aside)], _MOST)}.",)


def class_notes(sets: Sequence[ClassFiles | LabelSets]) -> tuple[str, ...]:
    """What becomes of unusual classes. ``sets`` is a training and a validation set, or one to measure with."""
    notes = []
    spaced = [repr(name) for name in sets[0].classes if name != name.strip()]
    if spaced:
        notes.append(f"Class names that begin or end with a space keep it: {', '.join(spaced)}.")
    joined = [name for name in sets[0].classes if SEPARATOR in name]
    if joined:
        notes.append(
            f"Class names have a {SEPARATOR} in them ({some(joined, _MOST)}): if these are several labels of an image, "
            "finetune --multi-label takes them so."
        )
    if len(sets) == 2:
        pairs = list(zip(sets[0].classes, *(found.files for found in sets), strict=True))
        untrained = [name for name, files, others in pairs if others and not files]
        unmeasured = [(name, len(files)) for name, files, others in pairs if files and not others]
        single = [name for name, images in unmeasured if images == 1]
        several = [name for name, images in unmeasured if images > 1]
        if single:
            notes.append(f"Trained on the only image there is, and not measured: {some(single, _MOST)}.")
        if untrained:
            notes.append(f"Measured, and without training images: {some(untrained, _MOST)}.")
        if several:
            notes.append(f"Trained on, and not measured for want of validation images: {some(several, _MOST)}.")
    return tuple(notes)
