"""WebDataset shards: tar files in which an image and its label stand side by side, as key.jpg and key.cls.

The package webdataset, and timm's reader on it, stream shards: they give images in passing, in an order that depends
on the number of workers, and pass over broken ones. Shards are tar files, so they are listed once and read by place
like any other: every image can be had at any time, which is what repeatable epochs and resuming need.
https://github.com/webdataset/webdataset#the-webdataset-format
"""

from __future__ import annotations

import glob
import json
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from sesurgeon.errors import DataError
from sesurgeon.finetune.data.archives import SUFFIX, Member
from sesurgeon.finetune.data.classfiles import SUFFIXES, TRAIN_NAME, VAL_NAMES, ClassFiles, by_class, sorted_labels
from sesurgeon.words import some

PREFIX = "wds:"
_LABELS = (".cls", ".json")  # the first that is there
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST = 5
_FORM = "A sample is an image and its label: key.jpg and key.cls (a class), or key.json with the field label."


def list_shards(pattern: str, *, training: bool) -> tuple[ClassFiles | None, ClassFiles | None]:
    """The training set, or all there is, and the validation set, if it is apart.

    A shard with the word train in its name belongs to the training set, one with val, valid, validation or test to
    the validation set (of these the first that is there is taken). Without ``training`` a validation set that is
    there is listed alone.

    Args:
        pattern: a folder of shards, or their paths with ``*`` or ``{0000..0127}``.
        training: see above.

    Raises:
        DataError: there are no such shards, one cannot be read, or a sample has no label.
    """
    if "://" in pattern or pattern.startswith("pipe:"):
        raise DataError(f"The shards {pattern} are not on this machine.", hint="Fetch them first: they are read often.")
    shards = _shards(pattern)
    sets = {name: [shard for shard in shards if _is_of(shard, name)] for name in (TRAIN_NAME, *VAL_NAMES)}
    val_name = next((name for name in VAL_NAMES if sets[name]), None)
    if val_name is None:
        return _listed(f"{PREFIX}{pattern}", sets[TRAIN_NAME] or shards), None
    val = _listed(f"{PREFIX}{pattern} ({val_name})", sets[val_name])
    if not training or not sets[TRAIN_NAME]:
        return None, val
    return _listed(f"{PREFIX}{pattern} ({TRAIN_NAME})", sets[TRAIN_NAME]), val


def _shards(pattern: str) -> list[Path]:
    if os.path.isdir(pattern):
        found = sorted(Path(pattern).glob(f"*{SUFFIX}"))
    else:
        paths = [path for one in _expanded(pattern) for path in sorted(glob.glob(one) if _has_magic(one) else [one])]
        found = [Path(path) for path in paths]
    missing = [str(path) for path in found if not path.is_file()]
    if missing or not found:
        raise DataError(
            f"No WebDataset shard at {some(missing, _MOST) or pattern}.",
            hint="Give wds:FOLDER with .tar files in it, or paths as in 'wds:shards/train-{0000..0127}.tar'.",
        )
    return found


def _has_magic(path: str) -> bool:
    return glob.escape(path) != path


def _expanded(pattern: str) -> list[str]:
    """``a{08..10}`` as a08, a09, a10."""
    match = _RANGE.search(pattern)
    if match is None:
        return [pattern]
    first, last = match.groups()
    before, after = pattern[: match.start()], pattern[match.end() :]
    numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    return [path for number in numbers for path in _expanded(f"{before}{number}{after}")]


def _is_of(shard: Path, name: str) -> bool:
    return name in re.split(r"[^a-z]+", shard.name.lower())


def _listed(where: str, shards: list[Path]) -> ClassFiles:
    samples = [sample for shard in shards for sample in _samples(shard)]
    if not samples:
        raise DataError(f"The shards {where} hold no images.", hint=_FORM)
    return by_class(where, samples, sorted_labels(label for label, _ in samples))


def _samples(shard: Path) -> Iterator[tuple[str, Member]]:
    """(Label, image) of each sample, in the shard's order."""
    images: dict[str, Member] = {}
    labels: dict[str, str] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for info in archive:
                key, suffix = _key_and_suffix(info.name)
                if not info.isreg():
                    continue
                if suffix in SUFFIXES:
                    images[key] = Member(shard, info.name, info.offset_data, info.size)
                elif suffix in _LABELS:
                    content = archive.extractfile(info)
                    label = None if content is None else _label(suffix, content.read())
                    if label is not None and (suffix == _LABELS[0] or key not in labels):
                        labels[key] = label
    except (tarfile.TarError, EOFError, OSError, UnicodeDecodeError) as error:
        raise DataError(f"The shard {shard} cannot be read: {error}", hint="It must be a whole, plain .tar.") from error
    unlabelled = [key for key in images if key not in labels]
    if unlabelled:
        raise DataError(
            f"{len(unlabelled):,} of {len(images):,} images in {shard} have no label, the first is {unlabelled[0]}.",
            hint=_FORM,
        )
    return ((labels[key], image) for key, image in images.items())


def _key_and_suffix(name: str) -> tuple[str, str]:
    """WebDataset's rule: the suffix begins at the first dot of the file's name."""
    folder, file = os.path.split(name)
    stem, dot, rest = file.partition(".")
    return os.path.join(folder, stem), (dot + rest).lower()


def _label(suffix: str, content: bytes) -> str | None:
    if suffix == _LABELS[0]:
        return content.decode().strip()
    try:
        found = json.loads(content)
    except ValueError:
        return None
    label = found.get("label") if isinstance(found, dict) else None
    return str(label) if isinstance(label, int | str) else None
