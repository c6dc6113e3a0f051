"""What an image goes through before a model: values that make no sense are refused."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from torch import nn

import sesurgeon
from sesurgeon import UsageError
from sesurgeon.models import Preprocessing, provenance_of, state_preprocessing
from sesurgeon.models.preprocessing import stated_preprocessing

COLOUR: dict[str, Any] = {"input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.25,) * 3}


@pytest.mark.parametrize(
    "odd",
    [
        {"input_size": (3, 0, 8)},
        {"input_size": (0, 8, 8), "mean": (), "std": ()},
        {"mean": (0.5,)},
        {"std": (0.5,) * 4},
        {"mean": ()},
        {"mean": (0.5, 0.5, math.nan)},
        {"std": (0.5, 0.5, 0.0)},
        {"std": (0.5, 0.5, math.nan)},
        {"std": (0.5, 0.5, math.inf)},
        {"interpolation": "bicubc"},
        {"crop_pct": 0.0},
        {"crop_pct": math.nan},
        {"crop_pct": 9.0},
        {"crop_mode": "round"},
    ],
)
def test_what_makes_no_sense_is_refused(odd: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(odd))):
        Preprocessing.from_dict({**COLOUR, **odd})


@pytest.mark.parametrize(
    "given", [{"crop_pct": 1.15}, {"interpolation": "lanczos"}, {"input_size": (7, 8, 8), "mean": (), "std": ()}]
)
def test_what_networks_of_timm_and_of_many_channels_have_is_taken(given: dict[str, Any]) -> None:
    preprocessing = Preprocessing.from_dict({**COLOUR, **given})
    assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing
    assert preprocessing.for_channels(1).input_size[0] == 1


def test_what_a_user_says_takes_the_place_of_what_is_known() -> None:
    known = Preprocessing.from_dict({**COLOUR, "crop_pct": 0.9})
    stated = stated_preprocessing(known, {"mean": 0.25, "std": [0.1, 0.2, 0.3]})
    assert stated == Preprocessing((3, 8, 8), (0.25,) * 3, (0.1, 0.2, 0.3), "bicubic", 0.9)
    grey = stated_preprocessing(known, {"input_size": [1, 16, 16]})
    assert grey == Preprocessing((1, 16, 16), (0.5,), (0.25,), "bicubic", 0.9)


def test_where_nothing_is_known_the_rest_is_the_default() -> None:
    stated = stated_preprocessing(None, {"input_size": [3, 32, 48], "std": 0.2})
    assert stated == Preprocessing((3, 32, 48), (0.485, 0.456, 0.406), (0.2,) * 3)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"mean": 0.5}, r"does not say at which size.*\n.*input_size=\[3,224,224\]"),
        ({"input_sise": [3, 8, 8]}, r"no preprocessing setting input_sise\.\nThere are input_size, .*crop_pct"),
        ({"input_size": 8}, r"input_size=8 makes no sense: input_size is three whole numbers"),
        ({"input_size": [3, 8]}, r"makes no sense: input_size is three whole numbers"),
        ({"input_size": [3.7, 8, 8]}, r"makes no sense: input_size is three whole numbers"),
        ({"input_size": [3, math.inf, 8]}, r"makes no sense: input_size is three whole numbers"),
        ({"input_size": [10**12, 8, 8], "mean": 0.5}, r"makes no sense: input_size is three whole numbers"),
        ({"input_size": [3, 8, 8], "mean": True}, r"True is no list of numbers"),
        ({"input_size": [3, 8, 8], "mean": {0.5: 1, 0.6: 2, 0.7: 3}}, r"is no list of numbers"),
        ({"input_size": [3, 8, 8], "mean": None}, r"mean=None makes no sense"),
        ({"input_size": [3, 8, 8], "mean": "0.4,0.5"}, r"a value for each of the 3 channels"),
        ({1: 2}, r"There is no preprocessing setting 1"),
        ([1, 2], r"preprocessing must be a dict, not a list"),
        ({"input_size": [3, 8, 8], "mean": [0.5, 0.5]}, r"a value for each of the 3 channels"),
        ({"input_size": [3, 8, 8], "std": "wide"}, r"std=wide makes no sense"),
        ({"input_size": [3, 8, 8], "std": 0}, r"must be above 0"),
        ({"input_size": [3, 8, 8], "std": 10**400}, r"makes no sense"),
        ({"input_size": [3, 8, 8], "crop_mode": "round"}, r"crop_mode"),
    ],
)
def test_what_a_user_says_is_checked(stated: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        stated_preprocessing(None, stated)
    assert re.search(message, f"{caught.value}\n{caught.value.hint}", re.DOTALL)


def test_lists_come_in_many_forms() -> None:
    expected = Preprocessing((3, 8, 8), (0.1, 0.2, 0.3), (0.5,) * 3)
    for mean in ([0.1, 0.2, 0.3], (0.1, 0.2, 0.3), "0.1,0.2,0.3", "[0.1, 0.2, 0.3]", np.array([0.1, 0.2, 0.3])):
        stated = {"input_size": "3, 8, 8", "mean": mean, "std": np.float32(0.5)}
        assert stated_preprocessing(None, stated) == expected
    assert stated_preprocessing(Preprocessing((1, 9, 9), (0.5,), (0.5,)), expected) == expected


def test_a_size_that_begins_with_the_height_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3))
    with pytest.raises(UsageError, match=r"The input_size \[8,9,1\] says that images have 8 channels") as caught:
        state_preprocessing(model, {"input_size": [8, 9, 1]})
    assert caught.value.hint == "It is channels, height, width: [1,8,9]?"
    state_preprocessing(model, {"input_size": [1, 8, 9]})
    state_preprocessing(model, {"input_size": [1, 1, 1]})


def test_a_network_of_timm_can_be_told_otherwise() -> None:
    model = sesurgeon.load("timm:resnet18", preprocessing={"mean": 0.5, "std": 0.5})
    known = provenance_of(model).preprocessing
    assert known == Preprocessing((3, 224, 224), (0.5,) * 3, (0.5,) * 3, "bicubic", 0.95)
    assert provenance_of(sesurgeon.load("timm:resnet18")).preprocessing != known


def test_a_part_that_there_is_not_is_told_before_a_file_is_read(tmp_path):
    with pytest.raises(UsageError, match="There is no preprocessing setting men"):
        sesurgeon.load(tmp_path / "gone.pt", preprocessing={"men": 0.5})
