"""Classes of the data find the outputs of a model by name."""

from __future__ import annotations

import pytest

from sesurgeon.errors import DataError
from sesurgeon.finetune.data.labels import map_classes


def test_classes_of_the_same_name_are_told_apart_by_their_places_where_the_model_names_them_so_too() -> None:
    assert map_classes(("crane", "x", "crane"), ("crane", "x", "crane"), 3) == (0, 1, 2)
    assert map_classes(("crane", "x", "crane"), None, 3) == (0, 1, 2)


def test_classes_of_the_same_name_are_refused_otherwise() -> None:
    with pytest.raises(DataError, match="The data have several classes of the same name: crane"):
        map_classes(("crane", "crane", "x"), ("crane", "x", "crane"), 3)
    with pytest.raises(DataError, match="The data have several classes of the same name: x"):
        map_classes(("x", "x"), ("x", "y"), 2)


def test_a_model_with_names_twice_takes_data_that_use_others() -> None:
    names = ("tench", "crane", "goldfish", "crane")
    assert map_classes(("goldfish", "tench"), names, 4) == (2, 0)
    with pytest.raises(DataError, match="The model has several classes of the same name: crane"):
        map_classes(("crane", "tench"), names, 4)
