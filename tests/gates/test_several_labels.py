"""Images that show several classes, or none: the gates are studied, and pruning looks at the mean average precision."""

from __future__ import annotations

from pathlib import Path

import pytest

from sesurgeon.finetune import Data, open_data
from sesurgeon.gates import prune, study_gates
from sesurgeon.models import Provenance, attach_provenance, provenance_of
from tests.gates.gate_nets import BLOCKS, augmented, enliven, images


@pytest.fixture
def labelled(tmp_path: Path) -> Data:
    """What is on the left shows left; every second image shows right, too."""
    images(tmp_path / "photos")
    lines = ["path,label"]
    for number, path in enumerate(sorted((tmp_path / "photos").rglob("*.png"))):
        labels = [name for name, there in (("left", path.parent.name == "left"), ("right", number % 2)) if there]
        lines.append(f"{path.relative_to(tmp_path)},{'|'.join(labels)}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    return open_data(tmp_path / "labels.csv", training=False, val_split=None, multi_label=True)


def test_gates_are_studied_and_pruned_by_map(labelled: Data) -> None:
    model = augmented()
    enliven(model, "3.se")
    source = provenance_of(model).source
    attach_provenance(model, Provenance(source, classes=("left", "right"), multi_label=True))
    study = study_gates(model, labelled, workers=0)
    assert study.classes == ("left", "right")
    assert study.images == 16
    assert study.gates[2].class_spread is not None
    assert study.gates[2].class_spread > 0
    found = prune(model, labelled, workers=0)
    assert (found.metric, found.removed, set(found.live)) == ("map", BLOCKS[:2], {"3.se"})
    assert found.before == found.after
