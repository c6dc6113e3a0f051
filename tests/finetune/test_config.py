from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from sesurgeon.errors import UsageError
from sesurgeon.finetune import FinetuneConfig


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        FinetuneConfig(epochs=0, lr=-1.0, opt="adamm", val_split=1.5, name="../escape", device="tpu")
    message = caught.value.message
    for name in (
        "epochs (=0)",
        "lr (=-1.0)",
        "opt (='adamm')",
        "val_split (=1.5)",
        "name (='../escape')",
        "tpu",
    ):
        assert name in message


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 2, "freeze_epochs": 3},
        {"batch_size": 0},
        {"lr": float("nan")},
        {"lr": float("inf")},
        {"sched": "plateau"},
        {"smoothing": 1.0},
        {"hflip": 1.1},
        {"img_size": 0},
        {"workers": -1},
        {"seed": 2**32},
        {"on_bad_image": "ignore"},
        {"name": ""},
    ],
)
def test_a_value_out_of_range_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=list(wrong)[-1]):
        FinetuneConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"amp": "no"}, "amp (='no') must be true or false."),
        ({"download": "false"}, "download (='false') must be true or false."),
        ({"force": 1}, "force (=1) must be true or false."),
        ({"output": 3}, "output (=3) must be a text."),
        ({"aa": True}, "aa (=True) must be a text or null."),
        ({"train": "some"}, "train (='some') must be one of all, blocks."),
        ({"log_with": "wandb"}, "log_with (='wandb') must be a list of texts or null."),
        ({"log_with": (1,)}, "log_with (=(1,)) must be a list of texts or null."),
    ],
    ids=str,
)
def test_a_value_of_another_type_is_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        FinetuneConfig(**wrong)  # type: ignore[arg-type]
    assert caught.value.message == said


def test_paths_become_text_that_the_file_of_a_run_can_hold() -> None:
    config = FinetuneConfig(output=Path("runs") / "mine", data_dir=Path("sets"))  # type: ignore[arg-type]
    assert (config.output, config.data_dir) == (os.path.join("runs", "mine"), "sets")
    assert yaml.safe_load(yaml.safe_dump(config.to_dict())) == config.to_dict()


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        FinetuneConfig(epochs="3", lr=None, workers=2.5, seed=True, img_size=[224])  # type: ignore[arg-type]
    assert caught.value.message.splitlines() == [
        "epochs (='3') must be a whole number.",
        "lr (=None) must be a number.",
        "img_size (=[224]) must be a whole number or null.",
        "workers (=2.5) must be a whole number.",
        "seed (=True) must be a whole number.",
    ]


def test_numbers_of_numpy_and_torch_and_whole_ones_of_files_become_plain_data() -> None:
    config = FinetuneConfig(epochs=np.int64(3), lr=np.float32(0.5), weight_decay=0)
    assert (config.epochs, config.lr) == (3, 0.5)
    assert FinetuneConfig(epochs=3.0, patience=2.0, lr=torch.tensor(0.5)) == FinetuneConfig(  # type: ignore[arg-type]
        epochs=3, patience=2, lr=0.5
    )
    assert {type(value) for value in config.to_dict().values()} <= {int, float, str, bool, type(None)}


def test_the_configuration_is_plain_data() -> None:
    config = FinetuneConfig(epochs=3, name="digits")
    assert FinetuneConfig(**config.to_dict()) == config
    tracked = FinetuneConfig(log_with=("tensorboard",)).to_dict()
    assert FinetuneConfig(**tracked).to_dict() == tracked


def test_open_rates_depend_on_the_head() -> None:
    for new_head, rates in ((False, (5.0, 0.1)), (True, (1.0, 1.0))):
        config = FinetuneConfig().with_rates(new_head=new_head)
        assert (config.lr_block_mult, config.lr_backbone_mult) == rates
        assert config.with_rates(new_head=not new_head) == config  # what is said stays
    config = FinetuneConfig(lr_backbone_mult=0.5).with_rates(new_head=True)
    assert (config.lr_block_mult, config.lr_backbone_mult) == (1.0, 0.5)
    assert FinetuneConfig(train="blocks").with_rates(new_head=True).lr_backbone_mult is None  # there is none


@pytest.mark.parametrize("name", ["lr_block_mult", "lr_backbone_mult"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_rate_that_is_said_is_positive(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=name):
        FinetuneConfig(**{name: value})  # type: ignore[arg-type]
