"""Blocks that do nothing go, one by one, and what the network gives stays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Subset
from torchvision.models import resnet18

import sesurgeon
from sesurgeon import UsageError
from sesurgeon.errors import SesurgeonError, VerificationError
from sesurgeon.finetune import Data, open_data
from sesurgeon.finetune.scoring.gatewatch import watch_gates
from sesurgeon.gates import Pruning, PruningStep, prune, pruning
from sesurgeon.models import provenance_of
from sesurgeon.surgery import Replacement, blocks_of, plan_of, replace_block
from sesurgeon.surgery.folding import constants as replacing
from tests.gates.gate_nets import BLOCKS, augmented, broken, constants, enliven, images, set_constants
from tests.networks import trained_like
from tests.surgery.trained import assert_same

IMAGES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(2))


def pruned(tmp_path: Path, model: nn.Module, **options: Any) -> Pruning:
    return prune(model, images(tmp_path / "photos"), workers=0, **options)


def colour_images(tmp_path: Path) -> Data:
    for name, colour in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        (tmp_path / "colours" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (32, 32), colour).save(tmp_path / "colours" / name / f"{number}.png")
    return open_data(tmp_path / "colours", training=False, val_split=None)


def test_gates_that_are_1_go_and_no_bit_changes(tmp_path: Path) -> None:
    model = augmented()
    found = pruned(tmp_path, model, max_drop=0, tolerance=0)
    assert found.removed == BLOCKS
    assert [(step.tensors, step.difference, step.spread) for step in found.steps] == [((), 0.0, 0.0)] * 3
    assert (found.before, found.metric, found.images) == (found.after, "top1", 16)
    assert (found.live, found.left, found.untried) == ({}, (), ())
    assert plan_of(found.model) is None
    assert_same(found.model, model, IMAGES)


def test_only_the_dead_goes(tmp_path: Path) -> None:
    model = augmented()
    enliven(model, "1.se")
    set_constants(model, "2.se", constants())
    enliven(model, "3.se")
    found = pruned(tmp_path, model)
    assert found.removed == ("2.se",)
    assert set(found.live) == {"1.se", "3.se"}
    assert min(found.live.values()) > 0.01
    (step,) = found.steps
    assert step.tensors == ("2.bn2.bias", "2.bn2.weight")
    assert step.smallest == pytest.approx(0.4, rel=1e-6)
    assert step.largest == pytest.approx(1.95, rel=1e-6)
    assert tuple(blocks_of(found.model)) == ("1.se", "3.se")
    before, after = model.get_parameter("2.bn2.weight"), found.model.get_parameter("2.bn2.weight")
    assert torch.allclose(after, before * constants(), rtol=1e-6)
    with torch.no_grad():
        assert torch.allclose(found.model(IMAGES), model(IMAGES), rtol=1e-5, atol=1e-5)
    assert tuple(blocks_of(model)) == BLOCKS


def test_the_one_that_varies_least_is_first(tmp_path: Path) -> None:
    model = augmented()
    enliven(model, "1.se", 0.02)
    set_constants(model, "2.se", constants())
    found = pruned(tmp_path, model, max_drop=100)
    assert set(found.removed) == set(BLOCKS)
    assert found.removed[-1] == "1.se"
    assert found.steps[-1].spread > 1e-4
    assert [step.spread for step in found.steps] == sorted(step.spread for step in found.steps)
    assert found.steps[0].before == found.before
    assert found.steps[-1].after == found.after


def test_a_gate_of_which_a_single_channel_sees_the_image_stays(tmp_path: Path) -> None:
    model = augmented()
    enliven(model, "2.se", 1)
    with torch.no_grad():
        model.get_parameter("2.se.fc2.weight")[1:] = 0
    found = pruned(tmp_path, model, tolerance=0.01, max_drop=100)
    assert found.removed == ("1.se", "3.se")
    assert found.live == {"2.se": pytest.approx(0.0166, abs=1e-4)}  # 0.0021 in the mean over the channels


def test_constants_are_the_means_over_the_images(tmp_path: Path) -> None:
    model = augmented()
    enliven(model, "1.se")
    data = images(tmp_path / "photos")
    found = prune(model, data, workers=0, tolerance=10, max_drop=100)
    step = found.steps[-1]
    assert step.block == "1.se"
    assert step.smallest < step.largest
    ratio = (found.model.get_parameter("1.bn2.weight") / model.get_parameter("1.bn2.weight")).detach()
    (movement, *_) = watch_gates(model, [(batch, None) for batch in _batches(model, data)])
    assert ratio.mean().item() == pytest.approx(movement.mean, rel=1e-5)


def _batches(model: nn.Module, data: Any) -> list[torch.Tensor]:
    from sesurgeon.finetune import batches, preprocessing_for

    return [batch for batch, _ in batches(data, preprocessing_for(model, data.val, None))]


@pytest.mark.parametrize("second", [59.0, 89.88])
def test_it_stops_before_the_drop_that_is_not_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: float
) -> None:
    """The second block to go costs too much, by what is measured: alone, or with the first. The third is not tried."""
    scores = iter([90.0, 89.95, second])

    class Told:
        images = 16
        losses = torch.zeros(16)

        def scores(self) -> dict[str, float]:
            return {"top1": next(scores)}

    from sesurgeon.finetune.scoring.evaluate import measure

    def told(*given: Any, **options: Any) -> Told:
        measure(*given, **options)
        return Told()

    monkeypatch.setattr("sesurgeon.gates.pruning.measure", told)
    steps: list[PruningStep] = []
    found = pruned(tmp_path, augmented(), max_drop=0.1, on_step=steps.append)
    assert [(step.block, step.accepted, step.after) for step in found.steps] == [
        ("1.se", True, 89.95),
        ("2.se", False, second),
    ]
    assert tuple(steps) == found.steps
    assert (found.removed, found.untried, found.after) == (("1.se",), ("3.se",), 89.95)
    assert tuple(blocks_of(found.model)) == ("2.se", "3.se")
    assert [block["block"] for block in provenance_of(found.model).history[-1]["blocks"]] == ["1.se"]


def test_a_block_that_no_layer_can_replace_is_told(tmp_path: Path) -> None:
    model = augmented(policy="post")
    set_constants(model, "1.se", constants())
    found = pruned(tmp_path, model)
    assert found.removed == ("2.se", "3.se")  # they are 1
    assert [item.path for item in found.left] == ["1.se"]
    assert "before the block, is also used elsewhere" in found.left[0].reason


def test_a_gate_that_is_nearly_1_goes_where_no_layer_can_take_it(tmp_path: Path) -> None:
    model = augmented(policy="post")
    set_constants(model, "1.se", 1 + (constants() - 1) / 200)
    found = pruned(tmp_path, model)
    assert set(found.removed) == set(BLOCKS)
    assert {(step.tensors, step.smallest, step.largest) for step in found.steps} == {((), 1.0, 1.0)}


@pytest.mark.parametrize("block", ["eca", "ese", "gc", "ge", "cbam"])
def test_every_kind_of_block_can_go(tmp_path: Path, block: str) -> None:
    model = augmented(block=block)
    if block == "cbam":  # its second gate is a constant for all channels
        with torch.no_grad():
            model.get_parameter("1.se.spatial.conv.bn.bias").fill_(-1.0)
    found = pruned(tmp_path, model)
    assert set(found.removed) == set(BLOCKS)
    if block == "cbam":
        (step,) = (step for step in found.steps if step.block == "1.se")
        assert step.smallest == step.largest == pytest.approx(2 / (1 + 2.718281828459045), rel=1e-6)
    with torch.no_grad():
        assert torch.allclose(found.model(IMAGES), model(IMAGES), rtol=1e-5, atol=1e-6)


def test_of_a_block_with_two_gates_both_count(tmp_path: Path) -> None:
    model = augmented(policy="post", block="cbam")
    enliven(model, "1.se.channel")  # its other gate is 1
    with torch.no_grad():
        model.get_parameter("2.se.spatial.conv.bn.bias").fill_(-1.0)  # no layer can take that
    found = pruned(tmp_path, model, max_drop=100)
    assert (found.removed, list(found.live), [item.path for item in found.left]) == (("3.se",), ["1.se"], ["2.se"])


def test_the_history_tells_what_went_and_the_file_comes_back(tmp_path: Path) -> None:
    model = augmented()
    set_constants(model, "2.se", constants())
    enliven(model, "3.se")
    found = pruned(tmp_path, model)
    sesurgeon.save(found.model, tmp_path / "net.pruned.pt")
    again = sesurgeon.load(tmp_path / "net.pruned.pt")
    assert_same(again, found.model, IMAGES)
    assert tuple(blocks_of(again)) == ("3.se",)
    record = provenance_of(again).history[-1]
    assert (record["command"], record["metric"], record["before"], record["after"]) == (
        "prune", "top1", found.before, found.after,
    )  # fmt: skip
    assert [block["block"] for block in record["blocks"]] == ["1.se", "2.se"]
    assert [block["folded"] for block in record["blocks"]] == [[], ["2.bn2.bias", "2.bn2.weight"]]
    assert record["blocks"][1]["constants"] == pytest.approx([0.4, 1.95], rel=1e-6)


def test_it_is_exported_and_folded_as_others_are(tmp_path: Path) -> None:
    model = augmented()
    set_constants(model, "2.se", constants())
    enliven(model, "3.se")
    found = pruned(tmp_path, model)
    folded = sesurgeon.fold_gate_scale(found.model)
    assert_same(folded, found.model, IMAGES)
    base = sesurgeon.remove_se(folded)
    assert torch.equal(base.get_parameter("2.bn2.weight"), found.model.get_parameter("2.bn2.weight"))
    assert torch.equal(base.get_parameter("3.bn2.weight"), model.get_parameter("3.bn2.weight"))


def test_the_times_are_those_that_it_is_told(tmp_path: Path) -> None:
    model = augmented()
    enliven(model, "3.se")

    def timing(first: nn.Module, second: nn.Module, image: torch.Tensor) -> tuple[float, float]:
        assert image.shape == (1, 1, 8, 8)
        return float(len(blocks_of(first))), float(len(blocks_of(second)))

    found = pruned(tmp_path, model, timing=timing)
    assert [(step.ms_before, step.ms_after) for step in found.steps] == [(3.0, 2.0), (2.0, 1.0)]
    assert (found.ms_before, found.ms_after) == (3.0, 1.0)


def test_where_all_gates_live_nothing_goes(tmp_path: Path) -> None:
    model = augmented()
    for path in BLOCKS:
        enliven(model, path)
    found = pruned(tmp_path, model)
    assert (found.steps, found.removed) == ((), ())
    assert set(found.live) == set(BLOCKS)
    assert found.model is model


class Striped(nn.Module):
    """A gate that gives the same for every image, and 0.5 and 1.5 in turn for its places."""

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        stripes = 0.5 + torch.arange(logits.shape[-1]) % 2
        return stripes.expand_as(logits)


def test_the_spread_is_over_places_too(tmp_path: Path) -> None:
    model = augmented(block="ge", extent=2)
    for path in BLOCKS:
        model.get_submodule(path).gate = Striped()
    found = pruned(tmp_path, model)
    assert found.live == pytest.approx(dict.fromkeys(BLOCKS, 0.5))


def test_gates_that_give_no_numbers_are_named(tmp_path: Path) -> None:
    with pytest.raises(SesurgeonError, match=r"The gate 2\.se gives factors that are not finite"):
        pruned(tmp_path, broken())


def test_a_network_that_gives_no_numbers_is_not_pruned_by_them(tmp_path: Path) -> None:
    model = augmented()
    with torch.no_grad():
        model.get_parameter("6.bias")[0] = torch.nan
    with pytest.raises(SesurgeonError, match="outputs for 16 of 16 images are not finite"):
        pruned(tmp_path, model)


def test_one_image_is_no_evidence(tmp_path: Path) -> None:
    data = images(tmp_path / "photos")
    data = replace(data, val=Subset(data.val, [0]))
    with pytest.raises(UsageError, match="has one image, for which every gate is constant"):
        prune(augmented(), data, workers=0)


def test_where_a_norm_has_few_values_to_go_by_a_rounding_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = sesurgeon.add_se(trained_like(resnet18(num_classes=2)), torch.randn(2, 3, 32, 32), policy="inner")
    for block in blocks_of(model).values():
        block.get_parameter("fc2.bias").data.normal_()
    data = colour_images(tmp_path)
    assert len(prune(model, data, workers=0, max_drop=1000, img_size=32).removed) == 8
    # and yet what was forgotten is seen
    monkeypatch.setattr(replacing, "multiply", lambda network, by: None)
    forgotten = prune(model, data, workers=0, max_drop=1000, img_size=32)
    assert (forgotten.removed, len(forgotten.left)) == ((), 8)
    assert all("the outputs in eval mode are not those with its constants" in one.reason for one in forgotten.left)


def test_what_cannot_be_proved_stays_and_the_other_steps_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(model: nn.Module, path: str, *rest: object) -> Replacement:
        if path == "2.se":
            raise VerificationError("it differs")
        return replace_block(model, path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(pruning, "replace_block", refuses)
    model = augmented()
    set_constants(model, "2.se", constants())
    found = pruned(tmp_path, model)
    assert found.removed == ("1.se", "3.se")
    assert [(item.path, item.reason) for item in found.left] == [("2.se", "it differs")]
    with pytest.raises(VerificationError, match="it differs"):  # a gate that is 1 leaves without a trace, or not at all
        prune(augmented(), open_data(tmp_path / "photos", training=False, val_split=None), workers=0)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(UsageError, match=r"max_drop \(=-1\) must be at least 0"):
        prune(augmented(), "nowhere", max_drop=-1)
    with pytest.raises(UsageError, match=r"tolerance \(=nan\) must be at least 0"):
        prune(augmented(), "nowhere", tolerance=float("nan"))
    with pytest.raises(UsageError, match="no inserted blocks in this Sequential"):
        prune(sesurgeon.remove_se(augmented()), "nowhere")
