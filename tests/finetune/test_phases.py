from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from sesurgeon.finetune import Event, FinetuneConfig, Phase, TrainStep, finetune
from sesurgeon.finetune.training.phases import (
    changing_buffers,
    param_groups,
    phases_of,
    set_train_mode,
    set_trainable,
)
from sesurgeon.paths import is_within_any

MakeNet = Callable[..., nn.Module]


def test_phases_share_the_epochs() -> None:
    config = FinetuneConfig(epochs=5, freeze_epochs=2)
    assert phases_of(config, anything_new=True) == (Phase("blocks", 0, 2), Phase("all", 2, 3))
    assert phases_of(config, anything_new=False) == (Phase("all", 0, 5),)
    frozen_only = FinetuneConfig(epochs=2, freeze_epochs=2)
    assert phases_of(frozen_only, anything_new=True) == (Phase("blocks", 0, 2),)


def test_blocks_alone_have_all_epochs() -> None:
    config = FinetuneConfig(epochs=5, freeze_epochs=2, train="blocks")
    assert phases_of(config, anything_new=True) == (Phase("blocks", 0, 5),)


def test_a_path_holds_what_is_inside_it_and_not_what_begins_alike() -> None:
    assert is_within_any("layer1.0.se.fc1.weight", {"layer1.0.se"})
    assert is_within_any("fc", {"fc"})
    assert not is_within_any("fc2.weight", {"fc"})


def test_the_frozen_phase_trains_only_what_is_within_any(make_net: MakeNet) -> None:
    model = make_net()
    set_trainable(model, Phase("blocks", 0, 1), {"fc"}, {name for name, _ in model.named_parameters()})
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == [
        "fc.weight",
        "fc.bias",
    ]


def test_what_the_caller_froze_stays_frozen(make_net: MakeNet) -> None:
    model = make_net()
    set_trainable(model, Phase("all", 0, 1), {"fc"}, {"block.conv.weight"})
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained == ["block.conv.weight", "fc.weight", "fc.bias"]


def test_frozen_batch_norms_are_in_eval_and_dropout_is_not(make_net: MakeNet) -> None:
    model = make_net()
    set_train_mode(model, Phase("blocks", 0, 1), {"block"})
    assert {
        name: module.training for name, module in model.named_modules() if name in ("bn", "block.bn", "drop", "")
    } == {
        "": True,
        "bn": False,
        "block.bn": True,
        "drop": True,
    }
    set_train_mode(model, Phase("all", 1, 1), {"block"})
    assert all(module.training for module in model.modules())


def test_batch_norms_that_the_caller_froze_stay_in_eval(make_net: MakeNet) -> None:
    model = make_net()
    trainable = {name for name, _ in model.named_parameters()} - {"bn.weight", "bn.bias", "block.bn.weight"}
    phase = Phase("all", 0, 1)
    set_trainable(model, phase, {"fc"}, trainable)
    set_train_mode(model, phase, {"fc"})
    assert [name for name, module in model.named_modules() if not module.training] == ["bn"]


def test_only_the_statistics_of_what_trains_change(make_net: MakeNet) -> None:
    model = make_net()
    set_train_mode(model, Phase("blocks", 0, 1), {"block"})
    names = [f"block.bn.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")]
    assert changing_buffers(model) == names
    set_train_mode(model, Phase("all", 1, 1), {"block"})
    assert changing_buffers(model) == [name for name, _ in model.named_buffers()]


def test_groups_by_learning_rate_and_decay(make_net: MakeNet) -> None:
    model = make_net()
    config = FinetuneConfig(lr=1.0, lr_block_mult=2.0, lr_backbone_mult=0.5, weight_decay=0.1)
    groups = {
        (group["lr"], group["weight_decay"]): len(group["params"]) for group in param_groups(model, {"fc"}, config)
    }
    assert groups == {(2.0, 0.1): 1, (2.0, 0.0): 1, (0.5, 0.1): 2, (0.5, 0.0): 4}


@pytest.mark.parametrize("opt", ["adamw", "sgd"])
def test_timms_optimisers_take_the_groups(make_net: MakeNet, opt: str) -> None:
    from timm.optim import create_optimizer_v2

    groups = param_groups(make_net(), {"fc"}, FinetuneConfig().with_rates(new_head=False))
    optimizer = create_optimizer_v2(groups, opt=opt, lr=1e-3)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == pytest.approx([1e-4, 5e-3])


def test_the_first_update_of_a_warm_up_is_not_in_vain(
    augmented: nn.Module, split_folder: Path, config: FinetuneConfig
) -> None:
    def rates(batch_size: int, warmup: float) -> list[float]:
        steps: list[Event] = []
        one = replace(config, epochs=2, freeze_epochs=0, batch_size=batch_size, warmup_epochs=warmup, lr_block_mult=1.0)
        one = replace(one, lr_backbone_mult=1.0, force=True, name="rates")
        finetune(copy.deepcopy(augmented), split_folder, one, on_progress=steps.append)
        return [round(step.lr / one.lr, 4) for step in steps if isinstance(step, TrainStep)]

    assert rates(6, 1.0)[:5] == [0.25, 0.5, 0.75, 0.5, 0.5]
    assert rates(6, 3.0)[:5] == [0.25, 0.5, 0.75, 0.5, 0.5]  # half of the phase at most
    assert rates(24, 1.0)[0] > 0
    assert rates(24, 0.5) == rates(24, 0.0)
