from __future__ import annotations

import pytest

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


def test_the_configuration_is_plain_data() -> None:
    config = FinetuneConfig(epochs=3, name="digits")
    assert FinetuneConfig(**config.to_dict()) == config
