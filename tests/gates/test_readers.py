"""Processes that read images end with the measurement, also if something keeps the loader."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import sesurgeon
from sesurgeon.finetune.data import loader as loading
from sesurgeon.finetune.scoring import evaluate as evaluation
from sesurgeon.finetune.scoring import prediction
from sesurgeon.models import Preprocessing, Provenance, Source, attach_provenance

MEASUREMENTS: dict[str, Callable[[nn.Module, Path], object]] = {
    "evaluate": lambda model, images: sesurgeon.evaluate(model, images, workers=1, batch_size=2),
    "predict": lambda model, images: sesurgeon.predict(model, [images], workers=1, batch_size=2),
    "gates": lambda model, images: sesurgeon.study_gates(model, images, workers=1, batch_size=2),
    "prune": lambda model, images: sesurgeon.prune(model, images, workers=1, batch_size=2),
}


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_no_reader_outlives_a_measurement(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for label in ("one", "two"):
        (tmp_path / label).mkdir()
        for number in range(4):
            Image.new("L", (8, 8), 30 * number).save(tmp_path / label / f"{number}.png")
    kept: list[object] = []

    def keeping(*arguments: Any, **options: Any) -> Any:
        kept.append(loading.eval_loader(*arguments, **options))
        return kept[-1]

    monkeypatch.setattr(evaluation, "eval_loader", keeping)
    monkeypatch.setattr(prediction, "eval_loader", keeping)
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    attach_provenance(network, Provenance(Source("module"), preprocessing=Preprocessing((1, 8, 8), (0.5,), (0.5,))))
    MEASUREMENTS[name](sesurgeon.add_se(network, torch.rand(2, 1, 8, 8), policy="conv"), tmp_path)
    assert kept
    assert multiprocessing.active_children() == []
