from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import sesurgeon
from sesurgeon import OutputError, UnreadableFileError, UnsafeFileError, UsageError
from sesurgeon.models import Preprocessing, Provenance, Source, attach_provenance, provenance_of
from sesurgeon.surgery import blocks_of, plan_of
from tests.networks import OddNet, trained_like

IMAGES = torch.randn(2, 3, 64, 64)


def augmented_shufflenet() -> nn.Module:
    model = sesurgeon.load("torchvision:shufflenet_v2_x0_5")
    augmented = sesurgeon.add_se(trained_like(model), example_inputs=IMAGES, stages=[5])
    for block in blocks_of(augmented).values():
        nn.init.normal_(block.get_parameter("fc2.weight"))
    return augmented.eval()


def test_a_named_network_comes_back_whole(tmp_path: Path) -> None:
    augmented = augmented_shufflenet()
    facts = replace(
        provenance_of(augmented),
        classes=tuple(f"class {index}" for index in range(1000)),
        preprocessing=Preprocessing((3, 64, 64), (0.1, 0.2, 0.3), (1.0, 1.0, 1.0)),
        history=({"command": "test", "top1": 0.5},),
    )
    attach_provenance(augmented, facts)
    sesurgeon.save(augmented, tmp_path / "net.se.pt")
    again = sesurgeon.load(tmp_path / "net.se.pt")
    assert provenance_of(again) == facts
    assert plan_of(again) == plan_of(augmented)
    assert list(again.state_dict()) == list(augmented.state_dict())
    assert not again.training
    assert torch.equal(again(IMAGES), augmented(IMAGES))


def test_the_file_holds_plain_data_and_tensors_only(tmp_path: Path) -> None:
    sesurgeon.save(augmented_shufflenet(), tmp_path / "net.se.pt")
    content = torch.load(tmp_path / "net.se.pt", weights_only=True)
    assert set(content) == {"sesurgeon", "state_dict"}


@pytest.mark.parametrize("mapped", [False, True])
def test_a_loaded_file_can_be_replaced_and_written_over_if_it_is_not_mapped(mapped: bool, tmp_path: Path) -> None:
    path, augmented = tmp_path / "net.se.pt", augmented_shufflenet()
    sesurgeon.save(augmented, path)
    again = sesurgeon.load(path, mapped=mapped)
    if not mapped:
        path.write_bytes(bytes(path.stat().st_size))
    sesurgeon.save(again, path)
    assert torch.equal(again(IMAGES), augmented(IMAGES))
    assert torch.equal(sesurgeon.load(path)(IMAGES), augmented(IMAGES))


def test_a_whole_module_of_known_classes_is_embedded_once_and_loads_safely(tmp_path: Path) -> None:
    model = timm.create_model("resnet10t", num_classes=3)
    model.conv1[0] = nn.Conv2d(3, 24, 3, 1, 1, bias=False)  # no name can rebuild it now
    torch.save(model, tmp_path / "net.pt")
    augmented = sesurgeon.add_se(sesurgeon.load(tmp_path / "net.pt"), example_inputs=IMAGES).eval()
    sesurgeon.save(augmented, tmp_path / "net.se.pt")
    again = sesurgeon.load(tmp_path / "net.se.pt")
    assert torch.equal(again(IMAGES), augmented(IMAGES))
    assert isinstance(again, type(model))
    added = sum(p.numel() for block in blocks_of(augmented).values() for p in block.parameters()) * 4
    assert (tmp_path / "net.se.pt").stat().st_size < (tmp_path / "net.pt").stat().st_size + added + 200_000


def test_a_module_of_the_users_own_class_needs_trust(tmp_path: Path) -> None:
    augmented = sesurgeon.add_se(OddNet(), example_inputs=torch.randn(2, 3, 16, 16)).eval()
    sesurgeon.save(augmented, tmp_path / "odd.se.pt")
    with pytest.raises(UnsafeFileError, match=r"tests\.networks\.OddNet"):
        sesurgeon.load(tmp_path / "odd.se.pt")
    again = sesurgeon.load(tmp_path / "odd.se.pt", trust_pickle=True)
    images = torch.randn(3, 3, 16, 16)
    assert torch.equal(again(images), augmented(images))


def make_odd() -> OddNet:
    """With another head than the network in the file."""
    net = OddNet()
    net.fc = nn.Linear(net.fc.in_features, 7)
    return net


def test_a_module_of_the_users_own_class_is_built_by_what_is_typed(tmp_path: Path) -> None:
    path, images = tmp_path / "odd.se.pt", torch.randn(3, 3, 16, 16)
    augmented = sesurgeon.add_se(trained_like(OddNet()), example_inputs=images).eval()
    outputs = augmented(images).shape[1]
    facts = Provenance(Source("module"), classes=tuple(map(str, range(outputs))), history=({"command": "test"},))
    attach_provenance(augmented, facts)
    sesurgeon.save(augmented, path)
    with pytest.raises(UnsafeFileError, match="--arch factory:pkg") as refused:
        sesurgeon.load(path)
    assert "no name builds" in (refused.value.hint or "")
    for factory in ("tests.networks:OddNet", "tests.surgery.test_checkpoint:make_odd"):
        again = sesurgeon.load(path, arch=f"factory:{factory}")
        assert torch.equal(again(images), augmented(images))
        assert provenance_of(again).classes == facts.classes
        assert provenance_of(again).history == facts.history
        assert plan_of(again) == plan_of(augmented)
    with pytest.raises(UsageError, match="Identity"):
        sesurgeon.load(path, arch="factory:torch.nn:Identity")


class Versioned(nn.Sequential):
    """Stores its scale in another way since its second version, and something beside its tensors."""

    _version = 2

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 4))
        self.scale = nn.Parameter(torch.ones(1))
        self.extra: object = None

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale

    def get_extra_state(self) -> object:
        return self.extra

    def set_extra_state(self, state: object) -> None:
        self.extra = state

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, *others: Any) -> None:
        if metadata.get("version", 1) < 2:
            state[f"{prefix}scale"] = state[f"{prefix}scale"].exp()
        super()._load_from_state_dict(state, prefix, metadata, *others)


def test_versions_and_extra_state_go_along_without_trust(tmp_path: Path) -> None:
    path, images, net = tmp_path / "net.se.pt", torch.randn(2, 3, 8, 8), Versioned()
    net.extra = {"t": [1, "two"]}
    sesurgeon.save(sesurgeon.add_se(net, images, policy="conv"), path)
    for mapped in (False, True):
        again = sesurgeon.load(path, arch="factory:tests.surgery.test_checkpoint:Versioned", mapped=mapped)
        assert torch.equal(again(images), net.eval()(images))
        assert again.extra == net.extra


def test_what_would_be_passed_over_is_refused(tmp_path: Path) -> None:
    net = Versioned()
    attach_provenance(net, Provenance(Source("module"), history=({"command": "mine", "at": tmp_path},)))
    sesurgeon.save(net, tmp_path / "net.pt")
    with pytest.raises(UnsafeFileError, match="Versioned"):
        sesurgeon.load(tmp_path / "net.pt", arch="factory:tests.surgery.test_checkpoint:Versioned")


def test_a_factory_named_in_a_file_is_not_imported_unasked(tmp_path: Path) -> None:
    source = Source("factory", "tests.networks:OddNet")
    augmented = sesurgeon.add_se(OddNet(), example_inputs=torch.randn(2, 3, 16, 16)).eval()
    attach_provenance(augmented, Provenance(source))
    sesurgeon.save(augmented, tmp_path / "odd.se.pt")
    with pytest.raises(UnsafeFileError, match="asks to import and run"):
        sesurgeon.load(tmp_path / "odd.se.pt")
    images = torch.randn(3, 3, 16, 16)
    again = sesurgeon.load(tmp_path / "odd.se.pt", arch="factory:tests.networks:OddNet")
    assert torch.equal(again(images), augmented(images))


def test_a_plain_network_is_kept_too_with_its_new_head(tmp_path: Path) -> None:
    model = sesurgeon.load("torchvision:shufflenet_v2_x0_5", num_classes=4)
    sesurgeon.save(model, tmp_path / "net.pt")
    again = sesurgeon.load(tmp_path / "net.pt")
    assert again(IMAGES).shape == (2, 4)
    assert torch.equal(again(IMAGES), model(IMAGES))
    assert plan_of(again) is None


def test_names_of_classes_that_a_new_head_has_not_are_left_out(tmp_path: Path) -> None:
    model = sesurgeon.load("torchvision:shufflenet_v2_x0_5", num_classes=3)
    attach_provenance(model, replace(provenance_of(model), num_classes=3, classes=("cat", "dog", "owl")))
    model.set_submodule("fc", nn.Linear(1024, 2))
    sesurgeon.save(model, tmp_path / "net.pt")
    kept = provenance_of(sesurgeon.load(tmp_path / "net.pt"))
    assert (kept.num_classes, kept.classes) == (2, None)


def test_nothing_is_replaced_without_force_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = torchvision.models.shufflenet_v2_x0_5()
    path = tmp_path / "net.se.pt"
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already"):
        sesurgeon.save(model, path, force=False)

    def full(content: object, file: Path) -> None:
        file.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 320 vs 256")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match="disk may be full"):
        sesurgeon.save(model, path)
    assert path.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [path]


def test_other_formats_and_other_weights_are_named(tmp_path: Path) -> None:
    augmented = augmented_shufflenet()
    sesurgeon.save(augmented, tmp_path / "net.se.pt")
    content = torch.load(tmp_path / "net.se.pt", weights_only=True)
    torch.save({**content, "sesurgeon": {**content["sesurgeon"], "format": 99}}, tmp_path / "new.se.pt")
    with pytest.raises(UnreadableFileError, match="format 99"):
        sesurgeon.load(tmp_path / "new.se.pt")
    header = content["sesurgeon"]
    endless = {**header, "provenance": {**header["provenance"], "num_classes": float("inf")}}
    torch.save({**content, "sesurgeon": endless}, tmp_path / "odd.se.pt")
    with pytest.raises(UnreadableFileError, match="damaged"):
        sesurgeon.load(tmp_path / "odd.se.pt")
    content["state_dict"].popitem()
    torch.save(content, tmp_path / "torn.se.pt")
    with pytest.raises(UnreadableFileError, match="do not fit"):
        sesurgeon.load(tmp_path / "torn.se.pt")
