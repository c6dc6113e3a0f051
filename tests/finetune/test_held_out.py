"""A run's history knows which images it held out, and says so when others are measured with."""

from __future__ import annotations

import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from sesurgeon.finetune import FinetuneConfig, finetune, open_data, open_held_out
from sesurgeon.finetune.data.heldout import held_out_record
from sesurgeon.finetune.data.images import FileImages
from sesurgeon.models.provenance import provenance_of


def _warned(notes: tuple[str, ...]) -> list[str]:
    return [note for note in notes if "with other images held out" in note]


def test_measuring_warns_when_the_folder_changed_since_the_run(
    augmented: nn.Module, class_folder: Path, config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = finetune(augmented, class_folder, config)
    record = provenance_of(augmented).history[-1]
    assert record["val_images"] == 4
    assert _warned(result.task.notes) == []
    assert _warned(open_held_out(augmented, class_folder).notes) == []
    monkeypatch.chdir(class_folder.parent)
    assert _warned(open_held_out(augmented, os.path.join(".", class_folder.name)).notes) == []
    measured = open_held_out(augmented, class_folder).val
    assert isinstance(measured, FileImages)
    next(file for file in (class_folder / "left").iterdir() if file not in measured.paths).unlink()
    (note,) = _warned(open_held_out(augmented, class_folder).notes)
    assert "(4 then, 4 now)" in note


def test_a_second_run_with_another_seed_is_told_and_its_measures_are_too(
    augmented: nn.Module, class_folder: Path, config: FinetuneConfig
) -> None:
    finetune(augmented, class_folder, config)
    assert _warned(finetune(augmented, class_folder, config).task.notes) == []
    assert len(_warned(finetune(augmented, class_folder, replace(config, seed=7)).task.notes)) == 1
    measured = open_held_out(augmented, class_folder)
    assert len(_warned(measured.notes)) == 1
    assert measured.val == open_data(class_folder, seed=7).val  # of the last run


def test_a_resumed_run_is_not_taken_for_another(
    augmented: nn.Module, class_folder: Path, config: FinetuneConfig
) -> None:
    first = finetune(augmented, class_folder, config)
    again = finetune(augmented, class_folder, replace(config, epochs=3), resume=first.folder)
    assert _warned(again.task.notes) == []


def test_images_are_known_by_their_names_in_the_data_wherever_these_lie(class_folder: Path, tmp_path: Path) -> None:
    def packed(name: str) -> Path:
        with tarfile.open(tmp_path / name, "w") as archive:
            archive.add(class_folder, "photos")
        return tmp_path / name

    here = held_out_record(open_data(class_folder))
    tars = [held_out_record(open_data(packed(name))) for name in ("a.tar", "b.tar")]
    assert here["val_images"] == 4
    assert tars[0] == tars[1]
    assert held_out_record(open_data(class_folder, seed=1)) != here
    assert held_out_record(open_data(class_folder.rename(tmp_path / "moved"))) == here


def test_a_validation_set_that_lies_apart_needs_no_record(split_folder: Path) -> None:
    assert held_out_record(open_data(split_folder)) == {}
