"""The weights of a network with plain gates, as a file for other code."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sesurgeon import OutputError, UsageError, fold_gate_scale
from sesurgeon.export import export_plain
from sesurgeon.surgery import blocks_of
from tests.networks import OddNet, PlainNet
from tests.surgery.trained import augmented


def read(path: Path) -> dict[str, Tensor]:
    content: dict[str, Tensor]
    content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    return content


@pytest.mark.parametrize("name", ["net.pth", "net.pt", "net.safetensors"])
def test_the_file_holds_the_folded_weights(name: str, tmp_path: Path) -> None:
    model = augmented(PlainNet())
    before = copy.deepcopy(model.state_dict())
    report = export_plain(model, tmp_path / name)
    content, expected = read(tmp_path / name), fold_gate_scale(model).state_dict()
    assert set(content) == set(expected)
    assert all(torch.equal(content[key], value) for key, value in expected.items())
    assert (report.path, report.tensors, report.size) == (
        tmp_path / name,
        len(expected),
        (tmp_path / name).stat().st_size,
    )
    assert report.folding.folded == ("2.se", "5.se")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(block.gate_scale == 2 for block in blocks_of(model).values())


def test_the_file_keeps_the_versions_of_modules(tmp_path: Path) -> None:
    export_plain(augmented(PlainNet()), tmp_path / "net.pth")
    content = read(tmp_path / "net.pth")
    nn.Sequential(*PlainNet()).load_state_dict({name: content[name] for name in PlainNet().state_dict()})
    with pytest.raises(RuntimeError, match="gate"):  # the 2 would be in the norm, and in the gate again
        augmented(PlainNet()).load_state_dict(content)


def test_what_keeps_its_factor_is_reported(tmp_path: Path) -> None:
    report = export_plain(augmented(OddNet()), tmp_path / "net.pth")
    assert [item.path for item in report.folding.left] == ["mixed.se"]
    assert len(report.folding.folded) == 4


def test_tensors_that_share_memory_are_written_one_by_one(tmp_path: Path) -> None:
    net = PlainNet()
    net[8].register_buffer("view", net[8].weight.detach()[:2].t())
    export_plain(net, tmp_path / "net.safetensors")
    assert torch.equal(load_file(tmp_path / "net.safetensors")["8.view"], net[8].weight[:2].t())


class WithExtraState(nn.Conv2d):
    def get_extra_state(self) -> str:
        return "more"

    def set_extra_state(self, state: object) -> None:
        pass


@pytest.mark.parametrize(
    ("net", "name", "message"),
    [
        (PlainNet(), "net.bin", r"net\.bin does not say in which format"),
        (PlainNet(), "net", r"net does not say in which format"),
        (nn.Sequential(WithExtraState(3, 3, 1)), "net.pth", r"holds more than tensors: 0\._extra_state"),
    ],
)
def test_what_cannot_be_written_is_refused(net: nn.Module, name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        export_plain(net, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_nothing_is_replaced_without_force(tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already"):
        export_plain(PlainNet(), tmp_path / "net.pth", force=False)
    assert (tmp_path / "net.pth").read_bytes() == b"mine"
