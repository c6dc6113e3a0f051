"""The files of a run."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from sesurgeon.errors import UsageError
from sesurgeon.finetune import FinetuneConfig, finetune
from sesurgeon.models.provenance import provenance_of
from sesurgeon.surgery import load


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_classes_whose_names_are_no_utf8_are_learned(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig
) -> None:
    name = os.fsdecode(b"caf\xe9")
    for part in ("train", "val"):
        (split_folder / part / "left").rename(split_folder / part / name)
    result = finetune(augmented, split_folder, config)
    metrics = json.loads((result.folder / "metrics.json").read_text())
    assert [score["name"] for score in metrics["best_per_class"]] == [name, "right"]
    assert r"| caf\udce9 |" in (result.folder / "report.md").read_text()
    assert provenance_of(load(result.best, trust_pickle=True)).classes == (name, "right")


def test_settings_that_no_file_can_hold_are_refused_before_a_run_is_replaced(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig
) -> None:
    config = replace(config, name="mine", force=True)
    best = finetune(augmented, split_folder, config).best.read_bytes()
    with pytest.raises(UsageError, match="cannot hold these settings"):
        finetune(augmented, split_folder, config, settings={"note": object()})
    assert (Path(config.output) / "mine" / "best.pt").read_bytes() == best
