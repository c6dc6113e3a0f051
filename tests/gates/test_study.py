"""The gates of a network, studied on images."""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import sesurgeon
from sesurgeon.blocks import BlockName
from sesurgeon.errors import DataError, OutputError, SesurgeonError, UsageError
from sesurgeon.finetune import batches, open_data, preprocessing_for
from sesurgeon.gates import GateStudy, drawing, prune, study_gates, write_gate_report
from sesurgeon.gates.drawing import draw_activations
from sesurgeon.gates.study import choose_classes
from sesurgeon.models import attach_provenance, provenance_of
from tests.gates.gate_nets import BLOCKS, augmented, broken, constants, enliven, images, set_constants


def studied(tmp_path: Path, model: nn.Module, classes: list[str] | None = None) -> GateStudy:
    return study_gates(model, images(tmp_path / "photos"), classes=classes, workers=0, batch_size=5)


def test_a_block_that_does_nothing_a_constant_one_and_a_live_one(tmp_path: Path) -> None:
    model = augmented().train()
    set_constants(model, "2.se", constants())
    enliven(model, "3.se")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    study = studied(tmp_path, model)
    assert tuple(gate.gate for gate in study.gates) == BLOCKS
    assert [study.called(verdict) for verdict in ("open", "constant", "live")] == [(path,) for path in BLOCKS]
    still, constant, live = study.gates
    assert (still.mean, still.image_spread, still.channel_spread, still.class_spread) == (1.0, 0.0, 0.0, 0.0)
    assert constant.mean == pytest.approx(constants().mean().item(), rel=1e-6)
    assert constant.channel_spread == pytest.approx(constants().std(correction=0).item(), rel=1e-6)
    assert (constant.near_zero, constant.near_one, constant.near_ceiling) == (0.0, 3 / 8, 1 / 8)
    assert live.image_spread > 0.01
    assert live.class_spread is not None
    assert live.class_spread > 0
    assert {gate.ceiling for gate in study.gates} == {2.0}
    assert study.images == 16
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_the_mean_of_each_class_is_that_of_its_images(tmp_path: Path) -> None:
    model = augmented()
    enliven(model, "1.se")
    data = images(tmp_path / "photos")
    study = study_gates(model, data, classes=["right"], workers=0, batch_size=5)
    seen = []
    hook = model.get_submodule("1.se.gate").register_forward_hook(lambda *given: seen.append(given[2].detach()))
    ((batch, labels),) = batches(data, preprocessing_for(model, data.val, None))
    with torch.no_grad():
        model(batch)
    hook.remove()
    factors = seen[0].flatten(1).double()
    assert study.classes == ("right",)
    assert torch.allclose(study.means["1.se"], factors.mean(0), rtol=1e-6)
    assert torch.allclose(study.spreads["1.se"], factors.std(0, correction=0), atol=1e-6)
    assert torch.allclose(study.class_means["1.se"][0], factors[labels == 1].mean(0), rtol=1e-6)


@pytest.mark.parametrize(("block", "gates"), [("ese", 3), ("eca", 3), ("cbam", 6), ("gc", 3), ("ge", 3)])
def test_every_kind_of_block_is_studied_and_drawn(tmp_path: Path, block: BlockName, gates: int) -> None:
    study = studied(tmp_path, augmented(block=block))
    assert len(study.gates) == gates
    assert study.called("open") == tuple(gate.gate for gate in study.gates)
    assert {gate.channels for gate in study.gates} == ({8, 1} if block == "cbam" else {8})
    draw_activations(study, tmp_path / "activations.png")


def test_the_report_has_pictures_and_tables(tmp_path: Path) -> None:
    model = augmented()
    set_constants(model, "2.se", constants())
    study = studied(tmp_path, model)
    files = write_gate_report(study, tmp_path / "new" / "report")
    assert [file.name for file in files] == ["gates.csv", "activations.csv", "activations.png", "spreads.png"]
    with files[0].open() as file:
        rows = list(csv.DictReader(file))
    assert [row["gate"] for row in rows] == list(BLOCKS)
    assert float(rows[1]["mean"]) == study.gates[1].mean
    assert [row["verdict"] for row in rows] == ["open", "constant", "open"]
    with files[1].open() as file:
        channels = list(csv.DictReader(file))
    assert len(channels) == 3 * 8
    assert channels[8]["gate"] == "2.se"
    assert float(channels[8]["mean of left"]) == pytest.approx(0.4, rel=1e-6)
    for file_ in files[2:]:
        with Image.open(file_) as picture:
            assert picture.width > 500
            assert picture.convert("L").getextrema() == (0, 255)
    with pytest.raises(OutputError, match=r"gates\.csv exists already"):
        write_gate_report(study, tmp_path / "new" / "report")
    write_gate_report(study, tmp_path / "new" / "report", force=True)


def test_odd_names_of_classes_are_drawn_without_a_warning(tmp_path: Path) -> None:
    study = studied(tmp_path, augmented())
    odd = GateStudy(study.gates, ("一只猫", "a $b$ c"), study.means, study.spreads, study.class_means, study.images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_activations(odd, tmp_path / "odd.png")
    assert (tmp_path / "odd.png").stat().st_size > 1000


def test_a_class_without_images_leaves_a_gap(tmp_path: Path) -> None:
    study = studied(tmp_path, augmented())
    gap = {gate: torch.full_like(means, math.nan) for gate, means in study.class_means.items()}
    empty = GateStudy(study.gates, study.classes, study.means, study.spreads, gap, study.images)
    activations = write_gate_report(empty, tmp_path / "report")[1]
    assert activations.read_text().splitlines()[1].endswith(",nan,nan")


def test_a_class_whose_name_begins_with_an_underscore_is_in_the_legend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(drawing, "save_figure", lambda figure, path: drawn.append(figure))
    study = studied(tmp_path, augmented())
    draw_activations(replace(study, classes=("_background_", "yes")), tmp_path / "none.png")
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["_background_", "yes", "all images"]
    colours = [line.get_color() for line in legend.get_lines()]
    assert colours == [*drawing._COLOURS[:2], drawing._ALL]


def test_names_that_are_no_utf8_are_written_as_escapes(tmp_path: Path) -> None:
    study = replace(studied(tmp_path, augmented()), classes=("caf\udce9", "tea"))
    activations = write_gate_report(study, tmp_path / "report")[1]
    assert "mean of caf\\udce9,mean of tea" in activations.read_text()


def test_classes_are_those_of_the_data_however_many_outputs_there_are(tmp_path: Path) -> None:
    model = augmented()
    enliven(model, "1.se")
    few = studied(tmp_path, model)
    model[-1] = nn.Linear(8, 100)  # type: ignore[operator]
    attach_provenance(model, replace(provenance_of(model), classes=("x",) * 60 + ("right",) + ("y",) * 38 + ("left",)))
    many = study_gates(model, open_data(tmp_path / "photos", training=False, val_split=None), workers=0, batch_size=5)
    assert many.classes == few.classes == ("left", "right")
    assert all(torch.equal(many.class_means[gate], few.class_means[gate]) for gate in BLOCKS)
    assert [gate.class_spread for gate in many.gates] == [gate.class_spread for gate in few.gates]


def test_images_without_labels_are_enough_but_nothing_is_told_by_class(tmp_path: Path) -> None:
    model = augmented()
    enliven(model, "1.se")
    labelled = studied(tmp_path, model)
    attach_provenance(model, replace(provenance_of(model), classes=("cat", "dog")))  # the folders are none of these
    study = study_gates(model, tmp_path / "photos", workers=0, batch_size=5)
    assert (study.images, study.classes) == (16, ())
    assert all(torch.equal(study.means[gate], labelled.means[gate]) for gate in BLOCKS)
    assert {gate.class_spread for gate in study.gates} == {None}
    activations = write_gate_report(study, tmp_path / "report")[1]
    assert activations.read_text().splitlines()[0] == "gate,channel,mean,image_spread"
    with pytest.raises(UsageError, match=r"no class 'cat'\.\nThey have none\."):
        study_gates(model, tmp_path / "photos", classes=["cat"], workers=0)
    with pytest.raises(DataError):  # accuracy decides what is pruned
        prune(model, open_data(tmp_path / "photos", training=False, val_split=None, unlabelled=True), workers=0)


def test_gates_that_give_no_numbers_are_named(tmp_path: Path) -> None:
    with pytest.raises(SesurgeonError, match=r"The gate 2\.se gives factors that are not finite"):
        studied(tmp_path, broken())


def test_a_network_without_blocks_is_refused() -> None:
    with pytest.raises(UsageError, match="no inserted blocks in this Sequential"):
        study_gates(sesurgeon.remove_se(augmented()), "nowhere")


def test_a_handful_of_classes_spread_over_all_is_chosen() -> None:
    names = [f"c{number}" for number in range(10)]
    assert choose_classes(names, None) == [0, 3, 6, 9]
    assert choose_classes(names[:2], None) == [0, 1]
    assert choose_classes(names[:1], None) == [0]
    assert choose_classes(names, ["c7", "c1", "c7"]) == [7, 1]
    assert choose_classes(["crane", "x", "crane"], None) == [0, 1, 2]


def test_one_name_in_place_of_a_list_is_refused() -> None:
    with pytest.raises(UsageError, match=r"classes \(='bag'\) must be a list of names\.\nWrite classes=\['bag'\]\."):
        choose_classes(["trouser", "bag"], "bag")


@pytest.mark.parametrize("function", [study_gates, prune])
def test_a_loader_that_cannot_be_is_refused_before_the_data_are_opened(function: Callable[..., object]) -> None:
    with pytest.raises(UsageError, match=r"batch_size \(=0\) must be at least 1"):
        function(augmented(), "nowhere", batch_size=0)
    with pytest.raises(UsageError, match=r"workers \(=-1\) must be at least 0"):
        function(augmented(), "nowhere", workers=-1)


def test_an_unknown_class_is_told_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no class 'trousers' \(nearest: trouser\); 'xyz'\.\nThey have trouser, bag"):
        choose_classes(["trouser", "bag"], ["trousers", "bag", "xyz"])


def test_the_training_images_of_a_folder_can_be_studied(tmp_path: Path) -> None:
    for part, each in (("train", 3), ("val", 2)):
        images(tmp_path / part, each)
    assert study_gates(augmented(), tmp_path, split="train", workers=0).images == 6
    assert prune(augmented(), tmp_path, split="train", workers=0).images == 6
