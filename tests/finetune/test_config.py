from __future__ import annotations

import numpy as np
import pytest
import torch

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


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        FinetuneConfig(epochs="3", lr=None, workers=2.5, seed=True, img_size=[224])  # type: ignore[arg-type]
    assert caught.value.message.splitlines() == [
        "epochs (='3') must be a whole number.",
        "lr (=None) must be a number.",
        "img_size (=[224]) must be a whole number.",
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


def test_open_rates_depend_on_the_head() -> None:
    for new_head, rates in ((False, (5.0, 0.1)), (True, (1.0, 1.0))):
        config = FinetuneConfig().settled(new_head=new_head)
        assert (config.lr_block_mult, config.lr_backbone_mult) == rates
        assert config.settled(new_head=not new_head) == config  # what is said stays
    config = FinetuneConfig(lr_backbone_mult=0.5).settled(new_head=True)
    assert (config.lr_block_mult, config.lr_backbone_mult) == (1.0, 0.5)
    assert FinetuneConfig(train="blocks").settled(new_head=True).lr_backbone_mult is None  # there is none


@pytest.mark.parametrize("name", ["lr_block_mult", "lr_backbone_mult"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_rate_that_is_said_is_positive(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=name):
        FinetuneConfig(**{name: value})  # type: ignore[arg-type]
