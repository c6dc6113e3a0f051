"""Networks that keep or need something unusual, and are trained all the same, or refused in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from finetune_nets import TinyNet
from torch import Tensor, nn

from sesurgeon.errors import UsageError
from sesurgeon.finetune import Event, FinetuneConfig, TrainStep, finetune, open_data
from sesurgeon.finetune.data.sampler import UpdateSampler, UpdateSize
from sesurgeon.finetune.keeping.states import newest_state
from sesurgeon.finetune.task import make_task
from sesurgeon.finetune.training.ema import Average
from sesurgeon.finetune.training.single_images import check_single_images
from sesurgeon.models.files.own_weights import read_weights

Fill = Callable[..., Path]
NORM_ON_VECTORS = nn.Sequential(nn.Conv2d(1, 2, 8), nn.Flatten(), nn.BatchNorm1d(2), nn.Linear(2, 2))


class Remembering(TinyNet):
    """Keeps beside its tensors how often it was called in train mode."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        return super().forward(x)

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.calls = state["calls"]


class Masked(TinyNet):
    """Has a mask as attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tensor([[0.0, -torch.inf], [0.0, 0.0]]))


def test_the_average_of_a_network_with_extra_state_takes_that_over(split_folder: Path, config: FinetuneConfig) -> None:
    model = Remembering()
    result = finetune(model, split_folder, replace(config, model_ema=True, model_ema_decay=0.9))
    found = newest_state(result.folder / "states")
    assert found is not None
    assert found.state.average is not None
    assert model.calls == 6
    assert found.state.average["_extra_state"] == {"calls": 6}


def test_an_average_is_that_of_timms(make_net: Callable[..., TinyNet]) -> None:
    from timm.utils import ModelEmaV3

    model = make_net()
    ours, timms = Average(model, 0.9), ModelEmaV3(model, decay=0.9, use_warmup=True)
    for step in (1, 2, 3, 4):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor += 1
        ours.update(model, step)
        timms.update(model, step)
    expected = timms.module.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.module.state_dict().items())
    ours.set(model)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in ours.module.state_dict().items())


def test_a_weight_that_layers_share_is_averaged_once() -> None:
    block, other = nn.Linear(2, 2), nn.Linear(2, 2)
    other.weight = block.weight
    model = nn.ModuleList([block, block, other]).requires_grad_(False)
    nn.init.zeros_(block.weight)
    average = Average(model, 0.9)
    nn.init.ones_(block.weight)
    average.apply_update_(model, 0.9)
    assert average.module[0].weight is average.module[1].weight is average.module[2].weight
    assert torch.allclose(average.module[0].weight, torch.full((2, 2), 0.1))


@pytest.mark.parametrize("model_ema", [False, True])
def test_a_mask_may_be_infinite_from_the_start(split_folder: Path, config: FinetuneConfig, model_ema: bool) -> None:
    model = Masked()
    result = finetune(model, split_folder, replace(config, model_ema=model_ema))
    for file in (result.best, result.last):
        assert torch.equal(read_weights(file)["mask"], torch.tensor([[0.0, -torch.inf], [0.0, 0.0]]))


@pytest.mark.parametrize(
    ("images", "change"), [(12, {"batch_size": 1}), (2, {"batch_size": 8, "grad_accum_steps": 4})], ids=str
)
def test_single_images_that_a_norm_cannot_train_on_are_refused_before_anything_is_written(
    tmp_path: Path, fill: Fill, config: FinetuneConfig, images: int, change: dict[str, int]
) -> None:
    for name in ("train", "val"):
        fill(tmp_path / "data" / name, ("left", "right"), images)
    before = {name: tensor.clone() for name, tensor in NORM_ON_VECTORS.state_dict().items()}
    with pytest.raises(UsageError, match=r"Steps have a single image here, and a BatchNorm .* batch_size \(=\d\)"):
        finetune(NORM_ON_VECTORS, tmp_path / "data", replace(config, **change))  # type: ignore[arg-type]
    assert not Path(config.output).exists()
    assert all(torch.equal(tensor, before[name]) for name, tensor in NORM_ON_VECTORS.state_dict().items())


def test_their_trial_leaves_nothing_behind(
    make_net: Callable[..., TinyNet], split_folder: Path, config: FinetuneConfig
) -> None:
    model = make_net().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    task = make_task(model, open_data(split_folder), config)
    check_single_images(model, task, UpdateSampler(24, UpdateSize(1), seed=0), sync_bn=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_single_images_are_fine_for_norms_on_maps(
    make_net: Callable[..., TinyNet], split_folder: Path, config: FinetuneConfig
) -> None:
    events: list[Event] = []
    finetune(make_net(), split_folder, replace(config, epochs=1, batch_size=1), on_progress=events.append)
    assert [event.steps for event in events if isinstance(event, TrainStep)] == [24] * 24
