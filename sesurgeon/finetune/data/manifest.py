"""Manifests: a CSV file that names images and their labels."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sesurgeon.errors import DataError
from sesurgeon.finetune.data.classfiles import TRAIN_NAME, VAL_NAMES, ClassFiles, by_class, sorted_labels
from sesurgeon.finetune.data.labelsets import LabelSets, by_labels

SUFFIXES = (".csv", ".tsv")
_COLUMNS = ("path", "label")
_SPLITS = (TRAIN_NAME, *VAL_NAMES)
_MOST_TOLD = 20
_FORM = "A manifest has a header with the columns path and label, and may have split (train, val or test)."

Listed = TypeVar("Listed")


def list_manifest(path: Path) -> tuple[ClassFiles | None, ClassFiles | None]:
    """The training set, or all there is, and the validation set, if it is apart.

    Raises:
        DataError: see :func:`read_manifest`.
    """
    sets = read_manifest(path)
    return _two_of(
        {
            name: by_class(_where(path, name), rows, sorted_labels(label for label, _ in rows))
            for name, rows in sets.items()
        }
    )


def list_label_sets(path: Path) -> tuple[LabelSets | None, LabelSets | None]:
    """The same of images that may have several labels each: the column ``label`` holds them with ``|`` between.

    An empty cell says that the image shows none of the classes.

    Raises:
        DataError: see :func:`read_manifest`.
    """
    sets = read_manifest(path, labels_needed=False)
    return _two_of({name: by_labels(_where(path, name), rows) for name, rows in sets.items()})


def read_manifest(path: Path, *, labels_needed: bool = True) -> dict[str, list[tuple[str, Path]]]:
    """(Label, file) pairs of each set, sorted by file; a manifest without sets has one, called "".

    The file is UTF-8 with a header: the columns ``path`` (relative to the manifest's folder) and ``label``,
    and optionally ``split`` (train, or val, valid, validation or test, of which the first that is there is
    taken). Other columns are passed over. Columns are separated by commas, semicolons or tabs. Labels are taken
    letter by letter, without spaces after the separator.

    Raises:
        DataError: the file is missing or not of that form, or rows are bad: without path or label, of a file
            that is not there or was named before, of an unknown split. They are told together, by line.
    """
    rows = _rows(path)
    needed = _COLUMNS if labels_needed else _COLUMNS[:1]
    problems: list[str] = []
    lines: dict[str, int] = {}
    sets: dict[str, list[tuple[str, Path]]] = {}
    for line, row in rows:
        file = path.parent / (row["path"] or "")
        problem = _problem(row, file, lines, needed)
        if problem is None:
            lines[os.path.abspath(file)] = line
            sets.setdefault((row.get("split") or "").strip().lower(), []).append((row["label"] or "", file))
        else:
            problems.append(f"  line {line}: {problem}")
    if problems:
        more = [f"  … and {len(problems) - _MOST_TOLD:,} more"] if len(problems) > _MOST_TOLD else []
        raise DataError(
            "\n".join([f"The manifest {path} has bad rows:", *problems[:_MOST_TOLD], *more]),
            hint=f"Paths are relative to {path.parent}/. {_FORM}",
        )
    if not sets:
        raise DataError(f"The manifest {path} names no images.", hint=_FORM)
    # sorted, so that no shuffling of rows changes what is held out
    return {name: sorted(labelled, key=lambda pair: pair[1]) for name, labelled in sets.items()}


def _two_of(found: Mapping[str, Listed]) -> tuple[Listed | None, Listed | None]:
    val = next((found[name] for name in VAL_NAMES if name in found), None)
    return found.get(TRAIN_NAME, found.get("")), val


def _where(path: Path, name: str) -> str:
    return f"{path} ({name})" if name else str(path)


def _rows(path: Path) -> list[tuple[int, dict[Any, Any]]]:
    """(Number of its line, cells by column) of each row; cells beyond the header are under None."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # Excel marks its files
    except FileNotFoundError as error:
        raise DataError(f"The manifest {path} does not exist.") from error
    except OSError as error:
        raise DataError(f"The manifest {path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"The manifest {path} is not UTF-8: {error}.", hint="Save it as UTF-8.") from error
    header = text.partition("\n")[0]
    separator = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(text), delimiter=separator, skipinitialspace=True, strict=True)
    try:
        reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
        missing = [name for name in _COLUMNS if name not in reader.fieldnames]
        twice = [name for name in (*_COLUMNS, "split") if reader.fieldnames.count(name) > 1]
        if missing:
            raise DataError(f"Line 1 of the manifest {path} lacks {' and '.join(missing)}: {header!r}.", hint=_FORM)
        if twice:
            raise DataError(
                f"Line 1 of the manifest {path} has {' and '.join(twice)} more than once: {header!r}.", hint=_FORM
            )
        return [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise DataError(f"Line {reader.reader.line_num} of the manifest {path} is no CSV: {error}.") from error


def _problem(row: dict[Any, Any], file: Path, lines: dict[str, int], needed: Sequence[str]) -> str | None:
    blank = [name for name in needed if not row[name]]
    if blank:
        return f"no {' and no '.join(blank)}"
    if None in row:
        return "more cells than columns; quote what holds a separator"
    if "split" in row and (row["split"] or "").strip().lower() not in _SPLITS:
        return f"the split {row['split']!r} is none of {', '.join(_SPLITS)}"
    if (before := lines.get(os.path.abspath(file))) is not None:  # however it is spelled
        return f"{row['path']} was named in line {before} already"
    if not file.is_file():
        return f"there is no file {row['path']}"
    return None
