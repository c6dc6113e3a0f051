"""Networks whose top-level forward no graph can hold: they are operated on inside, in both modes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.models.quantization import resnet18

import sesurgeon
from sesurgeon.blocks import BlockConfig
from sesurgeon.errors import NoSiteError, UsageError, VerificationError
from sesurgeon.graph import same, survey
from sesurgeon.models import isolated
from sesurgeon.surgery import apply_plan, blocks_of, operate, prove_identity
from tests.detectors import KINDS, detector, objects_in
from tests.networks import ResidualBlock


def outputs(model: nn.Module, inputs: tuple[Any, ...], *, training: bool) -> Any:
    with isolated(model, training=training):
        return model(*inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_detector_is_proved_in_eval_and_in_train_mode_without_any_inputs_given(kind: str) -> None:
    model = detector(kind)
    keys = list(model.state_dict())
    surgery = operate(model, BlockConfig())
    assert (surgery.proof.in_eval, surgery.proof.in_train, surgery.proof.note) == (True, True, "")
    assert "backbone.1.se" in blocks_of(surgery.model)
    assert [key for key in surgery.model.state_dict() if ".se." not in key] == keys
    assert type(surgery.model).__qualname__ == type(model).__qualname__
    assert surgery.survey.site("backbone.1:residual").stage == 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_targets_are_what_the_network_learns_from(kind: str) -> None:
    found = survey(detector(kind))
    images, targets = found.inputs_in(training=True)
    wanted = {"boxes", "labels"} | {"mask": {"masks"}, "keypoint": {"keypoints"}}.get(kind, set())
    assert [set(target) for target in targets] == [wanted, wanted]
    losses = found.graphs[True].outputs
    assert all(loss.isfinite() for loss in losses.values())
    assert all(loss > 0 for name, loss in losses.items() if "mask" in name or "keypoint" in name)
    assert torch.equal(images[0], found.inputs[0][0])


def test_both_modes_of_a_loaded_checkpoint_are_right(tmp_path: Path) -> None:
    model = detector("faster")
    augmented = sesurgeon.add_se(model)
    sesurgeon.save(augmented, tmp_path / "net.se.pt")
    loaded = sesurgeon.load(tmp_path / "net.se.pt", trust_pickle=True)
    images = [torch.rand(3, 40, 48), torch.rand(3, 32, 32)]
    assert same(outputs(loaded, (images,), training=False), outputs(model, (images,), training=False))
    learning = (images, objects_in(images))
    # the dropout of the residual block draws: a graph of eval mode would give other losses
    assert same(outputs(loaded, learning, training=True), outputs(model, learning, training=True))


def test_every_block_learns_from_the_losses_of_a_detector() -> None:
    augmented = sesurgeon.add_se(detector("mask")).train()
    found = survey(detector("mask"))
    optimiser = torch.optim.SGD(augmented.parameters(), 1e-3)
    for _ in range(2):
        optimiser.zero_grad()
        sum(augmented(*found.inputs_in(training=True)).values()).backward()
        optimiser.step()
    for block in blocks_of(augmented).values():
        assert all(parameter.grad.abs().sum() > 0 for parameter in block.parameters())


@pytest.mark.parametrize("inplace", [False, True])
def test_boxes_that_are_not_there_prove_nothing_so_the_parts_of_a_detector_are_compared(inplace: bool) -> None:
    model = detector("retina")
    model.score_thresh = 2.0  # finds nothing
    found = survey(model)
    assert all(len(image["boxes"]) == 0 for image in found.graphs[False].outputs)
    augmented = apply_plan(model, sesurgeon.make_plan(model), inplace=inplace)
    assert prove_identity(augmented, found).in_eval is True
    augmented.backbone[1].se.fc2.bias.data += 0.1
    with pytest.raises(VerificationError, match="the outputs in eval and train mode are not the ones before"):
        prove_identity(augmented, found)
    assert not any(module._forward_hooks for module in augmented.modules())


def test_the_users_own_targets_are_used_in_train_mode_alone() -> None:
    images = [torch.rand(3, 40, 48)]
    targets = objects_in(images)
    found = survey(detector("faster"), (images, targets))
    assert len(found.inputs) == 1
    assert found.inputs_in(training=True)[1] is targets
    assert found.train_failure is None


def test_the_only_class_of_a_network_can_be_class_0() -> None:
    found = survey(detector("retina", classes=1))
    assert found.train_failure is None
    assert found.inputs_in(training=True)[1][0]["labels"].tolist() == [0, 0]


def test_images_in_one_tensor_are_stretched_by_the_detector_and_stages_are_counted_behind_that() -> None:
    found = survey(detector("faster"), torch.rand(2, 3, 16, 16))
    assert found.site("backbone.1:residual").spatial == (8, 8)
    assert found.site("backbone.1:residual").stride == 4


def test_a_detector_is_left_as_it_was() -> None:
    model = detector("keypoint")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attributes = {path: dict(vars(module)) for path, module in model.named_modules()}
    survey(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert {path: dict(vars(module)) for path, module in model.named_modules()} == attributes


class WantsTargets(nn.Module):
    """A home-made detector: what its targets are, only its author knows."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 4, 1)
        self.body = ResidualBlock(8)

    def forward(self, x: Tensor, targets: Tensor | None = None) -> Tensor:
        x = self.body(self.stem(x)).mean((2, 3))
        if self.training:
            if targets is None:
                raise ValueError("targets are needed in train mode")
            return (x - targets).square().mean()
        return x


def test_where_train_mode_wants_what_only_the_user_knows_the_proof_says_so() -> None:
    surgery = operate(WantsTargets(), BlockConfig())
    assert surgery.proof.in_eval is True
    assert surgery.proof.in_train is None
    assert "targets are needed in train mode" in surgery.proof.note
    assert surgery.survey.inputs_in(training=True) is surgery.survey.inputs
    given = operate(WantsTargets(), BlockConfig(), example_inputs=(torch.rand(2, 3, 16, 16), torch.rand(2, 8)))
    assert given.proof.in_train is True


def test_a_transformer_is_told_that_it_has_no_convolutional_site() -> None:
    model = VisionTransformer(32, 8, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5)
    with pytest.raises(NoSiteError, match=r"no convolutional site: it is a transformer, .*\(conv_proj\)") as caught:
        survey(model)
    assert caught.value.exit_code == 4


@pytest.mark.filterwarnings("ignore")  # torch announces the end of such layers, once a process
def test_quantised_layers_are_refused_before_the_network_runs() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), torch.ao.nn.quantized.dynamic.Linear(4, 2))
    with pytest.raises(UsageError, match=r"is quantised or made for it \(2 is a Linear of torch.ao.nn.quantized"):
        survey(model)
    with pytest.raises(UsageError, match=r"QuantizableResNet is quantised or made for it \(it is a QuantizableResNet"):
        survey(resnet18(weights=None, quantize=False))
