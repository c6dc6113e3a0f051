from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path

import pytest
import torch
from torchvision.models import ResNet18_Weights

from sesurgeon.errors import DataError, UsageError
from sesurgeon.finetune import open_data

SYSTEM_COPY = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist


@pytest.fixture(scope="module")
def fashion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not SYSTEM_COPY.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    root = tmp_path_factory.mktemp("datasets")
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for packed in SYSTEM_COPY.glob("*.gz"):
        (raw / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
    return root


def test_fashion_mnist_by_name(fashion: Path) -> None:
    data = open_data("torchvision:FashionMNIST", data_dir=fashion)
    assert (len(data.split("train")), len(data.val)) == (60_000, 10_000)
    assert data.classes[0] == "T-shirt/top"
    image, label = data.val[0]
    assert (image.mode, image.size, label) == ("L", (28, 28), 9)


def test_only_the_needed_part_is_opened(fashion: Path) -> None:
    data = open_data("torchvision:FashionMNIST", data_dir=fashion, training=False)
    assert data.train is None
    with pytest.raises(DataError, match="no split 'train'"):
        data.split("train")


def test_a_dataset_that_is_not_there_points_to_download(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not in") as caught:
        open_data("torchvision:CIFAR10", data_dir=tmp_path)
    assert "download=True" not in caught.value.message
    assert "--download" in (caught.value.hint or "")


def test_a_damaged_file_is_to_be_deleted_before_it_is_fetched(fashion: Path, tmp_path: Path) -> None:
    shutil.copytree(fashion, tmp_path, dirs_exist_ok=True)
    os.truncate(tmp_path / "FashionMNIST" / "raw" / "t10k-images-idx3-ubyte", 1000)
    for download in (False, True):
        with pytest.raises(DataError, match="is invalid for input of size") as caught:
            open_data("torchvision:FashionMNIST", data_dir=tmp_path, training=False, download=download)
        assert "delete it first" in (caught.value.hint or "")


def test_a_damaged_list_of_images_does_not_pass_for_a_missing_part(tmp_path: Path) -> None:
    (tmp_path / "food-101" / "images").mkdir(parents=True)
    (tmp_path / "food-101" / "meta").mkdir()
    for part in ("train", "test"):
        (tmp_path / "food-101" / "meta" / f"{part}.json").write_text('{"apple_pie": ["apple')
    with pytest.raises(DataError, match="or is damaged: Unterminated string"):
        open_data("torchvision:Food101", data_dir=tmp_path)


def test_a_failed_download_is_a_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", no_network)
    with pytest.raises(DataError, match=r"could not be fetched.*Name or service not known"):
        open_data("torchvision:CIFAR10", data_dir=tmp_path, download=True)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        open_data("torchvision:FashionMNST")
    assert "FashionMNIST" in (caught.value.hint or "")


def test_a_dataset_without_single_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="CocoDetection"):
        open_data("torchvision:CocoDetection", data_dir=tmp_path)


@pytest.mark.parametrize("labels", [{}, {"targets": [["label/1.txt"]]}, {"targets": ["cat.txt"]}, {"targets": []}])
def test_a_dataset_that_tells_no_classes_is_refused(
    labels: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CelebA:
        def __init__(self, root: str, split: str = "train", download: bool = False) -> None:
            vars(self).update(labels)

        def __len__(self) -> int:
            return 3

    monkeypatch.setattr("torchvision.datasets.CelebA", CelebA)
    with pytest.raises(UsageError, match="'CelebA' has no training and validation part with one class per image"):
        open_data("torchvision:CelebA", data_dir=tmp_path)


def test_parts_by_split_name_and_classes_from_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class SVHN:
        def __init__(self, root: str, split: str = "train", download: bool = False) -> None:
            if split not in ("train", "test"):
                raise ValueError(f"Unknown value '{split}' for argument split. Valid values are {{'train', 'test'}}.")
            self.part = split
            self.labels = torch.tensor([1, 0, 3]).numpy()

        def __len__(self) -> int:
            return 3

    monkeypatch.setattr("torchvision.datasets.SVHN", SVHN)
    data = open_data("torchvision:SVHN", data_dir=tmp_path)
    assert [getattr(images, "part", None) for images in (data.train, data.val)] == ["train", "test"]
    assert data.classes == ("0", "1", "2", "3")


@pytest.mark.parametrize("whole", [False, True])
def test_imagenet_has_the_class_names_of_its_published_networks(
    whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = tuple(ResNet18_Weights.DEFAULT.meta["categories"])
    synonyms = {"crane bird": ("crane",), "maillot tank suit": ("maillot", "tank suit")}
    listed = [synonyms.get(name, (name, "another name")) for name in published]

    class ImageNet:
        def __init__(self, root: str, split: str = "train") -> None:
            self.classes = listed if whole else listed[:3]

        def __len__(self) -> int:
            return 3

    monkeypatch.setattr("torchvision.datasets.ImageNet", ImageNet)
    data = open_data("torchvision:ImageNet", data_dir=tmp_path)
    assert data.classes == (published if whole else ("tench", "goldfish", "great white shark"))
