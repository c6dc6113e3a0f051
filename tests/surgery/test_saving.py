"""What can be written to a file, and how."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MethodType

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.ao.quantization import fuse_modules
from torch.nn.utils import parametrizations, prune
from torchvision.models.resnet import BasicBlock, ResNet, resnet18

import sesurgeon
from sesurgeon import UsageError
from sesurgeon.models import structure_of
from sesurgeon.surgery import blocks_of
from tests.networks import FunctionalResNet, OddNet
from tests.surgery.trained import augmented

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


def test_arrays_of_a_module_in_a_file_come_back(tmp_path: Path) -> None:
    net = resnet18(num_classes=2)
    net.frequencies, net.numbers = np.array([0.3, 0.7]), np.dtype("float32")
    torch.save(net, tmp_path / "net.pt")
    images = torch.randn(2, 3, 32, 32)
    sesurgeon.save(sesurgeon.add_se(sesurgeon.load(tmp_path / "net.pt"), images), tmp_path / "net.se.pt")
    again = sesurgeon.load(tmp_path / "net.se.pt")
    assert (again.frequencies.tolist(), np.dtype(again.numbers)) == ([0.3, 0.7], np.float32)  # type: ignore[union-attr]


def test_fused_float_layers_come_back(tmp_path: Path) -> None:
    net = fuse_modules(resnet18(num_classes=2).eval(), [["conv1", "bn1", "relu"]])
    torch.save(net, tmp_path / "net.pt")
    images = torch.randn(2, 3, 32, 32)
    fused = sesurgeon.add_se(sesurgeon.load(tmp_path / "net.pt"), images).eval()
    sesurgeon.save(fused, tmp_path / "net.se.pt")
    assert torch.equal(sesurgeon.load(tmp_path / "net.se.pt")(images), fused(images))


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


def with_dropout(net: nn.Module) -> None:
    net.fc = nn.Sequential(nn.Dropout(0.2), nn.Linear(22, 3))


def without_head(net: nn.Module) -> None:
    net.fc = nn.Identity()


def pruned(net: nn.Module) -> None:
    prune.l1_unstructured(net.get_submodule("stem"), "weight", 0.3)


def with_buffer(net: nn.Module) -> None:
    net.register_buffer("mean", torch.zeros(3))


def with_another_activation(net: nn.Module) -> None:
    net.get_submodule("shared").act = nn.GELU()


@pytest.mark.parametrize("change", [with_dropout, without_head, pruned, with_buffer, with_another_activation])
def test_an_own_network_that_was_changed_after_surgery_comes_back(
    change: Callable[[nn.Module], None], tmp_path: Path
) -> None:
    net = augmented(OddNet())
    change(net)
    net.eval()
    sesurgeon.save(net, tmp_path / "net.se.pt")
    again = sesurgeon.load(tmp_path / "net.se.pt", trust_pickle=True)
    assert torch.equal(again(SMALL), net(SMALL))
    assert blocks_of(again).keys() == blocks_of(net).keys()


def test_pruning_that_was_made_permanent_after_surgery_comes_back(tmp_path: Path) -> None:
    net = sesurgeon.load("torchvision:shufflenet_v2_x0_5")
    prune.l1_unstructured(net.get_submodule("conv1.0"), "weight", 0.3)
    net = sesurgeon.add_se(net, torch.randn(2, 3, 64, 64), stages=[5])
    prune.remove(net.get_submodule("conv1.0"), "weight")
    sesurgeon.save(net, tmp_path / "net.se.pt")
    again = sesurgeon.load(tmp_path / "net.se.pt")
    assert torch.equal(again.get_parameter("conv1.0.weight"), net.get_parameter("conv1.0.weight"))


def test_a_network_without_place_for_its_blocks_is_not_saved(tmp_path: Path) -> None:
    net = sesurgeon.add_se(nn.Sequential(nn.Conv2d(3, 8, 3), BasicBlock(8, 8)), SMALL)
    net[1].conv1 = net[1].conv2 = nn.Identity()
    with pytest.raises(UsageError, match=r"there is no place 1:residual any more"):
        sesurgeon.save(net, tmp_path / "net.se.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_rate_that_was_set_by_hand_comes_back(tmp_path: Path) -> None:
    net = sesurgeon.load("timm:resnet10t")
    net.drop_rate = 0.5
    sesurgeon.save(net, tmp_path / "net.pt")
    assert sesurgeon.load(tmp_path / "net.pt").drop_rate == 0.5


def test_a_forward_that_was_put_on_a_named_network_comes_back_or_is_refused(tmp_path: Path) -> None:
    net, images = sesurgeon.load("timm:resnet10t"), torch.randn(1, 3, 32, 32)
    net.forward = net.forward_features
    sesurgeon.save(net, tmp_path / "net.pt")
    assert torch.equal(sesurgeon.load(tmp_path / "net.pt", trust_pickle=True)(images), net(images))
    net.forward = MethodType(lambda self, x: self.forward_features(x) * 2, net)
    with pytest.raises(UsageError, match="the model has a forward that its class does not know"):
        sesurgeon.save(net, tmp_path / "other.pt")
    assert not (tmp_path / "other.pt").exists()


def test_the_own_forward_in_a_wrapper_is_no_change(tmp_path: Path) -> None:
    net = sesurgeon.load("timm:resnet10t")
    net.forward = MethodType(torch.autocast("cpu")(type(net).forward), net)  # as accelerate leaves it
    sesurgeon.save(net, tmp_path / "net.pt")
    assert "module" not in torch.load(tmp_path / "net.pt", weights_only=True)


@pytest.mark.parametrize("keep", [True, False])
def test_what_accelerate_leaves_on_a_network_is_not_embedded(
    accelerator: Accelerator, tmp_path: Path, keep: bool
) -> None:
    net = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=4).eval()  # by no name
    prepared = accelerator.unwrap_model(accelerator.prepare_model(net), keep_fp32_wrapper=keep)
    assert "forward" in vars(prepared)
    sesurgeon.save(prepared, tmp_path / "net.pt")
    assert "forward" in vars(prepared)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(sesurgeon.load(tmp_path / "net.pt")(images), ResNet.forward(net, images))


class Taught(nn.Module):
    """It has forwards of its own and of another network under other names, and keeps a result."""

    def __init__(self, teacher: Taught | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.run = self.forward
        self.teach = None if teacher is None else teacher.forward
        self.last = 0.0

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        self.last = y.mean().item()
        return y


def test_forwards_under_other_names_are_kept_and_results_are_no_change(tmp_path: Path) -> None:
    teacher, net = Taught(), Taught(Taught())
    net.teach = teacher.forward
    before = structure_of(net)
    net(SMALL)
    assert structure_of(net) == before
    sesurgeon.save(net, tmp_path / "net.pt")
    again = sesurgeon.load(tmp_path / "net.pt", trust_pickle=True)
    assert torch.equal(again.run(SMALL), net(SMALL))
    assert torch.equal(again.teach(SMALL), teacher(SMALL))


def test_where_processes_train_together_nothing_is_run_to_save(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    net = nn.SyncBatchNorm.convert_sync_batchnorm(augmented(OddNet())).eval()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(OddNet, "forward", lambda *_: pytest.fail("other processes would be waited for"))
    sesurgeon.save(net, tmp_path / "net.se.pt")
    monkeypatch.undo()
    again = sesurgeon.load(tmp_path / "net.se.pt", trust_pickle=True)
    assert blocks_of(again).keys() == blocks_of(net).keys()
