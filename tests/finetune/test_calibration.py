"""Fresh blocks are calibrated on the images that training begins with, once, and change no output by it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from sesurgeon.finetune import BlocksCalibrated, Event, FinetuneConfig, StateWritten, finetune
from sesurgeon.finetune.data.loader import train_loader
from sesurgeon.finetune.data.opening import open_data
from sesurgeon.finetune.data.sampler import UpdateSampler, UpdateSize
from sesurgeon.finetune.keeping.states import newest_state
from sesurgeon.finetune.training.calibration import Calibration, calibrate
from sesurgeon.models.preprocessing import Preprocessing
from sesurgeon.surgery import add_se, load

MakeNet = Callable[..., nn.Module]
PREPROCESSING = Preprocessing((1, 8, 8), (0.5,), (0.5,))
FIRST = "block.se.fc1.weight"


def first_batches(
    folder: Path, process: int = 0, processes: int = 1, batch_size: int = 8
) -> tuple[object, UpdateSampler]:
    data = open_data(str(folder))
    updates = UpdateSampler(24, UpdateSize(batch_size, 1, processes), 0, process)
    return train_loader(data.split("train"), PREPROCESSING, (0, 1), updates, workers=0), updates


def test_the_first_images_of_training_are_standardised_and_outputs_stay(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig
) -> None:
    images = torch.randn(4, 1, 8, 8)
    flags = [module.training for module in augmented.modules()]
    before = augmented.eval()(images), copy.deepcopy(augmented).train()(images)
    random = torch.get_rng_state()
    torch.manual_seed(0)
    loader, updates = first_batches(split_folder)
    for module, flag in zip(augmented.modules(), flags, strict=True):
        module.training = flag
    done = calibrate(augmented, loader, updates)
    assert (done.blocks, done.left, done.images) == (("block.se",), {}, 24)
    assert [module.training for module in augmented.modules()] == flags
    torch.set_rng_state(random)
    seen: list[Tensor] = []
    hook = augmented.get_submodule("block.se.fc1").register_forward_hook(lambda *call: seen.append(call[2].clone()))
    with torch.no_grad():
        for batch, _ in loader:
            augmented.eval()(batch)
    hook.remove()
    units = torch.cat(seen).flatten(1)
    torch.testing.assert_close(units.mean(0), torch.zeros(8), rtol=0, atol=1e-4)
    torch.testing.assert_close(units.std(0, correction=0), torch.ones(8), rtol=1e-3, atol=0)
    assert torch.equal(augmented.eval()(images), before[0])


def test_in_train_mode_outputs_stay_too(augmented: nn.Module, split_folder: Path, config: FinetuneConfig) -> None:
    augmented.get_submodule("drop").p = 0.0
    plain = copy.deepcopy(augmented)
    calibrate(augmented, *first_batches(split_folder))
    images = torch.randn(4, 1, 8, 8)
    assert torch.equal(augmented.train()(images), plain.train()(images))
    assert not torch.equal(augmented.get_parameter(FIRST), plain.get_parameter(FIRST))


def test_a_run_calibrates_before_its_first_update_and_says_so(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig
) -> None:
    plain = copy.deepcopy(augmented)
    events: list[Event] = []
    result = finetune(augmented, split_folder, replace(config, model_ema=True), on_progress=events.append)
    kinds = [type(event).__name__ for event in events]
    assert kinds.index("EpochFinished") < kinds.index("BlocksCalibrated") < kinds.index("StateWritten")
    [told] = [event for event in events if isinstance(event, BlocksCalibrated)]
    assert told.calibration.blocks == ("block.se",)
    said = "The hidden units of block.se were calibrated on 24 training images."
    assert str(told.calibration) == said
    assert said in result.folder.joinpath("report.md").read_text()
    assert yaml.safe_load((result.folder / "args.yaml").read_text())["calibrate"] is True
    assert not torch.equal(load(result.last, trust_pickle=True).get_parameter(FIRST), plain.get_parameter(FIRST))


def test_the_moving_average_starts_calibrated(augmented: nn.Module, split_folder: Path, config: FinetuneConfig) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, StateWritten):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(augmented, split_folder, replace(config, model_ema=True, name="run"), on_progress=stop)
    found = newest_state(Path(config.output) / "run" / "states")
    assert found is not None
    model, average = found.state.model, found.state.average
    assert average is not None
    assert all(torch.equal(model[name], average[name]) for name in model)


def test_it_can_be_left_out(augmented: nn.Module, split_folder: Path, config: FinetuneConfig) -> None:
    events: list[Event] = []
    result = finetune(augmented, split_folder, replace(config, calibrate=False), on_progress=events.append)
    assert not any(isinstance(event, BlocksCalibrated) for event in events)
    assert "calibrated" not in result.folder.joinpath("report.md").read_text()


def test_a_resumed_run_does_not_calibrate_again_and_its_report_still_tells(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig
) -> None:
    whole = finetune(copy.deepcopy(augmented), split_folder, replace(config, name="whole")).folder

    def stop(event: Event) -> None:
        if isinstance(event, StateWritten) and event.epoch == 1:
            raise KeyboardInterrupt

    torn = replace(config, name="torn")
    with pytest.raises(KeyboardInterrupt):
        finetune(augmented, split_folder, torn, on_progress=stop)
    folder = Path(config.output) / "torn"
    events: list[Event] = []
    again = load(folder / "last.pt", trust_pickle=True)
    finetune(again, split_folder, torn, resume=folder, on_progress=events.append)
    assert not any(isinstance(event, BlocksCalibrated) for event in events)
    assert "block.se" in (folder / "report.md").read_text().partition("|")[0]
    ours, theirs = (load(run / "last.pt", trust_pickle=True).state_dict() for run in (whole, folder))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_blocks_that_were_trained_or_have_no_units_are_left_alone(
    augmented: nn.Module, make_net: MakeNet, split_folder: Path, config: FinetuneConfig
) -> None:
    with torch.no_grad():
        augmented.get_parameter("block.se.fc2.bias").add_(0.1)
    before = augmented.get_parameter(FIRST).clone()
    done = calibrate(augmented, *first_batches(split_folder))
    assert (done.blocks, done.images) == ((), 0)
    assert str(done) == "Not calibrated: block.se, which was trained already or does not start as an identity."
    assert torch.equal(augmented.get_parameter(FIRST), before)
    other = add_se(make_net(), torch.zeros(1, 1, 8, 8), block="eca")
    done = calibrate(other, *first_batches(split_folder))
    assert str(done) == "Not calibrated: block.se, which has no hidden units with a bias."


def test_blocks_are_named_unless_they_are_all() -> None:
    assert str(Calibration(("a.se", "b.se"), {}, 512)).startswith(
        "The hidden units of all 2 blocks were calibrated on 512"
    )
    said = str(Calibration(("a.se", "b.se"), {"c.se": "which is odd", "d.se": "which is odd"}, 512))
    assert said.startswith("The hidden units of a.se, b.se were calibrated")
    assert said.endswith(" Not calibrated: c.se, d.se, which is odd.")


def test_a_network_without_blocks_has_nothing_to_calibrate(
    make_net: MakeNet, split_folder: Path, config: FinetuneConfig
) -> None:
    events: list[Event] = []
    finetune(make_net(), split_folder, config, on_progress=events.append)
    assert not any(isinstance(event, BlocksCalibrated) for event in events)


def test_two_processes_see_the_images_that_one_sees(split_folder: Path) -> None:
    loader, _ = first_batches(split_folder)
    alone = [batch for batch, _ in islice(loader, 2)]  # type: ignore[call-overload]
    halves = [[batch for batch, _ in islice(first_batches(split_folder, process, 2, 4)[0], 2)] for process in (0, 1)]  # type: ignore[call-overload]
    assert torch.equal(torch.cat(alone), torch.cat([part for pair in zip(*halves, strict=True) for part in pair]))
