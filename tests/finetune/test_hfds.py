"""timm's own reader runs here, on a stand-in for the package ``datasets`` at its boundary."""

from __future__ import annotations

import importlib.machinery
import io
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sesurgeon.errors import DataError, UsageError
from sesurgeon.finetune import open_data


@dataclass(frozen=True)
class Dataset:
    """As much of ``datasets.Dataset`` as timm's reader uses."""

    columns: dict[str, list[Any]]
    names: dict[str, list[str]] = field(default_factory=dict)

    @property
    def info(self) -> types.SimpleNamespace:
        features = {key: types.SimpleNamespace(names=self.names.get(key)) for key in self.columns}
        return types.SimpleNamespace(features=features, splits=None)

    def cast_column(self, name: str, feature: object) -> Dataset:
        if name not in self.columns:
            raise ValueError(f"no column {name}")
        return replace(self)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: int | str) -> Any:
        return self.columns[key] if isinstance(key, str) else {name: cells[key] for name, cells in self.columns.items()}


def picture(grey: int) -> dict[str, Any]:
    content = io.BytesIO()
    Image.new("L", (8, 8), grey).save(content, "png")
    return {"bytes": content.getvalue(), "path": None}


def dataset(labels: list[Any], names: list[str] | None = None, image: str = "image", label: str = "label") -> Dataset:
    """Row i is a picture of the grey i."""
    columns = {image: [picture(index) for index in range(len(labels))], label: labels}
    return Dataset(columns, {label: names} if names else {})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """``hub(train=…, test=…)`` puts a package ``datasets`` in place whose one dataset has these splits."""

    def publish(**splits: Dataset) -> None:
        def load_dataset(name: str, split: str, cache_dir: str | None) -> Dataset:
            return splits[split]

        def get_dataset_split_names(name: str) -> list[str]:
            if name != "org/pets":
                raise FileNotFoundError(f"{name} is not on the Hub")
            return list(splits)

        module = types.ModuleType("datasets")
        module.__spec__ = importlib.machinery.ModuleSpec("datasets", None)
        for function in (load_dataset, get_dataset_split_names):
            setattr(module, function.__name__, function)
        module.Image = lambda decode: decode  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "datasets", module)
        sys.modules.pop("timm.data.readers.reader_hfds", None)

    yield publish
    sys.modules.pop("timm.data.readers.reader_hfds", None)


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs the package datasets") as caught:
        open_data("hfds:org/pets")
    assert caught.value.hint == "pip install datasets"


def test_classes_keep_the_datasets_order_and_splits_stay_apart(hub: Callable[..., None]) -> None:
    hub(train=dataset([1, 0, 1], ["dog", "cat", "axolotl"]), test=dataset([0, 0], ["dog", "cat", "axolotl"]))
    data = open_data("hfds:org/pets")
    assert data.classes == ("dog", "cat", "axolotl")
    assert data.val_split is None
    train = data.split("train")
    seen = [train[index] for index in range(3)]
    assert sorted((image.getpixel((0, 0)), target) for image, target in seen) == [(0, 1), (1, 0), (2, 1)]
    assert len(data.val) == 2
    assert open_data("hfds:org/pets", training=False).train is None


def test_one_split_is_divided_by_class(hub: Callable[..., None]) -> None:
    hub(train=dataset(["b", "a"] * 5))
    data = open_data("hfds:org/pets", val_split=0.4)
    assert (data.classes, len(data.split("train")), len(data.val)) == (("a", "b"), 6, 4)
    assert [target for _, target in (data.val[index] for index in range(4))] == [0, 0, 1, 1]


def test_columns_are_named_behind_a_colon(hub: Callable[..., None]) -> None:
    hub(train=dataset([3, 12], image="img", label="fine"))
    data = open_data("hfds:org/pets:input_key=img,target_key=fine", training=False, val_split=None)
    assert (data.classes, len(data.val)) == (("3", "12"), 2)
    with pytest.raises(DataError, match="cannot be opened: no column image") as caught:
        open_data("hfds:org/pets")
    assert "input_key=img" in (caught.value.hint or "")


def test_an_unreadable_row_is_named(hub: Callable[..., None]) -> None:
    torn = dataset(["a", "b", "a", "b"])
    torn.columns["image"][1] = {"bytes": b"nothing", "path": None}
    hub(validation=torn)
    data = open_data("hfds:org/pets", training=False)
    assert [image.path for image in data.skipped] == [Path("hfds:org/pets (validation) row 1")]
    assert len(data.val) == 3


@pytest.mark.parametrize("spec", ["hfds:", "hfds:org/pets:", "hfds:org/pets:split=train", "hfds:org/pets:input_key="])
def test_specs_that_make_no_sense(spec: str) -> None:
    with pytest.raises(UsageError, match="is not hfds:NAME"):
        open_data(spec)


def test_datasets_that_cannot_be_used(hub: Callable[..., None]) -> None:
    hub(train=dataset([0, -1, None]), extra=dataset([0]))
    with pytest.raises(DataError, match="org/dogs is not on the Hub"):
        open_data("hfds:org/dogs")
    with pytest.raises(DataError, match=r"2 rows of .* have no label, the first is row 1"):
        open_data("hfds:org/pets")
    hub(extra=dataset([0]))
    with pytest.raises(DataError, match="has none of the splits train, val") as caught:
        open_data("hfds:org/pets")
    assert caught.value.hint == "It has extra."
    hub(validation=dataset([0, 1]))
    with pytest.raises(DataError, match="a validation set, but no training set"):
        open_data("hfds:org/pets")
