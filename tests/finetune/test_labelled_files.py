"""Sets of labelled files: which of them are held out."""

from __future__ import annotations

from pathlib import Path

import pytest

from sesurgeon.finetune.data.images import FileImages
from sesurgeon.finetune.data.labelled_files import by_class, by_labels


def pairs(*sizes: int) -> list[tuple[str, Path]]:
    """Classes c0, c1, … with so many files each, mixed."""
    numbers = range(max(sizes))
    return [(f"c{index}", Path(f"{index}-{n}")) for n in numbers for index, size in enumerate(sizes) if n < size]


@pytest.mark.parametrize(
    ("sizes", "share", "seed", "expected"),
    [
        ((5, 1, 3), 0.4, 0, ["0-2", "0-4", "2-2"]),
        ((10, 7), 0.2, 42, ["0-5", "0-6", "1-6"]),
        ((8, 3), 0.2, 1, ["0-0", "0-5", "1-2"]),
        ((4, 2, 9), 0.5, 7, ["0-0", "0-2", "1-1", "2-0", "2-4", "2-5", "2-6"]),
    ],
)
def test_the_files_that_a_seed_holds_out_never_change(
    sizes: tuple[int, ...], share: float, seed: int, expected: list[str]
) -> None:
    kept, held_out = by_class("x", pairs(*sizes)).split(
        share, seed
    )  # of earlier versions, whose scores must stay valid
    assert [str(path) for path in held_out.paths] == expected
    assert sorted((*kept.paths, *held_out.paths), key=str) == sorted((path for _, path in pairs(*sizes)), key=str)


def test_files_are_ordered_by_class() -> None:
    found = by_class("x", pairs(2, 3), classes=["c1", "none", "c0"])
    assert (found.classes, found.counts) == (("c1", "none", "c0"), (3, 0, 2))
    assert found.images == FileImages(tuple(map(Path, ("1-0", "1-1", "1-2", "0-0", "0-1"))), (0, 0, 0, 2, 2))


def test_spaces_repetitions_and_empty_cells_are_understood() -> None:
    found = by_labels("x", [("b | a|b", Path("1")), ("", Path("2")), ("|c", Path("3"))])
    assert (found.classes, found.targets, found.counts) == (("a", "b", "c"), ((0, 1), (), (2,)), (1, 1, 1))
    assert found.images.targets == found.targets


def test_the_share_that_is_held_out_has_rare_labels_too() -> None:
    rows = [("common|rare" if number < 10 else "common", Path(f"{number:03}")) for number in range(100)]
    kept, held_out = by_labels("x", rows).split(0.2, seed=1)
    assert (kept.counts, held_out.counts) == ((80, 8), (20, 2))
    assert sorted((*kept.paths, *held_out.paths), key=str) == [file for _, file in rows]
    assert by_labels("x", rows).split(0.2, seed=1)[1] == held_out


def test_labels_keep_their_names_under_other_classes() -> None:
    found = by_labels("x", [("b|a", Path("1")), ("b", Path("2"))]).with_classes(("b", "c", "a"))
    assert (found.targets, found.counts) == (((0, 2), (0,)), (2, 0, 1))
