"""What an image goes through before a model: values that make no sense are refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sesurgeon.models import Preprocessing

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
