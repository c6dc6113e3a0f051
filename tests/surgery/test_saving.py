"""What can be written to a file, and how."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import sesurgeon
from sesurgeon import UsageError
from tests.networks import FunctionalResNet

SMALL = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_a_network_around_an_augmented_one_is_not_saved_without_its_plan(tmp_path: Path) -> None:
    inner = sesurgeon.add_se(FunctionalResNet(), example_inputs=SMALL)
    outer = nn.Sequential(inner, nn.Linear(5, 2))
    with pytest.raises(
        UsageError, match=r"blocks \(0\.se…\) but no plan.*\n.*Call it for the augmented network inside"
    ):
        sesurgeon.save(outer, tmp_path / "outer.se.pt")
    assert list(tmp_path.iterdir()) == []
    sesurgeon.save(inner, tmp_path / "inner.se.pt")
    assert (tmp_path / "inner.se.pt").exists()


@pytest.mark.parametrize("name", ["net.safetensors", "net.onnx", "net.pt2"])
def test_a_checkpoint_does_not_pass_for_another_file(tmp_path: Path, name: str) -> None:
    net = sesurgeon.add_se(FunctionalResNet(), example_inputs=SMALL)
    with pytest.raises(UsageError, match="cannot be the name of a checkpoint"):
        sesurgeon.save(net, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_parametrized_modules_without_a_name_are_refused(tmp_path: Path) -> None:
    net = FunctionalResNet()
    parametrizations.weight_norm(net.get_submodule("c0"))
    with pytest.raises(UsageError, match="modules with parametrizations never can"):
        sesurgeon.save(sesurgeon.add_se(net, example_inputs=SMALL), tmp_path / "net.se.pt")
    assert list(tmp_path.iterdir()) == []


def test_buffers_that_are_in_no_state_dict_come_back_in_half_precision(tmp_path: Path) -> None:
    images = torch.randn(2, 3, 64, 64).half()
    net = sesurgeon.add_se(sesurgeon.load("timm:resnetblur18").half(), example_inputs=images)
    sesurgeon.save(net, tmp_path / "net.se.pt")
    again = sesurgeon.load(tmp_path / "net.se.pt")
    assert {buffer.dtype for name, buffer in again.named_buffers() if name.endswith("filt")} == {torch.float16}
    with torch.no_grad():
        assert torch.equal(again(images), net.eval()(images))


class Keeps(nn.Module):
    """Looks at its scores later."""

    def __init__(self) -> None:
        super().__init__()
        self.net = FunctionalResNet()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.scores = [self.net(x)]
        return self.scores[0]


def results_in_attributes() -> list[nn.Module]:
    normed = FunctionalResNet()
    torch.nn.utils.weight_norm(normed.get_submodule("c0"))  # its weight is computed from others
    keeps = Keeps()
    keeps(SMALL)
    return [normed, keeps]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("number", [0, 1])
def test_networks_that_hold_results_of_computations_are_copied(number: int) -> None:
    net = results_in_attributes()[number].eval()
    expected = net(SMALL)
    augmented = sesurgeon.add_se(net, example_inputs=SMALL)
    assert torch.equal(augmented.eval()(SMALL), expected)
    folded = sesurgeon.fold_gate_scale(augmented)
    assert torch.equal(folded(SMALL), expected)
    assert torch.equal(sesurgeon.remove_se(folded)(SMALL), expected)


class Rotates(FunctionalResNet):
    """Has a complex buffer that is in no state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("turn", torch.polar(torch.ones(1), torch.ones(1)), persistent=False)


def rotates() -> nn.Module:
    return Rotates()


def test_complex_and_double_buffers_stay(tmp_path: Path) -> None:
    name = f"factory:{__name__}:rotates"
    sesurgeon.save(sesurgeon.add_se(sesurgeon.load(name), example_inputs=SMALL), tmp_path / "net.se.pt")
    assert sesurgeon.load(tmp_path / "net.se.pt", arch=name).get_buffer("turn").dtype == torch.complex64


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_networks_that_hold_results_of_computations_are_exported(tmp_path: Path) -> None:
    augmented = sesurgeon.add_se(results_in_attributes()[0], example_inputs=SMALL)
    sesurgeon.export_onnx(augmented, tmp_path / "net.onnx", example_inputs=SMALL)
    assert (tmp_path / "net.onnx").exists()
